"""Which part of an answer is the caption: what the assistant said, what follows the repeated prompt, the English of two languages. Pure."""

import re
from functools import cache
from itertools import chain, pairwise
from typing import NamedTuple

from flux_training.training.dataset.answers import patterns
from flux_training.training.dataset.answers.regex import compile_later
from flux_training.training.dataset.answers.words import begins_with_a_thing, describes_a_scene, is_remark
from flux_training.training.dataset.caption_language import is_in_another_language, is_in_english

# ruff: noqa: RUF001 - other scripts have letters that look like Latin ones

_I = re.IGNORECASE
# A repeated sentence of the prompt has at least this many words. From the second number on nothing needs to separate it from the caption.
MIN_WORDS_OF_A_PROMPT = 3
MAX_WORDS_OF_A_SHORT_PROMPT = 8
# A translation is at least this long, compared with the English caption. A character of a script without spaces counts three times.
MIN_SHARE_OF_A_TRANSLATION = 0.35
FIRST_WITHOUT_SPACES = "\u2e80"
MIN_WORDS = 3
# Between two sentences that belong together are a space, a bracket or an empty line.
MAX_BETWEEN = 3
ENGLISH, OTHER, REMARK = "English", "other", "remark"

# The beginning of a turn in a chat whose tokens are gone: `user` on a line of its own, `USER:`, `### Response:`. `assistant` may follow
# the text before it without a space.
_TURN = compile_later(
    r"(?:(?:^|\n|(?<=[.!?>)]))[ \t]*(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<s>)?[ \t]*(?P<line>system|user|human|assistant|model|bot|gpt)(?:<\|end_header_id\|>)?[ \t]*(?:\n|\Z)"
    r"|(?:^|\n)[ \t]*(?:#{2,4} *|\*\*|\[)?(?P<label>system|user|human|instruction|input|assistant|model|ai|bot|gpt|response|output)\]?(?:\*\*)?[ \t]*:(?:\*\*)?"
    r"|(?:\s|(?<=[.!?>]))(?P<inline>(?-i:USER|HUMAN|ASSISTANT|SYSTEM|User|Human|Assistant)):\s|\s###? ?(?P<marked>(?-i:Human|User|Instruction|Input|Assistant|Response|Answer)):|<\|(?P<token>system|user|assistant|model)\|>)",
    _I,
    needs=("\n", ":", "<|", "system", "user", "human", "assistant", "model", "bot", "gpt"),
)
_ASSISTANT = compile_later(r"assistant|model|ai|bot|gpt|response|answer|output", _I)
# System prompts that begin without a role.
_SYSTEM = compile_later(r"\s*(?:you are an? |a chat between an? |below is an instruction)", _I)

_WORD = compile_later(r"\w+(?:'\w+)*")
_BEFORE_PROMPT = compile_later(
    r"\W*(?:(?:(?:the|my|your) )?(?:q|question|prompt|instructions?|task|request|user|human|input)(?: (?:is|was))?\s*[:：]\W*)?",
    _I,
)
_AFTER_PROMPT = compile_later(
    r"[.:?!\"”'»*_)\]}]*\s*(?:(?:[-=]>|→|[—–-])\s*)?(?:[*_#]*\s*(?:a|answer|caption|response|assistant|output)\s*[:：][*_]*\s*)?",
    _I,
)
_BOUNDARY = compile_later(r"\s*(?:[.:?!\"”»*)\]]|\n|\Z)")

_ENGLISH_NAME = r"english|eng?|translat(?:ion|ed)|英文|英语|英語|英訳|inglês|inglés|anglais|englisch|inglese|английский|🇬🇧|🇺🇸"
_OTHER_NAME = (
    r"original|chinese|mandarin|german|french|spanish|italian|portuguese|polish|dutch|swedish|danish|norwegian|finnish|czech|romanian|hungarian|russian|ukrainian|turkish|greek|japanese|korean"
    r"|arabic|hindi|thai|hebrew|vietnamese|indonesian|deutsch|français|español|castellano|italiano|português|polski|nederlands|svenska|dansk|norsk|suomi|čeština|română|magyar|русский|türkçe|[\U0001f1e6-\U0001f1ff]{2}|中文|汉语|日本語|한국어"
    r""
)
_OTHER_CODE = r"(?-i:DE|FR|ES|IT|PT|PL|NL|SV|DA|NO|FI|CS|RO|HU|RU|UK|TR|JA|JP|KO|ZH|CN|AR|HI|VI|ID)"
_OF_TEXT = r"(?: (?:translation|version|caption|description|text))?(?: \([\w ]{1,20}\))?"
_LANGUAGE_LABEL = compile_later(
    rf"[^\w\n]{{0,6}}(?:in )?(?:(?P<english>{_ENGLISH_NAME})|(?P<other>{_OTHER_NAME}|{_OTHER_CODE})){_OF_TEXT}(?:[*_]{{0,2}}[:：][*_]{{0,2}}|[)\]）】][:：]?|\n|\s+[—–-]\s|(?<=[\U0001f1e6-\U0001f1ff]))\s*",
    _I,
)
_BREAK = compile_later(
    rf"\n+|(?<=[.!?…])[\"”)\]*_]{{0,3}}\s+(?:[/|]\s+)?|(?<=[。！？])\s*(?:[/|]\s+)?|\s+[/|]\s+|\s*[(（\[【](?=\S)|[)）\]】]+\s*|\s+(?=(?:EN|{_OTHER_CODE}):)"
)
# A quotation that a word precedes, as in: a sign that says "…".
_QUOTATION = compile_later(r"(?<=\w )(?:\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|'[^'\n]{3,}'(?!\w))")
_SENTENCES = compile_later(r"[.!?]\s+|\n+")


class Piece(NamedTuple):
    """A part of a text. `masked`: its text with other characters in place of quotations."""

    start: int
    end: int
    masked: str


def from_transcript(text: str) -> str:
    """What the assistant says in a transcript that begins with another's turn; nothing if it has no turn."""
    starts = list(_TURN.finditer(text))
    is_first = bool(starts) and not text[: starts[0].start()].strip() and not _is_assistant(starts[0])
    if not is_first and not (starts and _SYSTEM.match(text)):
        return text
    ends = [start.start() for start in starts[1:]] + [len(text)]
    turns = [(start, text[start.end() : end].strip()) for start, end in zip(starts, ends, strict=True)]
    said = [turn for start, turn in turns if _is_assistant(start) and turn]
    captions = [turn for turn in said if describes_a_scene(turn) and not turn.endswith("?")]
    return next(iter([*captions, *said[::-1]]), "")


def _is_assistant(turn: re.Match[str]) -> bool:
    return _ASSISTANT.fullmatch(next(filter(None, turn.groups()))) is not None


def without_prompt(text: str, requests: tuple[str, ...]) -> str:
    """What follows a request, its first or its last sentences, at the beginning of a text; the text itself if nothing does."""
    end = _end_of_prompt(text, requests)
    rest = _AFTER_PROMPT.sub("", text[end:], count=1) if end else ""
    return rest if _WORD.search(rest) else text


def repeats_prompt(text: str, requests: tuple[str, ...]) -> bool:
    """Whether a text is a request, or whole sentences of it, and nothing else."""
    end = _end_of_prompt(text, requests)
    return end > 0 and not _WORD.search(text, end)


def _end_of_prompt(text: str, requests: tuple[str, ...]) -> int:
    """Where a repeated request ends in a text; 0 if the text does not begin with one."""
    begin = _BEFORE_PROMPT.match(text)
    found = list(_WORD.finditer(text, begin.end() if begin else 0))
    words = [word[0].casefold() for word in found]
    runs = [run for request in requests for run in _runs_of_sentences(request)]
    for run in sorted(runs, key=len, reverse=True):
        if len(run) < MIN_WORDS_OF_A_PROMPT or words[: len(run)] != run:
            continue
        end = found[len(run) - 1].end()
        if len(run) > MAX_WORDS_OF_A_SHORT_PROMPT or _BOUNDARY.match(text, end):
            return end
    return 0


@cache
def _runs_of_sentences(request: str) -> list[list[str]]:
    """The words of the first sentences of a request, and of its last ones. An example of a caption in it is no part of them."""
    sentences = [
        [word.casefold() for word in _WORD.findall(sentence)]
        for sentence in _SENTENCES.split(request.replace("\u2019", "'"))
        if not begins_with_a_thing(sentence)
    ]
    counts = range(1, len(sentences) + 1)
    return [
        list(chain.from_iterable(part))
        for count in counts
        for part in (sentences[:count], sentences[-count:])
    ]


def in_english(text: str) -> str:
    """The English part of a caption in two languages; the text itself if it is in one."""
    label = _LANGUAGE_LABEL.match(text)
    pieces = _pieces_of(text)
    if not label and not any(is_in_another_language(piece.masked) for piece in pieces):
        return text
    kinds = _kinds_of([piece.masked for piece in pieces])
    foreign = [piece.masked for piece, kind in zip(pieces, kinds, strict=True) if kind == OTHER]
    if not foreign:
        rest = text[label.end() :] if label and label["english"] else ""
        return rest if len(rest.split()) >= MIN_WORDS else text
    if any(patterns.NO_IMAGE.search(piece) or patterns.REFUSAL.match(piece) for piece in foreign):
        return text
    english = _join(text, [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == ENGLISH])
    # If the English part begins with a small letter, the foreign words before it are part of the sentence, such as the name of a dish.
    is_translated = sum(map(_size, foreign)) >= MIN_SHARE_OF_A_TRANSLATION * _size(english)
    return (
        english if is_translated and not english[:1].islower() and len(english.split()) >= MIN_WORDS else text
    )


def _pieces_of(text: str) -> list[Piece]:
    """The sentences of a text, and what stands in brackets or between slashes. Quotations within sentences are not looked at."""
    masked = _QUOTATION.sub(lambda found: "_" * len(found[0]), text)
    breaks = [(0, 0), *(found.span() for found in _BREAK.finditer(masked)), (len(text), len(text))]
    spans = [(left[1], right[0]) for left, right in pairwise(breaks)]
    return [Piece(start, end, masked[start:end]) for start, end in spans if masked[start:end].strip()]


def _kinds_of(pieces: list[str]) -> list[str]:
    """The language of each piece. One that shows none has that of the piece or the label before it, and a remark of the model has none."""
    kinds: list[str] = []
    labelled = before = ""
    for piece in pieces:
        label = _LANGUAGE_LABEL.match(piece + "\n")
        words = _LANGUAGE_LABEL.sub("", piece + "\n", count=1).strip()
        if label:
            kind = ENGLISH if label["english"] or is_in_english(words) else OTHER
        elif labelled or is_in_another_language(words):
            kind = labelled or OTHER
        elif words.endswith((":", "：")) or (not before and not is_in_english(words)) or _is_aside(words):
            kind = REMARK
        else:
            kind = ENGLISH if is_in_english(words) or before == REMARK else before
        # A label may be a piece of its own, such as `[EN]`.
        labelled = kind if label and not words else ""
        before = kind
        kinds.append(REMARK if labelled else kind)
    return kinds


def _is_aside(text: str) -> bool:
    is_number = text.strip(" .)").isdigit()
    return is_number or is_remark(text) or patterns.SPEAKING.search(text) is not None


def _join(text: str, pieces: list[Piece]) -> str:
    """The pieces without their labels. What stands between two neighbours, such as a bracket, is kept."""
    joined, end = "", 0
    for piece in pieces:
        between = text[end : piece.start]
        label = _LANGUAGE_LABEL.match(text, piece.start, piece.end)
        is_next = bool(joined) and len(between) <= MAX_BETWEEN and not label
        words = text[label.end() if label else piece.start : piece.end]
        joined += between + words if is_next else "\n" + words.lstrip(patterns.AFTER_LABEL)
        end = piece.end
    return joined.strip()


def _size(text: str) -> int:
    return sum(3 if letter >= FIRST_WITHOUT_SPACES else 1 for letter in text if letter.isalpha())
