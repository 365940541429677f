"""Captions from a vision model: which images need one, how a response is judged, and what it costs. No network."""

import math
from dataclasses import dataclass
from pathlib import Path

from flux_training.training.dataset.answers.documents import has_whole_caption
from flux_training.training.dataset.answers.loops import is_loop
from flux_training.training.dataset.caption_language import is_in_another_language
from flux_training.training.dataset.facts import UNREADABLE, read_caption
from flux_training.training.dataset.model_answers import (
    CleanedAnswer,
    clean_answer,
    find_fault,
    is_ended,
    no_description,
    one_line,
    without_unfinished_sentence,
)
from flux_training.training.errors import BadInput
from flux_training.training.files import natural_key
from flux_training.training.models.table import TrainableModel
from flux_training.training.names import CAPTION_SUFFIX, IMAGE_SUFFIXES
from flux_training.training.opening import read_regular_file, target_outside_project

MODEL = "gpt-4.1-nano"
# As in SaladCloud's recipe (generate-captions.py).
INSTRUCTION = "Generate a short caption for this image (100 words or less) that captures composition and details about the subject"
# For an edit model the caption is what to do with its control images, which are beside the image.
EDIT_INSTRUCTION = "The last of these images was made from the others by an edit. Write the instruction for that edit as a user would give it (50 words or less), such as: turn the photo into a watercolor painting. Do not describe what stays the same"
MOTION_INSTRUCTION = "Generate a short caption for this frame of a video (100 words or less) that captures the subject, what it does and how it moves, the camera, composition and light"
PROMPTS = (INSTRUCTION, EDIT_INSTRUCTION, MOTION_INSTRUCTION)
# As in the recipe: ai-toolkit replaces it by train.yml's trigger_word.
TRIGGER = "[trigger]"
POSITIONS = ("end", "start", "none")
# Added to the second request if the first answer was no caption.
IN_ENGLISH = "Write it in English."
STRICTER = "Answer with the caption alone: one or two plain sentences, no introduction, no reasoning, no list, no Markdown, no question."
# Values of `finish_reason` that OpenAI and other servers use.
FINISHED = ("", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete")
CUT_OFF = ("length", "max_tokens", "model_length")
FILTERED = ("content_filter", "safety", "recitation", "prohibited_content")
LESS_REASONING = "raise --max-tokens, turn its thinking off, or use a model that does not reason"
# A hundred words are about 130 tokens, so the recipe's limit of 128 would cut such a caption.
MAX_TOKENS = 300
# The longer side of the images sent, in pixels. Each patch of 32 x 32 pixels costs money.
MAX_SIDE = 1024

PATCH = 32
MAX_PATCHES = 1536
# Tokens per patch, by model (OpenAI, "Images and vision", calculating costs).
TOKENS_PER_PATCH = {"gpt-4.1-nano": 2.46, "gpt-4.1-mini": 1.62}
# USD per million tokens in and out, from public price tables of 2026. --price overrides them.
PRICES = {"gpt-4.1-nano": (0.10, 0.40), "gpt-4.1-mini": (0.40, 1.60)}
# Assumptions for estimates: a caption has 80 words, and the instruction one token per four characters plus a frame.
ASSUMED_ANSWER_TOKENS = 105
ASSUMED_FRAME_TOKENS = 35


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    tokens_in: float
    tokens_out: float

    def __str__(self) -> str:
        """As --price takes it."""
        return f"{self.tokens_in:g},{self.tokens_out:g}"

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """USD."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1_000_000


@dataclass(frozen=True)
class ModelResponse:
    """A service's response for one image. `finish` is the API's finish_reason; the tokens are the API's counts.

    `reasoning` is the thinking that some servers send beside the answer.
    """

    text: str | None
    finish: str | None = None
    refusal: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    reasoning: str = ""


@dataclass(frozen=True)
class GeneratedCaption:
    """A caption, or the reason why there is none: one of them is empty.

    `removed`: what was around the caption. `is_foreign`: it is not in English, although the prompt is one of the built-in ones. `hopeless`: the same model would caption no other image. `final`: asking again is pointless.
    """

    text: str = ""
    problem: str = ""
    removed: tuple[str, ...] = ()
    hopeless: bool = False
    final: bool = False
    is_foreign: bool = False


def instruction_for(model: TrainableModel | None, has_controls: bool) -> str:
    """The prompt that fits what a job trains; `has_controls`: whether its images have control images."""
    if has_controls:
        return EDIT_INSTRUCTION
    return MOTION_INSTRUCTION if model and model.datasets.videos else INSTRUCTION


def uncaptioned(dataset: Path) -> list[Path]:
    """The images without a caption or with an empty one, in natural order. Raises BadInput if a caption cannot be read."""
    images = [file for file in dataset.iterdir() if is_image(file)]
    findings = [
        f"{fault.path}: {fault.message}; correct it or remove it"
        for image in images
        if (fault := read_caption(image.with_suffix(CAPTION_SUFFIX)).fault)
        and fault.code == UNREADABLE
        and has_caption(image)
    ]
    if findings:
        raise BadInput(findings)
    return sorted((file for file in images if not has_caption(file)), key=lambda file: natural_key(file.name))


def is_image(file: Path) -> bool:
    is_shown = file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    return is_shown and not target_outside_project(file)


def has_caption(image: Path) -> bool:
    """Whether there is a caption. White space is none, and an unreadable file counts as one, so that it is not overwritten."""
    caption = image.with_suffix(CAPTION_SUFFIX)
    if target_outside_project(caption):
        return True
    try:
        return bool(read_regular_file(caption).strip(b" \t\r\n\xef\xbb\xbf"))
    except FileNotFoundError:
        return False
    except OSError:
        return True


def caption_from(response: ModelResponse, instruction: str = INSTRUCTION) -> GeneratedCaption:
    """The caption in a response, on one line, or why there is none."""
    finish = (response.finish or "").casefold()
    if response.refusal:
        return GeneratedCaption(problem=f"refused: {one_line(response.refusal)}")
    if finish in FILTERED:
        return GeneratedCaption(problem="blocked by the service's content filter", final=True)
    requests = (instruction, stricter(instruction))
    answer = clean_answer(response.text or "", requests, prefers_english=instruction in PROMPTS)
    text = response.text or ""
    if finish in CUT_OFF and not has_whole_caption(text) and not is_ended(text, answer, requests):
        return _cut_off(response, answer)
    if finish not in (*FINISHED, *CUT_OFF):
        return GeneratedCaption(problem=f"the response ended with `{one_line(finish)}` instead of a caption")
    if not answer.text and (response.reasoning or "reasoning" in answer.removed):
        return GeneratedCaption(problem=f"the response was only reasoning; {LESS_REASONING}")
    if not answer.text:
        return GeneratedCaption(problem="the response was empty")
    fault = find_fault(answer.text, *requests)
    if not fault and instruction in PROMPTS:
        # The user's own prompt may ask for something other than a description.
        fault = no_description(answer.text, is_edit=instruction == EDIT_INSTRUCTION)
    if fault:
        return GeneratedCaption(problem=fault.reason, hopeless=fault.hopeless)
    if instruction not in PROMPTS:
        return GeneratedCaption(answer.text, removed=answer.removed)
    text = without_unfinished_sentence(answer.text)
    removed = answer.removed if text == answer.text else (*answer.removed, "an unfinished sentence")
    return GeneratedCaption(text, removed=removed, is_foreign=is_in_another_language(text))


def stricter(instruction: str) -> str:
    """What is asked if the first answer was no caption, or one in another language."""
    return " ".join((f"{instruction}\n\n{STRICTER}", *([IN_ENGLISH] if instruction in PROMPTS else [])))


def _cut_off(response: ModelResponse, answer: CleanedAnswer) -> GeneratedCaption:
    """The tokens ran out. More of them help a model that reasons, a stricter request does not."""
    if response.reasoning or (not answer.text and "reasoning" in answer.removed):
        problem = f"the tokens ran out while the model was reasoning; {LESS_REASONING}"
        return GeneratedCaption(problem=problem, final=True)
    fault = find_fault(answer.text)
    if fault and (fault.hopeless or is_loop(answer.text)):
        return GeneratedCaption(problem=fault.reason, hopeless=fault.hopeless)
    return GeneratedCaption(problem="the response was cut off; raise --max-tokens")


def place_trigger(caption: str, trigger: str, position: str) -> str:
    """The caption with the trigger word at its end (as in the recipe) or start, unless it already contains it."""
    if position == "none" or trigger in caption:
        return caption
    return f"{caption} {trigger}" if position == "end" else f"{trigger} {caption}"


def image_tokens(width: int, height: int, model: str) -> float | None:
    """The tokens of an image: patches of 32 x 32 pixels, at most 1536, times the model's factor; None for unknown models."""
    factor = TOKENS_PER_PATCH.get(model)
    if factor is None:
        return None
    return min(MAX_PATCHES, math.ceil(width / PATCH) * math.ceil(height / PATCH)) * factor


def estimate_caption_cost(
    sizes: list[tuple[int, int]], model: str, instruction: str, price: Price | None
) -> float | None:
    """The approximate cost in USD of captions for images of these sizes; None if unknown."""
    tokens = [image_tokens(width, height, model) for width, height in sizes]
    known = [count for count in tokens if count is not None]
    if price is None or len(known) != len(sizes):
        return None
    text = len(sizes) * (ASSUMED_FRAME_TOKENS + len(instruction) / 4)
    return price.of(sum(known) + text, len(sizes) * ASSUMED_ANSWER_TOKENS)
