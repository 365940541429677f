"""Rules about captions."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator

from flux_training.training.dataset.facts import caption_name
from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject

AREA = Area("captions")
T5_TOKENS = 512
PLACEHOLDERS = ("[trigger]", "[name]")
REFUSAL = re.compile(
    r"\b(i'?m sorry|i am sorry|i apologi[sz]e|as an ai\b|i (can(no|')t|am unable to|'m unable to)|unable to (assist|comply))",
    re.IGNORECASE,
)


@AREA.error(
    "caption-missing",
    "ai-toolkit would train it with an empty prompt",
    "write what the image shows, with the trigger word",
    needed=True,
)
def caption_missing(job: Subject) -> Iterator[Problem]:
    written = job.dataset.captions if job.dataset else {}
    for name in dict.fromkeys(caption_name(image) for image in job.images):
        if name not in written:
            yield job.in_dataset(name, "no caption for this image")


AREA.fault(
    "caption-empty",
    "ai-toolkit would train the image with an empty prompt",
    "write what the image shows, with the trigger word",
)
AREA.fault("caption-encoding", "the trainer reads captions as UTF-8", "save the caption as UTF-8")
AREA.fault("caption-unreadable", "a caption is a short text file", "make it a readable file")


@AREA.error(
    "caption-orphan",
    "each caption belongs to the image of its name",
    "add the image, or delete the caption",
    needed=True,
)
def caption_orphan(job: Subject) -> Iterator[Problem]:
    wanted = {caption_name(image) for image in job.images}
    for name in job.dataset.captions if job.dataset else {}:
        if name not in wanted:
            yield job.in_dataset(name, "a caption without an image")


@AREA.error(
    "caption-shared",
    "an image's caption is the .txt of its name without suffix",
    "rename one of the images",
    needed=True,
)
def caption_shared(job: Subject) -> Iterator[Problem]:
    sharing: dict[str, list[str]] = {}
    for image in job.images:
        sharing.setdefault(caption_name(image), []).append(image)
    for caption, images in sharing.items():
        if len(images) > 1:
            yield job.in_dataset("", f"{' and '.join(images)} would share the caption {caption}")


@AREA.warning(
    "caption-long",
    f"FLUX reads {T5_TOKENS} tokens of a caption (estimated: 4 for 3 words, and at least 1 for 4 characters) and cuts the rest off",
    "shorten it, the most important first",
)
def caption_long(job: Subject) -> Iterator[Problem]:
    for caption in job.captions:
        tokens = t5_tokens(caption.text)
        if tokens > T5_TOKENS:
            yield job.in_dataset(caption.name, f"about {tokens} tokens")


@AREA.warning(
    "caption-trigger",
    "ai-toolkit puts a missing trigger word in front, where it may read as nonsense",
    "write the trigger word (or [trigger]) where it belongs in the sentence",
)
def caption_trigger(job: Subject) -> Iterator[Problem]:
    trigger = job.config.trigger if job.config else ""
    for caption in job.captions if trigger else ():
        if trigger not in caption.text and not has_placeholder(caption.text):
            yield job.in_dataset(caption.name, f"the trigger word `{trigger}` is not in it")


@AREA.warning(
    "caption-placeholder",
    "without a trigger_word in train.yml ai-toolkit replaces it by nothing",
    "set trigger_word, or write the word itself",
)
def caption_placeholder(job: Subject) -> Iterator[Problem]:
    if not job.trains or (job.config and job.config.trigger):
        return
    for caption in job.captions:
        if has_placeholder(caption.text):
            yield job.in_dataset(caption.name, "[trigger] stands for nothing here")


@AREA.warning(
    "caption-same",
    "what every caption says, and no caption says otherwise, cannot be asked for in a prompt",
    "say in each what is different in its image",
)
def caption_same(job: Subject) -> Iterator[Problem]:
    texts = {caption.text for caption in job.captions}
    if len(texts) == 1 and len(job.captions) > 1:
        yield job.in_dataset("", f"all {len(job.captions)} captions are the same")


@AREA.warning(
    "caption-refusal",
    "it is what a captioning model says when it will not describe an image",
    "write the caption yourself",
)
def caption_refusal(job: Subject) -> Iterator[Problem]:
    for caption in job.captions:
        said = REFUSAL.search(caption.text)
        if said:
            yield job.in_dataset(caption.name, f"`{said[0]}` describes no image")


@AREA.warning(
    "caption-garbled",
    "characters that nobody can see or that a wrong encoding left confuse the text encoder",
    "type the caption again",
)
def caption_garbled(job: Subject) -> Iterator[Problem]:
    for caption in job.captions:
        bad = next((sign for sign in caption.text if _is_garbage(sign)), None)
        if bad is not None:
            line = caption.text[: caption.text.index(bad)].count("\n") + 1
            yield Problem(
                job.in_dataset(caption.name, "").path, f"holds the character U+{ord(bad):04X}", line
            )


def t5_tokens(text: str) -> int:
    """An estimate: T5's vocabulary is in no package that this project needs, and pulling one in for a warning is not worth it."""
    return math.ceil(max(len(text.split()) * 4 / 3, len(text) / 4))


def has_placeholder(text: str) -> bool:
    return any(placeholder in text for placeholder in PLACEHOLDERS)


def _is_garbage(sign: str) -> bool:
    if sign.isascii():
        return sign < " " and sign not in "\t\n\r"
    return sign == "\ufffd" or unicodedata.category(sign) in ("Cc", "Co", "Cn")
