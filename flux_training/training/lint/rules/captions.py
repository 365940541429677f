"""Rules about captions."""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePath

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.names import PLACEHOLDERS, caption_name, folder_of
from flux_training.training.train_yml.dataset_folders import FolderKind

AREA = Area("captions")
T5_TOKENS = 512
REFUSED = re.compile(
    r"\b(i'?m sorry|i am sorry|i apologi[sz]e|as an ai\b|i (can(no|')t|am unable to|'m unable to)|unable to (assist|comply))",
    re.IGNORECASE,
)
# The replacement character, marks of byte order, and invisible characters that no script needs.
GARBAGE = "\ufffd\ufeff\u200b\u2060\u202a\u202b\u202c\u202d\u202e"
DESCRIBE = "write what the image shows, with the trigger word"


@AREA.error(
    "caption-missing",
    "ai-toolkit would train it with an empty prompt",
    f"{DESCRIBE}; `./flux caption JOB` generates it",
    needed=True,
)
def images_without_caption(job: Subject) -> Iterator[Problem]:
    written = job.dataset.captions if job.dataset else {}
    for name in dict.fromkeys(caption_name(image) for image in job.images):
        if name not in written:
            yield job.dataset_problem(name, "no caption for this image")


AREA.fault("caption-empty", "ai-toolkit would train the image with an empty prompt", DESCRIBE)
AREA.fault("caption-encoding", "the trainer reads captions as UTF-8", "save the caption as UTF-8")
AREA.fault("caption-unreadable", "a caption is a short text file", "make it a readable file")


@AREA.error(
    "caption-orphan",
    "each caption belongs to the trained image of the same name",
    "add the image (`git restore` brings back a deleted one that was committed), or delete the caption",
    needed=True,
)
def captions_without_image(job: Subject) -> Iterator[Problem]:
    expected = {caption_name(image) for image in job.images}
    of_other_images = {caption_name(image) for image in job.all_images}
    for name in job.dataset.captions if job.dataset else {}:
        if name not in expected:
            is_paired = name in of_other_images
            message = (
                "a caption of an image that is not trained itself, such as a control image or a mask"
                if is_paired
                else f"a caption without an image: no image is named {PurePath(name).stem}"
            )
            yield job.dataset_problem(name, message)


@AREA.error(
    "caption-shared",
    "an image's caption has the image's name with the suffix .txt",
    "rename one of the images",
    needed=True,
)
def images_that_share_a_caption(job: Subject) -> Iterator[Problem]:
    sharing: dict[str, list[str]] = defaultdict(list)
    for image in job.images:
        sharing[caption_name(image)].append(image)
    for caption, images in sharing.items():
        if len(images) > 1:
            yield job.dataset_problem("", f"{' and '.join(images)} would share the caption {caption}")


@AREA.warning(
    "caption-long",
    f"FLUX reads {T5_TOKENS} tokens of a caption (estimated as 4 per 3 words, at least 1 per 4 characters) and ignores the rest",
    "shorten it, or put the important words first",
)
def captions_over_the_token_limit(job: Subject) -> Iterator[Problem]:
    for caption in job.captions:
        tokens = t5_tokens(caption.text)
        if tokens > T5_TOKENS:
            yield job.dataset_problem(caption.name, f"about {tokens} tokens")


@AREA.warning(
    "caption-trigger",
    "ai-toolkit inserts a missing trigger word at the start, where it may not fit the sentence",
    "write the trigger word (or [trigger]) where it belongs in the sentence",
)
def captions_without_the_trigger_word(job: Subject) -> Iterator[Problem]:
    trigger = job.config.trigger if job.config else ""
    folders = job.dataset.folders_of(FolderKind.TRAINING) if job.dataset else frozenset()
    for caption in job.captions if trigger else ():
        # ai-toolkit does not insert it into the captions of regularization images.
        if (
            folder_of(caption.name) in folders
            and trigger not in caption.text
            and not has_placeholder(caption.text)
        ):
            yield job.dataset_problem(caption.name, f"it does not contain the trigger word `{trigger}`")


@AREA.warning(
    "caption-placeholder",
    "without a trigger_word in train.yml ai-toolkit replaces it by nothing",
    "set trigger_word, or write the word itself",
)
def captions_with_a_placeholder_but_no_trigger_word(job: Subject) -> Iterator[Problem]:
    if not job.trains or (job.config and job.config.trigger):
        return
    for caption in job.captions:
        if has_placeholder(caption.text):
            yield job.dataset_problem(caption.name, "[trigger] has no meaning here")


@AREA.warning(
    "caption-same",
    "a prompt can only vary what captions describe differently",
    "describe in each caption what differs in its image",
)
def identical_captions(job: Subject) -> Iterator[Problem]:
    texts = {caption.text for caption in job.captions}
    if len(texts) == 1 and len(job.captions) > 1:
        yield job.dataset_problem("", f"all {len(job.captions)} captions are the same")


@AREA.warning(
    "caption-refusal",
    "captioning models write this when they refuse to describe an image",
    "write the caption yourself",
)
def captions_that_are_refusals(job: Subject) -> Iterator[Problem]:
    for caption in job.captions:
        match = REFUSED.search(caption.text)
        if match:
            yield job.dataset_problem(caption.name, f"`{match[0]}` does not describe an image")


@AREA.warning(
    "caption-answer",
    "captioning models write such words around a caption, or instead of one, and the trainer learns them",
    "keep only the sentence that describes the image",
)
def caption_answer(job: Subject) -> Iterator[Problem]:
    for caption in job.captions:
        if not REFUSED.search(caption.text) and (words := _words_of_a_model(job, caption.text)):
            yield job.dataset_problem(caption.name, words)


@AREA.warning(
    "caption-garbled",
    "invisible characters, and those left by a wrong encoding, confuse the text encoder",
    "type the caption again",
)
def captions_with_garbled_characters(job: Subject) -> Iterator[Problem]:
    for caption in job.captions:
        bad = next((character for character in caption.text if _is_garbage(character)), None)
        if bad is not None:
            line = caption.text[: caption.text.index(bad)].count("\n") + 1
            yield job.dataset_problem(caption.name, f"contains the character U+{ord(bad):04X}", line)


def _words_of_a_model(job: Subject, text: str) -> str:
    """What a captioning model has left in a caption; empty if nothing."""
    # Imported late: its patterns take 0.1 s, and most commands judge no caption.
    from flux_training.training.dataset.model_answers import clean_answer, find_fault

    for trigger in (*PLACEHOLDERS, job.config.trigger if job.config else ""):
        text = text.removeprefix(trigger).removesuffix(trigger).strip(" ,")
    answer = clean_answer(text)
    # A caption may be the trigger word alone.
    fault = find_fault(text) if len(text.split()) > 1 else None
    if fault and not answer.removed:
        return fault.reason
    return f"contains {' and '.join(answer.removed)} besides the caption" if answer.removed else ""


def t5_tokens(text: str) -> int:
    """An estimate, because T5's vocabulary would be a large dependency for one warning."""
    return math.ceil(max(len(text.split()) * 4 / 3, len(text) / 4))


def has_placeholder(text: str) -> bool:
    return any(placeholder in text for placeholder in PLACEHOLDERS)


def _is_garbage(character: str) -> bool:
    if character.isascii():
        return character < " " and character not in "\t\n\r"
    return character in GARBAGE or unicodedata.category(character) in ("Cc", "Co", "Cn", "Zl", "Zp")
