"""Captions written by a vision model: which images need one, what an answer is worth, what it costs. No network."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from flux_training.training.dataset.facts import UNREADABLE, read_caption
from flux_training.training.errors import BadInput
from flux_training.training.files import natural_key
from flux_training.training.names import CAPTION_SUFFIX, IMAGE_SUFFIXES

# What captioning models write instead of a caption.
REFUSAL = re.compile(
    r"\b(i'?m sorry|i am sorry|i apologi[sz]e|as an ai\b|i (can(no|')t|am unable to|'m unable to)|unable to (assist|comply))",
    re.IGNORECASE,
)
MODEL = "gpt-4.1-nano"
# The recipe's own words (generate-captions.py).
INSTRUCTION = "Generate a short caption for this image (100 words or less) that captures composition and details about the subject"
# What the recipe appends: ai-toolkit replaces it by train.yml's trigger_word.
TRIGGER = "[trigger]"
POSITIONS = ("end", "start", "none")
# A hundred words are about 130 tokens; the recipe's limit of 128 cuts such a caption.
MAX_TOKENS = 300
# Longest side sent, in pixels. Each 32 x 32 of them costs; more than 1024 shows a captioner nothing new.
MAX_SIDE = 1024

PATCH = 32
MOST_PATCHES = 1536
# Tokens a patch, by model (OpenAI, "Images and vision", calculating costs).
TOKENS_A_PATCH = {"gpt-4.1-nano": 2.46, "gpt-4.1-mini": 1.62}
# USD for a million tokens in, out: as public price tables quote OpenAI in 2026 (its own page could not be read here). --price
# says otherwise.
PRICES = {"gpt-4.1-nano": (0.10, 0.40), "gpt-4.1-mini": (0.40, 1.60)}
# Assumed of a caption not yet written: 80 words, and of the instruction: four characters a token and the frame around it.
ASSUMED_ANSWER_TOKENS = 105
ASSUMED_FRAME_TOKENS = 35


@dataclass(frozen=True)
class Price:
    """USD for a million tokens."""

    tokens_in: float
    tokens_out: float

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """USD."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1_000_000


@dataclass(frozen=True)
class Answer:
    """What a service said of one image. `finish` is the API's finish_reason; tokens are what it counted."""

    text: str | None
    finish: str | None = None
    refusal: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class Caption:
    """A caption, or why there is none. Exactly one of them is not empty."""

    text: str = ""
    problem: str = ""


def uncaptioned(dataset: Path) -> list[Path]:
    """The images without a caption, or with an empty one, in their natural order. Raises BadInput when one cannot be read."""
    images = [file for file in dataset.iterdir() if is_image(file)]
    findings = [
        f"{fault.path}: {fault.message}; mend it or take it away"
        for image in images
        if (fault := read_caption(image.with_suffix(CAPTION_SUFFIX)).fault)
        and fault.code == UNREADABLE
        and has_caption(image)
    ]
    if findings:
        raise BadInput(findings)
    return sorted((file for file in images if not has_caption(file)), key=lambda file: natural_key(file.name))


def is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()


def has_caption(image: Path) -> bool:
    """A file of white space is none: ai-toolkit would train it with an empty prompt. What cannot be read is not ours to write over."""
    try:
        return bool(image.with_suffix(CAPTION_SUFFIX).read_bytes().strip(b" \t\r\n\xef\xbb\xbf"))
    except FileNotFoundError:
        return False
    except OSError:
        return True


def judge(answer: Answer) -> Caption:
    """The caption in an answer, on one line; or the problem, when it was cut, held back, refused or is empty."""
    if answer.refusal:
        return Caption(problem=f"refused: {one_line(answer.refusal)}")
    if answer.finish == "length":
        return Caption(problem="the answer was cut before its end; raise --max-tokens")
    if answer.finish == "content_filter":
        return Caption(problem="held back by the service's content filter")
    if answer.finish not in (None, "stop"):
        return Caption(problem=f"the answer ended with `{one_line(answer.finish)}` and is no caption")
    text = one_line(answer.text or "").strip("\"“”'` ")
    if not text:
        return Caption(problem="the answer was empty")
    # What models answer instead of a caption without saying so in the API's own fields.
    if REFUSAL.match(text.replace("\u2019", "'")):
        return Caption(problem=f"refused: {text[:120]}")
    return Caption(text)


def place_trigger(caption: str, trigger: str, position: str) -> str:
    """The caption with the trigger word at its end (as in the recipe) or start, where it does not have it already."""
    if position == "none" or trigger in caption:
        return caption
    return f"{caption} {trigger}" if position == "end" else f"{trigger} {caption}"


def image_tokens(width: int, height: int, model: str) -> float | None:
    """What an image of this size costs in tokens; None where the model's count is not known.

    Patches of 32 x 32 pixels, at most 1536, times the model's factor (OpenAI, "Images and vision").
    """
    factor = TOKENS_A_PATCH.get(model)
    if factor is None:
        return None
    return min(MOST_PATCHES, math.ceil(width / PATCH) * math.ceil(height / PATCH)) * factor


def estimate(sizes: list[tuple[int, int]], model: str, instruction: str, price: Price | None) -> float | None:
    """About how many USD captions for images of these sizes cost; None where price or count is not known."""
    tokens = [image_tokens(width, height, model) for width, height in sizes]
    known = [count for count in tokens if count is not None]
    if price is None or len(known) != len(sizes):
        return None
    text = len(sizes) * (ASSUMED_FRAME_TOKENS + len(instruction) / 4)
    return price.of(sum(known) + text, len(sizes) * ASSUMED_ANSWER_TOKENS)


def one_line(text: str) -> str:
    """Without line breaks, and without what a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
