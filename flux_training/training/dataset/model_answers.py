"""What vision models write around a caption, and what they write instead of one. Pure: no network, no files.

The forms come from public bug reports; docs/decisions/0032-real-inputs.md lists them.
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from flux_training.training.dataset.answers import patterns
from flux_training.training.dataset.answers.absence import (
    is_beside_the_scene,
    is_of_the_scene,
    precedes_absence,
    without_absences,
)
from flux_training.training.dataset.answers.bullets import joined_bullets
from flux_training.training.dataset.answers.documents import from_json, parsed
from flux_training.training.dataset.answers.loops import is_loop
from flux_training.training.dataset.answers.noise import (
    has_few_letters,
    has_no_words,
    has_random_words,
    is_garbled,
)
from flux_training.training.dataset.answers.openings import without_opening
from flux_training.training.dataset.answers.parts import (
    from_transcript,
    in_english,
    repeats_prompt,
    without_prompt,
)
from flux_training.training.dataset.answers.quotes import without_escaped_quotes, without_quotes
from flux_training.training.dataset.answers.words import (
    begins_with_a_thing,
    count_words,
    describes_a_scene,
    describes_well,
    discusses_rather_than_describes,
    finds_the_image_too_poor,
    is_about_the_task,
    is_remark,
    names_writing,
    negates,
    only_judges,
    says_that_there_is_no_image,
    says_what_is_absent,
    states_a_fact,
)

QUOTES = "\"“”„«»「」'`* "
# Documents and fenced blocks begin with these.
PARSED = ("{", "[", '"', "`")
# Longer texts are no captions: a text encoder reads about 2,000 characters.
MAX_CHARACTERS = 10_000
# The maximum length of an answer, including reasoning, in characters.
MAX_ANSWER = 30_000
# The first Thai letter. Most scripts from here on have no spaces between words.
FIRST_WITHOUT_SPACES = "\u0e00"
MIN_LABELS = 2
# With fewer words than this beside the positions of objects, the words are only the names of the objects.
MIN_WORDS_BESIDE_PLACES = 4
MIN_SENTENCES = 2
MAX_WORDS_OF_AN_ANNOUNCEMENT = 10
MIN_LOWER_LABELS = 3
SHOWN = 80
Step = Callable[[str], str]
Steps = tuple[tuple[str, Step], ...]


@dataclass(frozen=True)
class CleanedAnswer:
    """An answer on one line, and what was removed from around the caption."""

    text: str
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotACaption:
    """Why a text is no caption. `hopeless`: the model has not got the image, or describes nothing, and would not do better with others."""

    reason: str
    hopeless: bool = False


def clean_answer(answer: str, requests: tuple[str, ...] = (), prefers_english: bool = False) -> CleanedAnswer:
    """The caption in a model's answer, which may be empty. Only what is certainly no part of it is removed.

    `requests`: what the model may have been asked. `prefers_english`: of a caption in two languages, the English one is taken.
    """
    if len(answer) > MAX_ANSWER:
        return CleanedAnswer(one_line(answer[:MAX_ANSWER]))
    text = answer.replace("\u2019", "'").replace("\r\n", "\n").strip()
    removed: list[str] = []
    for name, step in _steps_for(requests, prefers_english):
        cleaned = step(text).strip()
        if cleaned != text:
            removed.append(name)
            text = cleaned
    return CleanedAnswer(without_quotes(one_line(text)), tuple(dict.fromkeys(removed)))


def is_ended(text: str, answer: CleanedAnswer, requests: tuple[str, ...] = ()) -> bool:
    """Whether a model ended its answer with a token although the server took more, such as the same token again."""
    stops = list(patterns.STOP_TOKENS.finditer(text))
    is_whole = bool(stops) and (
        stops[-1].end() == len(text.rstrip())
        or clean_answer(text[: stops[0].start()], requests).text == answer.text
    )
    return is_whole and bool(answer.text)


def _steps_for(requests: tuple[str, ...], prefers_english: bool) -> Steps:
    """The steps of cleaning an answer to one of these requests."""
    prompt: Steps = (("the repeated prompt", partial(without_prompt, requests=requests)),) if requests else ()
    english: Steps = (("another language", in_english),) if prefers_english else ()
    return (*READING_STEPS, *prompt, *CHAT_STEPS, *prompt, *DOCUMENT_STEPS, *english, *TEXT_STEPS)


def find_fault(text: str, *requests: str) -> NotACaption | None:
    """Why a cleaned answer is no caption; None if it may be one. `requests`: what the model may have been asked."""
    plain = text.replace("\u2019", "'")
    # Quoted text stands in the picture, so it does not show that the model failed.
    unquoted = patterns.QUOTED.sub(" ", plain)
    if not plain.strip():
        return NotACaption("the answer is empty")
    if has_no_words(plain):
        return NotACaption(f"the answer has no words: {_start(plain)}")
    if is_garbled(plain):
        return NotACaption(f"{NOISE}: {_start(plain)}", hopeless=True)
    if patterns.NO_IMAGE.search(unquoted):
        return NotACaption(f"the model says that it sees no image: {_start(plain)}", hopeless=True)
    if patterns.REFUSAL.match(unquoted.lstrip()):
        return NotACaption(f"refused: {_start(plain)}")
    for is_wrong, reason in FAULTS:
        if is_wrong(unquoted) and not (reason in OF_WRITING and names_writing(unquoted)):
            return NotACaption(f"{reason}: {_start(plain)}")
    begins = any(request[:SHOWN].casefold() in plain.casefold() for request in requests if request)
    if begins or (requests and repeats_prompt(plain, requests)):
        return NotACaption(f"the answer repeats the prompt: {_start(plain)}")
    return None


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def no_description(text: str, is_edit: bool = False) -> NotACaption | None:
    """Why a text does not describe an image, although it may be the caption that a person writes.

    `is_edit`: the instruction for an edit was asked for, which has few words that describe.
    """
    plain = text.replace("\u2019", "'")
    # In scripts without spaces, words cannot be counted.
    if len(plain.split()) == 1 and all(letter < FIRST_WITHOUT_SPACES for letter in plain):
        return NotACaption(f"the answer is a single word: {_start(plain)}", hopeless=True)
    if says_that_there_is_no_image(plain):
        return NotACaption(f"the model says that it sees no image: {_start(plain)}", hopeless=True)
    if patterns.ENDS_EARLY.search(plain):
        return NotACaption(f"the caption ends in the middle of a sentence: {_end(plain)}")
    unquoted = patterns.QUOTED.sub(" ", plain)
    for is_wrong, reason in NO_DESCRIPTIONS:
        if is_wrong(unquoted) and not (is_edit and is_wrong in NO_EDITS):
            return NotACaption(f"{reason}: {_start(plain)}", hopeless=is_wrong in NO_EDITS)
    return (
        NotACaption(f"the answer is program code: {_start(plain)}") if patterns.CODE.search(plain) else None
    )


def _discusses(text: str) -> bool:
    """Whether a text discusses something, as a whole or with its first or last sentence."""
    text = without_absences(text)
    first, *others = patterns.SENTENCE_BREAK.split(text)
    return any(map(discusses_rather_than_describes, (text, first))) or is_remark(
        others[-1] if others else text
    )


def _is_list_of_parts(text: str) -> bool:
    return (
        len(patterns.LABELS.findall(text)) >= MIN_LABELS
        # "A scoreboard shows home: 3, guest: 1" is a sentence.
        or (not begins_with_a_thing(text) and len(patterns.LOWER_LABELS.findall(text)) >= MIN_LOWER_LABELS)
    )


def _is_beside_caption(paragraph: str) -> bool:
    return patterns.BESIDE_CAPTION.fullmatch(paragraph) is not None or _speaks(paragraph)


def _speaks(text: str) -> bool:
    """Whether a model speaks of itself, or to the person who asked. What the picture's own writing says does not count."""
    unquoted = patterns.QUOTED.sub(" ", text)
    if patterns.FIRST_PERSON.search(unquoted) and describes_well(text) and count_words(text)[0] == 0:
        return False
    if patterns.SPEAKING.search(unquoted):
        return True
    is_scene = names_writing(text) or begins_with_a_thing(text)
    return not is_scene and patterns.ADDRESSED.search(unquoted) is not None


def _start(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN].rstrip() + "…"


def _end(text: str) -> str:
    return text if len(text) <= SHOWN else "…" + text[-SHOWN:].lstrip()


def _without_reasoning(text: str) -> str:
    """What follows the reasoning, or precedes it. Nothing if the reasoning has no end."""
    if patterns.FINAL_CHANNEL.search(text):
        return patterns.FINAL_CHANNEL.split(text)[-1]
    ends = list(patterns.REASONING_CLOSE.finditer(text))
    begin = patterns.REASONING_OPEN.search(text)
    if ends and (after := text[ends[-1].end() :].strip()):
        return after
    return text[: begin.start()] if begin else "" if ends else text


def _from_elements(text: str) -> str:
    """The content of the element that is named like a caption, or what follows other elements."""
    elements = list(patterns.ELEMENT.finditer(text))
    is_first = bool(elements) and elements[0].start() == 0
    if is_first and elements[0].end() == len(text) and elements[0][2].strip().startswith(("{", "<")):
        return _from_elements(elements[0][2].strip())
    for element in elements:
        is_text = is_first and patterns.TEXT_ELEMENT.fullmatch(element[1])
        if element[2].strip() and (is_text or patterns.CAPTION_ELEMENT.fullmatch(element[1])):
            return _from_elements(element[2].strip())
    if is_first and not _is_known_element(elements[0][1]):
        return text[elements[0].end() :].strip() or text
    return text


def _is_known_element(name: str) -> bool:
    is_token = patterns.SPECIAL_TOKEN.fullmatch(f"<{name}>")
    return bool(is_token or patterns.OTHER_ELEMENT.fullmatch(name))


def _without_special_tokens(text: str) -> str:
    original, text = text, patterns.REGIONS.sub("", patterns.LINE_BREAK.sub("\n", text))
    for part in patterns.END_TOKEN.split(text):
        found = patterns.SPECIAL_TOKEN.sub("", part).strip()
        if found and not patterns.ROLE.fullmatch(f"{found}\n"):
            text = part
            break
    words = patterns.SPECIAL_TOKENS.sub(_space_for_tokens, text)
    if (
        words != original
        and patterns.PLACES.search(original)
        and len(words.split()) < MIN_WORDS_BESIDE_PLACES
    ):
        return original
    text = patterns.BOXED.sub(r"\1", patterns.ENVIRONMENT.sub("", words))
    if len(patterns.STORED_SPACE.findall(text)) > 1:
        text = text.replace("▁", " ").strip()
    return patterns.ROLE.sub("", patterns.TURN.split(patterns.LAST_TURN.sub("", text))[-1]).lstrip(
        patterns.AFTER_LABEL
    )


def _space_for_tokens(tokens: re.Match[str]) -> str:
    """What takes the place of tokens: a space if they are all that separates two words."""
    around = tokens.string[max(0, tokens.start() - 1) : tokens.start()] + tokens.string[tokens.end() :][:1]
    is_between = len(around) == 2 and around.isalnum() and not patterns.WITHIN_WORDS.fullmatch(tokens[0])
    return " " if is_between else ""


def _without_escapes(text: str) -> str:
    """With the characters that HTML's entities and written line breaks stand for."""
    if patterns.ENTITY.search(text):
        text = html.unescape(text)
    text = without_escaped_quotes(text)
    if text[:1] == text[-1:] == '"' and "\\" in text and isinstance(document := parsed(text), str):
        return document
    return text if text[:1] in PARSED else patterns.WRITTEN_BREAK.sub("\n", text)


def _without_side_text(text: str) -> str:
    """Without the alt text, tags and keywords on lines behind a caption."""
    match = patterns.SIDE_TEXT.search(text)
    if not match:
        return text
    before = text[: match.start()].rstrip()
    is_other = any(
        pattern.search(before) for pattern in (patterns.ENDS_OPEN, patterns.SPEAKING, patterns.REASONING)
    )
    return before if describes_a_scene(before) and not is_other else text


def _from_labelled_parts(text: str) -> str:
    """The caption of an answer in parts, such as `Reasoning: …`, `Caption: …`."""
    lines = text.splitlines()
    if len(lines) == 1:
        return text
    labelled = [number for number, line in enumerate(lines) if patterns.ANSWER_LABEL.match(line)]
    if len(labelled) != 1:
        return text
    first = labelled[0]
    after = lines[first + 1 :]
    end = next((number for number, line in enumerate(after) if patterns.LABEL_LINE.match(line)), len(after))
    found = [patterns.ANSWER_LABEL.sub("", lines[first]), *after[:end]]
    return "\n".join(found) if "".join(found).strip(QUOTES) else text


def _without_introduction(text: str) -> str:
    """Introductions may come one after another: `Sure! Here is a caption:`."""
    if patterns.LABELLED_ALTERNATIVES.search(text):
        return text
    text = _without_first_paragraphs(text)
    for _ in range(4):
        end = _end_of_introduction(text)
        if not text[end:].strip(QUOTES):
            break
        text = text[end:].lstrip()
    return text


def _end_of_introduction(text: str) -> int:
    """Where an introduction ends; the end of the text if there is none."""
    for pattern in patterns.INTRODUCTIONS:
        match = pattern.match(text)
        if match and text[match.end() :].strip(QUOTES):
            return len(text) if patterns.MADE_UP.search(match[0]) else match.end()
    for pattern in (patterns.FIRST_CLAUSE, patterns.FIRST_EXCLAMATION):
        match = pattern.match(text)
        if not match or negates(match[1]) or patterns.ERROR_TEXT.match(text):
            continue
        if discusses_rather_than_describes(match[1]) or patterns.PRAISE.search(match[1]):
            return match.end()
    return len(text)


def _without_first_paragraphs(text: str) -> str:
    """Without short paragraphs about the caption, and those in brackets, that another one follows."""
    while (match := patterns.FIRST_PARAGRAPH.match(text)) and (
        patterns.BESIDE_CAPTION.fullmatch(match[1]) or _announces(match[1], text[match.end() :])
    ):
        text = text[match.end() :]
    return text


def _announces(paragraph: str, rest: str) -> bool:
    """Whether a short paragraph says what the model will do, and the next one does it: "I'll write one now."."""
    speaks = patterns.SPEAKING.search(paragraph) or patterns.REASONING.search(paragraph)
    is_short = len(paragraph.split()) <= MAX_WORDS_OF_AN_ANNOUNCEMENT
    return bool(speaks) and is_short and not negates(paragraph) and describes_well(rest)


def _without_closing(text: str) -> str:
    paragraphs = text.split("\n\n")
    while len(paragraphs) > 1 and _is_beside_caption(paragraphs[-1].strip()):
        paragraphs.pop()
    text = "\n\n".join(paragraphs)
    if (match := patterns.AFTER_LINE.search(text)) and is_remark(match[1]):
        text = text[: match.start()]
    for pattern in patterns.AFTER_CAPTIONS:
        match = pattern.search(text)
        if pattern is patterns.PARTS_AFTER and patterns.LABELS.match(text):
            continue
        if match and text[: match.start()].strip(QUOTES):
            text = text[: match.start()]
    return _without_last_remarks(patterns.SEPARATOR.sub("\n", text))


def _without_last_remarks(text: str) -> str:
    """Without last sentences about the caption, and last lines with a label.

    One that denies something stays, because it may say that there is no caption. So do all if there are several captions or labels.
    """
    if patterns.LABELS.match(text) or patterns.ALTERNATIVES.search(text):
        return text
    for found in reversed(list(patterns.SENTENCE_BREAK.finditer(text))):
        last = patterns.QUOTED.sub(" ", text[found.end() :]).strip()
        is_part = "\n" in found[0] and patterns.LABELS.match(last) is not None
        before = text[: found.start()]
        is_described = precedes_absence(before)
        if is_described and is_of_the_scene(last):
            break
        may_deny = describes_well(before) and not patterns.NO_IMAGE.search(last)
        is_rest = is_part or says_what_is_absent(last) or (is_remark(last) and not negates(last))
        is_rest = is_rest or (is_described and is_beside_the_scene(last))
        is_rest = is_rest or (may_deny and (is_remark(last) or (negates(last) and _speaks(last))))
        if not is_rest or not before.strip(QUOTES):
            break
        text = before.rstrip()
    return text


def _without_markdown(text: str) -> str:
    text = patterns.HEADING.sub("", text)
    if len(patterns.LIST_ITEM.findall(text)) == 1 and not patterns.ALTERNATIVES.search(text):
        text = patterns.LIST_ITEM.sub("", text)
    for pattern, replacement in patterns.MARKDOWN:
        text = pattern.sub(replacement, text)
    return text


def _without_repetition(text: str) -> str:
    """One of several equal paragraphs."""
    paragraphs = {paragraph.strip() for paragraph in text.split("\n") if paragraph.strip()}
    return paragraphs.pop() if len(paragraphs) == 1 else text


def without_unfinished_sentence(text: str) -> str:
    """Without a last sentence that was cut, perhaps within a word, if the ones before it are complete.

    Not part of `clean_answer`, which also judges what people write: they leave out the last full stop.
    """
    match = patterns.UNFINISHED.search(text)
    before = text[: match.start()] if match else text
    return before if len(patterns.SENTENCE_BREAK.split(before)) >= MIN_SENTENCES else text


def _is_markup(text: str) -> bool:
    return patterns.MARKUP.match(text) is not None


def _is_introduction(text: str) -> bool:
    return patterns.ENDS_OPEN.search(text) is not None or any(
        pattern.fullmatch(text) for pattern in patterns.INTRODUCTIONS
    )


def _is_placeholder(text: str) -> bool:
    word = text.casefold().strip(" .:!<>[]{}()\"'")
    return word in patterns.PLACEHOLDER_WORDS or patterns.PLACEHOLDERS.fullmatch(text) is not None


READING_STEPS: Steps = (
    ("escapes", _without_escapes),
    ("reasoning", _without_reasoning),
    ("elements", _from_elements),
)
CHAT_STEPS: Steps = (("other turns", from_transcript), ("special tokens", _without_special_tokens))
DOCUMENT_STEPS: Steps = (("JSON", from_json),)
TEXT_STEPS: Steps = (
    ("a closing remark", _without_side_text),
    ("other parts", _from_labelled_parts),
    ("an introduction", without_opening),
    ("an introduction", _without_introduction),
    ("an introduction", without_opening),
    ("bullets", joined_bullets),
    ("a closing remark", _without_closing),
    ("Markdown", _without_markdown),
    ("an introduction", _without_introduction),
    ("a repetition", _without_repetition),
)
NOISE = "the answer is noise, not language"
ERROR_MESSAGE = "the answer is an error message"
SEVERAL = "the answer has several alternatives"
LABELLED = f"{SEVERAL}, each with a label"
INTRODUCTION = "the answer is an introduction without a caption"
NO_DESCRIPTION = "the answer does not describe an image"
# These checks are skipped for captions that quote text in the picture.
OF_WRITING = (ERROR_MESSAGE, SEVERAL, INTRODUCTION)
NO_DESCRIPTIONS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (finds_the_image_too_poor, "the model says that it cannot tell what the image shows"),
    (is_about_the_task, "the answer is about the caption instead of the image"),
    (_speaks, "the model speaks to you instead of describing the image"),
    (_is_list_of_parts, "the answer is a list of labelled parts"),
    (_discusses, NO_DESCRIPTION),
    (only_judges, NO_DESCRIPTION),
    (states_a_fact, NO_DESCRIPTION),
)
# The checks that do not apply to instructions for edits, which need not describe an image.
NO_EDITS = (_discusses, only_judges, states_a_fact)
FAULTS: tuple[tuple[Callable[[str], object], str], ...] = (
    (_is_markup, "the answer is JSON or markup, not a caption"),
    (patterns.ERROR_TEXT.match, ERROR_MESSAGE),
    (patterns.LABELLED_ALTERNATIVES.search, LABELLED),
    (_is_placeholder, "the answer is a placeholder"),
    (patterns.TEMPLATE.search, "the answer is a placeholder"),
    (patterns.DETECTIONS.search, "the answer is a list of objects"),
    (is_loop, "the answer repeats itself"),
    (has_few_letters, "the answer is mostly characters that are no letters"),
    (has_random_words, NOISE),
    (patterns.REASONING.search, "the answer is reasoning, not a caption"),
    (patterns.ALTERNATIVES.search, SEVERAL),
    (_is_introduction, INTRODUCTION),
    (patterns.QUESTION.search, "the answer is a question or an offer, not a caption"),
    (re.compile(r"<\|[^|>]{1,40}\|>|</?\w+>").search, "the answer has special tokens in it"),
    (lambda text: len(text) > MAX_CHARACTERS, "the answer is too long for a caption"),
)
