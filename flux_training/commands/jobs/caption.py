"""`flux caption`: generates captions for images without one with a vision model, or opens the review page."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flux_training.clients.captioning.captioner import (
    KEY_VARIABLE,
    OPENAI_URL,
    SET_KEY,
    URL_VARIABLE,
    ApiKeyMissing,
    host_and_port,
)
from flux_training.commands.cli import console, say, say_wrapped, stack_option, typed_options
from flux_training.commands.completion import complete_job
from flux_training.commands.interrupts import EXIT_INTERRUPTED
from flux_training.commands.jobs.caption_outcomes import (
    EQUAL_PROBES,
    PROBES,
    CaptionOptions,
    CaptionOutcome,
    needs_more_probes,
    print_failed,
    print_total,
    reject_equal_captions,
)
from flux_training.commands.jobs.folders import HERE, find_dataset_folder, jobs_folder, other_dataset_folders
from flux_training.training.bill import show_dollars
from flux_training.training.dataset.captions import (
    MAX_SIDE,
    MAX_TOKENS,
    MODEL,
    POSITIONS,
    PRICES,
    TRIGGER,
    Price,
    caption_from,
    estimate_caption_cost,
    has_caption,
    instruction_for,
    is_image,
    place_trigger,
    uncaptioned,
)
from flux_training.training.dataset.images import (
    encode_jpeg,
    fitted_size,
    read_image,
    read_image_size,
    reduce_image,
    side_by_side,
)
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import lock_for_flux_command, write_atomically, write_new
from flux_training.training.models.choice import choose_model
from flux_training.training.names import CAPTION_SUFFIX, DATASET_FOLDER, IMAGE_SUFFIXES, VIDEO_SUFFIXES
from flux_training.training.train_yml.dataset_folders import FolderKind, folder_uses
from flux_training.training.train_yml.trainer_config import read_trainer_file
from flux_training.training.words import counted, flux_command, with_escapes

if TYPE_CHECKING:
    from flux_training.clients.captioning.captioner import Captioner

JPEG_QUALITY = 85


class PriceType(click.ParamType):  # type: ignore[type-arg]  # generic only in click's stubs
    """`0.10,0.40`."""

    name = "IN,OUT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Price:
        try:
            tokens_in, tokens_out = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(
                f"{value!r}: give the price in USD of a million input tokens and of a million output tokens, such as 0.10,0.40",
                param,
                ctx,
            )
        return Price(tokens_in, tokens_out)


@click.command()
@click.argument("name", shell_complete=complete_job)
@stack_option
@click.option(
    "--review",
    is_flag=True,
    help="Open the images and captions in a browser to correct them. The model is used only for an image that you have captioned again there.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show how many images would be captioned and the cost. Send nothing."
)
@click.option("--model", default=MODEL, show_default=True, help="The vision model.")
@click.option(
    "--base-url",
    default=OPENAI_URL,
    show_default=True,
    envvar=URL_VARIABLE,
    help="A server with OpenAI's interface, such as http://127.0.0.1:11434/v1.",
)
@click.option(
    "--trigger",
    default=TRIGGER,
    show_default=True,
    help="The trigger word. ai-toolkit replaces [trigger] by the trigger_word of train.yml.",
)
@click.option(
    "--trigger-position",
    "position",
    default="end",
    show_default=True,
    type=click.Choice(POSITIONS),
    help="Where the trigger word goes.",
)
@click.option(
    "--prompt",
    "instruction",
    help="The prompt for the model. [default: the recipe's; for edit and video models one that fits them]",
)
@click.option(
    "--concurrency",
    "threads",
    default=8,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Requests at once.",
)
@click.option(
    "--per-minute", default=120, show_default=True, type=click.IntRange(1), help="Most requests in a minute."
)
@click.option(
    "--max-side",
    default=MAX_SIDE,
    show_default=True,
    type=click.IntRange(64),
    help="Larger images are reduced to this many pixels before they are sent.",
)
@click.option(
    "--max-tokens",
    default=MAX_TOKENS,
    show_default=True,
    type=click.IntRange(16),
    help="Most tokens in an answer.",
)
@click.option(
    "--price", type=PriceType(), help="USD for a million tokens in and out, if unknown here or changed."
)
def caption(name: str, stack: str, review: bool, dry_run: bool, price: Price | None, **given: Any) -> None:
    """Generate captions for the images of job NAME that have none. Existing captions are kept.

    The key is read from OPENAI_API_KEY. Reasoning, special tokens, introductions and the like are removed from answers. An answer without
    a caption is asked for once more, and not saved if there is none again; the image is listed at the end.
    Ctrl-C keeps what is there; run the same command to continue.
    """
    dataset = find_dataset_folder(jobs_folder(HERE, stack), name)
    given["base_url"] = given["base_url"].strip()
    known = PRICES.get(given["model"])
    controls = _control_folders(dataset.parent)
    given["instruction"] = given["instruction"] or _default_prompt(dataset.parent, bool(controls))
    options = CaptionOptions(price=price or (Price(*known) if known else None), controls=controls, **given)
    if review:
        other = flux_command(f"caption {name} --review --base-url URL --model MODEL", stack)
        _review(dataset, options, _review_command(name, stack), other)
        return
    with lock_for_flux_command(dataset):
        missing = uncaptioned(dataset)
        _check_trigger(dataset.parent, options)
        _print_what_will_be_sent(dataset, missing, options)
        if others := other_dataset_folders(dataset.parent, trained=True):
            say_wrapped(
                f"Not looked at: {', '.join(others)}, which train.yml trains on as well; write these captions yourself"
            )
        if missing and not dry_run:
            _caption_all(missing, options, _review_command(name, stack))


def _review_command(name: str, stack: str) -> str:
    """With the options of this call: the page's "Caption again" has to ask the same model at the same server."""
    typed = typed_options(leave_out={"review", "dry_run", "threads"})
    return flux_command(f"caption {name} --review{typed}", stack)


def _review(dataset: Path, options: CaptionOptions, again: str, other: str) -> None:
    """Serve the review page; it can ask the model for another caption.

    `again`: the command that starts this review again. `other`: the one that starts it with another server.
    """
    from flux_training.commands.jobs.review import CaptionService, serve

    trigger = _trigger_word(dataset.parent)
    if TRIGGER in options.trigger and not trigger:
        options = replace(options, position="none")
    service = f"{options.model} at {host_and_port(options.base_url)}"

    def caption_again(image: Path) -> str:
        try:
            return _caption_again(image, options)
        except FluxError as error:
            raise _with_step_from_review(error, again, other) from error

    serve(dataset, trigger, CaptionService(service, caption_again))


def _with_step_from_review(error: FluxError, again: str, other: str) -> FluxError:
    """The error with a next step that can be taken from the page: neither the key nor an option of a running review can be changed."""
    end = "end this review with Ctrl-C in its terminal"
    if isinstance(error, ApiKeyMissing):
        step = f"{end}, set the key there with {SET_KEY}, and start it again with {again}; or name another server: {other}"
        return FluxError(error.what, error.rule, step)
    if "--" in str(error):
        return FluxError(
            str(error), "", f"to change an option, {end}, and start it again with that option: {again}"
        )
    return error


def _caption_again(image: Path, options: CaptionOptions) -> str:
    """Another caption for an image; it is not saved. Raises FluxError."""
    with closing(_make_captioner(options, threading.Event())) as captioner:
        outcome = _ask(captioner, image, options)
    if outcome is None or outcome.problem:
        raise FluxError(f"{image.name}: {outcome.problem if outcome else 'stopped'}")
    return outcome.caption


def _check_trigger(job: Path, options: CaptionOptions) -> None:
    """Raises BadInput if [trigger] would be used but train.yml does not say what it stands for."""
    if options.position != "none" and TRIGGER in options.trigger and not _trigger_word(job):
        reason = f"train.yml has no trigger_word, so ai-toolkit would not replace {TRIGGER} in the captions"
        raise BadInput([f"{job}: {reason}; add one, or give --trigger WORD or --trigger-position none"])


def _control_folders(job: Path) -> tuple[Path, ...]:
    """The folders with control images of `dataset/`."""
    uses = folder_uses(read_trainer_file(job).process)
    return tuple(
        job / use.folder for use in uses if use.kind is FolderKind.CONTROL and use.images == DATASET_FOLDER
    )


def _default_prompt(job: Path, has_controls: bool) -> str:
    """The prompt that fits the model of the job's train.yml."""
    choice = choose_model(read_trainer_file(job).section("model"))
    return instruction_for(choice.model if choice.key else None, has_controls)


def _trigger_word(job: Path) -> str:
    """The trigger_word of the job's train.yml; may be empty. Raises BadInput."""
    file = read_trainer_file(job)
    if file.fault and file.raw:
        raise BadInput([f"{file.fault.path}: {file.fault.message}"])
    return file.trigger


def _print_what_will_be_sent(dataset: Path, missing: Sequence[Path], options: CaptionOptions) -> None:
    files = list(dataset.iterdir())
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES and not has_caption(file)]
    if videos:
        text = f"{min(videos).stem}{CAPTION_SUFFIX}"
        say_wrapped(
            f"{dataset}: {counted(len(videos), 'video')} without a caption; only images are sent: write {text} yourself"
        )
    if not missing:
        say_wrapped(f"{dataset}: every image has a caption")
        return
    say_wrapped(f"{dataset}: {counted(len(missing), 'image')} without a caption")
    sizes = [fitted_size(*size, options.max_side) for image in missing if (size := read_image_size(image))]
    cost = estimate_caption_cost(sizes, options.model, options.instruction, options.price)
    service = f"{options.model} at {host_and_port(options.base_url)}"
    if options.price is None:
        say_wrapped(f"{service}: unknown cost (give the price with --price 0.10,0.40)")
        return
    price = (
        f"${options.price.tokens_in:.2f} and ${options.price.tokens_out:.2f} for a million tokens in and out"
    )
    if cost is None:
        say_wrapped(
            f"{service}: {price}; the tokens that {options.model} needs for an image are not known before it has answered"
        )
        return
    say_wrapped(f"{service}: about {show_dollars(cost)} at {price} (--price, if this has changed)")


def _caption_all(missing: Sequence[Path], options: CaptionOptions, review: str) -> None:
    """`review` is the command that opens the review page."""
    stop = threading.Event()
    captioner = _make_captioner(options, stop)
    outcomes: list[CaptionOutcome] = []

    def keep(outcome: CaptionOutcome) -> None:
        """Save the caption at once."""
        kept = _save_outcome(outcome)
        outcomes.append(kept)
        if kept.caption and not console.is_terminal:
            say(f"{with_escapes(kept.image.name)}: {kept.caption}")

    def caption_image(image: Path) -> None:
        if outcome := _ask(captioner, image, options):
            keep(outcome)

    try:
        probed = _probe(captioner, missing[:EQUAL_PROBES], options, stop, keep)
        _run_parallel(caption_image, missing[probed:], options.threads, stop)
    finally:
        captioner.close()
        print_total(outcomes, options.price)
    print_failed(outcomes, len(missing), review)
    say_wrapped(f"Next: {review} shows images and captions side by side.")


def _make_captioner(options: CaptionOptions, stop: threading.Event) -> Captioner:
    from flux_training.clients.captioning.captioner import Captioner, api_key_for

    key = api_key_for(options.base_url, os.environ)
    if key is None and os.environ.get(KEY_VARIABLE):
        say_wrapped(f"{KEY_VARIABLE} is not sent: http to {host_and_port(options.base_url)} is not encrypted")
    return Captioner(
        options.model, options.base_url, key, options.instruction,
        max_tokens=options.max_tokens, per_minute=options.per_minute, stop=stop,
    )  # fmt: skip


def _probe(
    captioner: Captioner,
    images: Sequence[Path],
    options: CaptionOptions,
    stop: threading.Event,
    keep: Callable[[CaptionOutcome], None],
) -> int:
    """Ask for images one by one until two captions differ; returns how many were asked for.

    Raises FluxError if they have shown that the model reads no images: then no caption is kept.
    """
    held: list[CaptionOutcome] = []

    def hold(image: Path) -> None:
        if outcome := _ask(captioner, image, options):
            held.append(outcome)

    try:
        for image in images:
            _run_parallel(hold, [image], 1, stop)
            if not needs_more_probes(held, options):
                break
        held = reject_equal_captions(held, options)
    finally:
        for outcome in held:
            keep(outcome)
    if len(held) >= PROBES and all(outcome.hopeless for outcome in held):
        what = f"{captioner.model} at {captioner.host} has not captioned any of the first {len(held)} images"
        step = "choose a model that reads images with --model, and see the address in --base-url"
        raise FluxError(f"{what}: {held[-1].problem}", "no other image was sent", step)
    return len(held)


def _ask(captioner: Captioner, image: Path, options: CaptionOptions) -> CaptionOutcome | None:
    """The model's caption of an image, with the trigger word; None if the user stopped before the answer."""
    from flux_training.clients.captioning.captioner import CaptioningRefused, CaptioningStopped
    from flux_training.clients.captioning.requests import InvalidCompletion

    try:
        picture = _picture_to_send(image, options)
        answers = [captioner.ask(picture)]
        found = caption_from(answers[0], options.instruction)
        if (found.problem and not found.final) or found.is_foreign:
            answers.append(captioner.ask(picture, strict=True))
            second = caption_from(answers[1], options.instruction)
            # A caption in another language is better than none.
            found = found if found.text and second.problem else second
    except CaptioningStopped:
        return None
    except CaptioningRefused:
        raise
    except FluxError as error:
        # Do not name the image in the error: the caller shows it beside the problem.
        problem = str(error).removeprefix(f"{image.name}: ")
        return CaptionOutcome(image, problem=problem, hopeless=isinstance(error, InvalidCompletion))
    text = place_trigger(found.text, options.trigger, options.position) if found.text else ""
    tokens_in, tokens_out = sum(one.tokens_in for one in answers), sum(one.tokens_out for one in answers)
    return CaptionOutcome(image, text, found.problem, tokens_in, tokens_out, found.removed, found.hopeless)


def _picture_to_send(image: Path, options: CaptionOptions) -> bytes:
    """What is sent: the image, to the right of its control images if it has any. Raises BadInput."""
    files = [*(file for folder in options.controls for file in _find_control_image(image, folder)), image]
    images = [reduce_image(read_image(file).image, options.max_side) for file in files]
    return encode_jpeg(reduce_image(side_by_side(images), options.max_side), JPEG_QUALITY)


def _find_control_image(image: Path, folder: Path) -> list[Path]:
    """The image of the same name in a folder of control images, as ai-toolkit looks for it; empty if there is none."""
    named = (folder / f"{image.stem}{suffix}" for suffix in IMAGE_SUFFIXES)
    return [file for file in named if is_image(file)][:1]


def _save_outcome(outcome: CaptionOutcome) -> CaptionOutcome:
    """The outcome after its caption has been saved."""
    if outcome.caption and not _write(outcome.image, outcome.caption):
        problem = "another program has written a caption meanwhile; it is kept"
        return replace(outcome, caption="", problem=problem)
    return outcome


def _write(image: Path, text: str) -> bool:
    """False if there is a caption; a file of white space does not count."""
    file = image.with_suffix(CAPTION_SUFFIX)
    if write_new(file, text + "\n"):
        return True
    if file.read_bytes().strip():
        return False
    write_atomically(file, text + "\n")
    return True


def _run_parallel(
    work: Callable[[Path], None], images: Sequence[Path], threads: int, stop: threading.Event
) -> None:
    """Do `work` for every image. At Ctrl-C, requests that have been sent are waited for: they are paid for."""
    columns = (TextColumn("Captioning"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pool = ThreadPoolExecutor(threads)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(images))
        futures = [pool.submit(work, image) for image in images]
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(bar)
        except BaseException as error:
            stop.set()
            if isinstance(error, KeyboardInterrupt):
                say_wrapped("Waiting for the answers to requests already sent; Ctrl-C again discards them")
            try:
                pool.shutdown(cancel_futures=True)
            except KeyboardInterrupt:
                # Exit at once: a normal exit would wait for the threads.
                os._exit(EXIT_INTERRUPTED)
            raise
    pool.shutdown()
