"""What `flux caption` was asked for and what came of each image: whether the model sees the images, and the totals at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flux_training.commands.cli import say_wrapped
from flux_training.training.bill import show_dollars
from flux_training.training.dataset.answers.words import describes_a_scene
from flux_training.training.dataset.captions import PROMPTS, Price
from flux_training.training.errors import FluxError
from flux_training.training.words import list_first, with_escapes

# The first images are sent one by one, up to this number, to find out whether the model reads images at all.
PROBES = 3
# A model may describe similar photos of one subject alike. If it describes this many alike, it does not see the images.
EQUAL_PROBES = 6


@dataclass(frozen=True)
class CaptionOptions:
    """The options of the command. `controls`: the folders of the job's control images, which are sent beside each image."""

    model: str
    base_url: str
    trigger: str
    position: str
    instruction: str
    threads: int
    per_minute: int
    max_side: int
    max_tokens: int
    price: Price | None
    controls: tuple[Path, ...] = ()


@dataclass(frozen=True)
class CaptionOutcome:
    """The caption of an image, or why there is none; and the tokens that the service counted.

    `removed`: what the model wrote around the caption. `hopeless`: other images would fail in the same way.
    """

    image: Path
    caption: str = ""
    problem: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    removed: tuple[str, ...] = ()
    hopeless: bool = False


def needs_more_probes(probed: list[CaptionOutcome], options: CaptionOptions) -> bool:
    """Whether more images must be sent to know if the model reads them."""
    captions = {outcome.caption for outcome in probed if outcome.caption}
    if len(captions) > 1:
        return False
    return len(probed) < PROBES or (
        bool(caption_of_all_probes(probed, options)) and describes_a_scene(*captions)
    )


def caption_of_all_probes(probed: list[CaptionOutcome], options: CaptionOptions) -> str:
    """The caption that all probed images got. Empty if they differ, or if the user wrote the prompt, which may ask for equal captions."""
    captions = {outcome.caption for outcome in probed}
    return captions.pop() if len(captions) == 1 and options.instruction in PROMPTS else ""


def reject_equal_captions(probed: list[CaptionOutcome], options: CaptionOptions) -> list[CaptionOutcome]:
    """The outcomes of the first images; as failures, if the same answer to all of them shows that the model sees none."""
    caption = caption_of_all_probes(probed, options)
    needed = EQUAL_PROBES if describes_a_scene(caption) else PROBES
    if not caption or len(probed) < needed:
        if caption and len(probed) > 1:
            say_wrapped(
                f"The model says the same of all {len(probed)} images. See whether it describes them: {caption}"
            )
        return probed
    problem = f"the model says the same of different images: {caption}"
    return [replace(outcome, caption="", problem=problem, hopeless=True) for outcome in probed]


def print_total(outcomes: Sequence[CaptionOutcome], price: Price | None) -> None:
    if not outcomes:
        return
    tokens_in = sum(outcome.tokens_in for outcome in outcomes)
    tokens_out = sum(outcome.tokens_out for outcome in outcomes)
    cost = f": {show_dollars(price.of(tokens_in, tokens_out))}" if price else ""
    written = [outcome.caption for outcome in outcomes if outcome.caption]
    say_wrapped(f"{len(written)} captions written; {tokens_in:,} tokens in, {tokens_out:,} out{cost}")
    removed = Counter(part for outcome in outcomes if outcome.caption for part in outcome.removed)
    if removed:
        parts = ", ".join(f"{part} ({count})" for part, count in removed.most_common())
        say_wrapped(f"Removed from around captions: {parts}")


def print_failed(outcomes: Sequence[CaptionOutcome], count: int, review: str) -> None:
    """Raises FluxError if an image has no caption."""
    failed = sorted((outcome.image.name, outcome.problem) for outcome in outcomes if outcome.problem)
    if failed:
        say_wrapped("\nNo caption:")
        for problem in dict.fromkeys(problem for _, problem in failed):
            images = [image for image, why in failed if why == problem]
            say_wrapped(f"  {with_escapes(list_first(images))}: {problem}")
        what = f"{len(failed)} of {count} images got no caption"
        raise FluxError(
            what,
            "",
            f"run the same command again for these images, or write their captions by hand: {review}",
        )
