"""`flux caption`: captions for the images that have none, from a vision model; and the page to review them on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flux_training.clients.captions import KEY_VARIABLE, OPENAI_URL, URL_VARIABLE, host_of
from flux_training.commands.cli import console, say, stack_option
from flux_training.commands.jobs.folders import HERE, existing_dataset, jobs_folder
from flux_training.training.dataset.captions import (
    INSTRUCTION,
    MAX_SIDE,
    MAX_TOKENS,
    MODEL,
    POSITIONS,
    PRICES,
    TRIGGER,
    Price,
    estimate,
    judge,
    place_trigger,
    uncaptioned,
)
from flux_training.training.dataset.images import fitted, jpeg, read_picture, reduce, size_of
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import only_one_in, write_atomically, write_new
from flux_training.training.names import CAPTION_SUFFIX
from flux_training.training.train_yml.trainer_config import read_trainer_file

if TYPE_CHECKING:
    from flux_training.clients.captions import Captioner

SENT_QUALITY = 85
STOPPED = 130


@dataclass(frozen=True)
class Wishes:
    """How captions shall be made."""

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


@dataclass(frozen=True)
class Outcome:
    """What came of one image: its caption, or the problem. Tokens are what the service counted."""

    image: Path
    caption: str = ""
    problem: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


class PriceType(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs only
    """`0.10,0.40`."""

    name = "IN,OUT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Price:
        try:
            tokens_in, tokens_out = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: give USD for a million tokens in and out, such as 0.10,0.40", param, ctx)
        return Price(tokens_in, tokens_out)


@click.command()
@click.argument("name")
@stack_option
@click.option(
    "--review",
    is_flag=True,
    help="Show images and captions side by side in a browser, to correct them; asks no model.",
)
@click.option(
    "--dry-run", is_flag=True, help="Say what would be captioned, and for about how much; send nothing."
)
@click.option("--model", default=MODEL, show_default=True, help="The vision model.")
@click.option(
    "--base-url",
    default=OPENAI_URL,
    show_default=True,
    envvar=URL_VARIABLE,
    help="Any server with OpenAI's interface, such as http://127.0.0.1:11434/v1.",
)
@click.option(
    "--trigger",
    default=TRIGGER,
    show_default=True,
    help="What stands for the trained subject; ai-toolkit makes [trigger] train.yml's trigger_word.",
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
    default=INSTRUCTION,
    help="What the model is asked, instead of the recipe's words.",
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
    "--per-minute", default=120, show_default=True, type=click.IntRange(1), help="Requests a minute at most."
)
@click.option(
    "--max-side",
    default=MAX_SIDE,
    show_default=True,
    type=click.IntRange(64),
    help="Images are reduced to this many pixels before they are sent.",
)
@click.option(
    "--max-tokens", default=MAX_TOKENS, show_default=True, type=click.IntRange(16), help="The longest answer."
)
@click.option(
    "--price",
    type=PriceType(),
    help="USD for a million tokens in and out, where it is another than known here.",
)
def caption(name: str, stack: str, review: bool, dry_run: bool, price: Price | None, **wishes: Any) -> None:
    """Write the captions that a job's images lack. Those that are there are kept.

    The key is taken from OPENAI_API_KEY. A caption that was refused or cut is not written, and named at the end.
    Ctrl-C keeps what is there; run it again to go on.
    """
    dataset = existing_dataset(jobs_folder(HERE, stack), name)
    if review:
        from flux_training.commands.jobs.review import serve

        serve(dataset, _trigger_word(dataset.parent))
        return
    known = PRICES.get(wishes["model"])
    how = Wishes(price=price or (Price(*known) if known else None), **wishes)
    with only_one_in(dataset):
        missing = uncaptioned(dataset)
        _check_trigger(dataset.parent, how)
        _announce(dataset, missing, how)
        if missing and not dry_run:
            _caption(missing, how, name)


def _check_trigger(job: Path, how: Wishes) -> None:
    """[trigger] is replaced only where train.yml says by what."""
    if how.position != "none" and TRIGGER in how.trigger and not _trigger_word(job):
        raise BadInput(
            [
                f"{job}: its train.yml has no trigger_word, so ai-toolkit would leave {TRIGGER} in the captions as it stands; "
                "add one, or give --trigger WORD or --trigger-position none"
            ]
        )


def _trigger_word(job: Path) -> str:
    """What the job's train.yml says [trigger] becomes; nothing when it does not say. Raises BadInput."""
    file = read_trainer_file(job)
    if file.fault and file.raw:
        raise BadInput([f"{file.fault.path}: {file.fault.message}"])
    return file.trigger


def _announce(dataset: Path, missing: Sequence[Path], how: Wishes) -> None:
    if not missing:
        say(f"{dataset}: every image has a caption")
        return
    say(f"{dataset}: {len(missing)} {'image lacks' if len(missing) == 1 else 'images lack'} a caption")
    sizes = [fitted(*size, how.max_side) for image in missing if (size := size_of(image))]
    cost = estimate(sizes, how.model, how.instruction, how.price)
    host = host_of(how.base_url)
    if cost is None:
        say(f"{how.model} at {host}: what it costs is not known here (--price 0.10,0.40 says it)")
    else:
        price = how.price or Price(0, 0)
        say(
            f"{how.model} at {host}: about {_usd(cost)} at ${price.tokens_in:.2f} and ${price.tokens_out:.2f} "
            "for a million tokens in and out (--price, if that has changed)"
        )


def _caption(missing: Sequence[Path], how: Wishes, name: str) -> None:
    from flux_training.clients.captions import Captioner, key_for

    stop = threading.Event()
    key = key_for(how.base_url, os.environ)
    if key is None and os.environ.get(KEY_VARIABLE):
        say(f"{KEY_VARIABLE} is not sent: http to {host_of(how.base_url)} is not encrypted")
    captioner = Captioner(
        how.model, how.base_url, key, how.instruction,
        max_tokens=how.max_tokens, per_minute=how.per_minute, stop=stop,
    )  # fmt: skip
    outcomes: list[Outcome] = []
    try:
        _all(missing, lambda image: _one(captioner, image, how), how.threads, stop, outcomes)
    finally:
        captioner.close()
        _sum_up(outcomes, how)
    failed = sorted((outcome.image.name, outcome.problem) for outcome in outcomes if outcome.problem)
    if failed:
        say("\nNo caption:")
        for image, problem in failed:
            say(f"  {image}: {problem}")
        raise FluxError(
            f"{len(failed)} of {len(missing)} images got no caption",
            "",
            f"run it again for these, or write them by hand: ./flux caption {name} --review",
        )
    say(f"Next: ./flux caption {name} --review shows images and captions side by side")


def _one(captioner: Captioner, image: Path, how: Wishes) -> Outcome | None:
    """Caption one image, and write it before anything else happens; None when the user stopped first."""
    from flux_training.clients.captions import Refused, Stopped

    try:
        picture = jpeg(reduce(read_picture(image).image, how.max_side), SENT_QUALITY)
        answer = captioner.ask(picture)
    except Stopped:
        return None
    except Refused:
        raise
    except FluxError as error:
        return Outcome(image, problem=str(error))
    made = judge(answer)
    text, problem = made.text, made.problem
    if text:
        text = place_trigger(text, how.trigger, how.position)
        if not _write(image, text):
            text, problem = "", "a caption was written by someone else meanwhile; it is kept"
    return Outcome(image, text, problem, answer.tokens_in, answer.tokens_out)


def _write(image: Path, text: str) -> bool:
    """False when there is a caption already; a file of white space is none."""
    file = image.with_suffix(CAPTION_SUFFIX)
    if write_new(file, text + "\n"):
        return True
    if file.read_bytes().strip():
        return False
    write_atomically(file, text + "\n")
    return True


def _all(
    images: Sequence[Path],
    work: Callable[[Path], Outcome | None],
    threads: int,
    stop: threading.Event,
    outcomes: list[Outcome],
) -> None:
    """Do the work for every image, `threads` at a time. At Ctrl-C the answers under way are waited for and kept."""
    columns = (TextColumn("Captioning"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pool = ThreadPoolExecutor(threads)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(images))
        futures = [pool.submit(work, image) for image in images]
        done: set[Future[Outcome | None]] = set()
        try:
            for future in as_completed(futures):
                done.add(future)
                _note(future.result(), outcomes)
                progress.advance(bar)
        except BaseException as why:
            stop.set()
            _finish(pool, isinstance(why, KeyboardInterrupt))
            for future in futures:
                if future not in done and future.done() and not future.cancelled():
                    with suppress(FluxError):
                        _note(future.result(), outcomes)
            raise
    pool.shutdown()


def _note(outcome: Outcome | None, outcomes: list[Outcome]) -> None:
    if outcome is None:
        return
    outcomes.append(outcome)
    if outcome.caption and not console.is_terminal:
        say(f"{outcome.image.name}: {outcome.caption}")


def _finish(pool: ThreadPoolExecutor, stopped: bool) -> None:
    """Wait for what is under way: it is paid for. A second Ctrl-C does not wait."""
    if stopped:
        say("Waiting for the answers that are under way; Ctrl-C again throws them away")
    try:
        pool.shutdown(wait=True, cancel_futures=True)
    except KeyboardInterrupt:
        # Threads that wait for an answer would hold the process back until they get it.
        os._exit(STOPPED)


def _sum_up(outcomes: Sequence[Outcome], how: Wishes) -> None:
    if not outcomes:
        return
    tokens_in = sum(outcome.tokens_in for outcome in outcomes)
    tokens_out = sum(outcome.tokens_out for outcome in outcomes)
    cost = f": {_usd(how.price.of(tokens_in, tokens_out))}" if how.price else ""
    written = sum(bool(outcome.caption) for outcome in outcomes)
    say(f"{written} captions written; {tokens_in:,} tokens in, {tokens_out:,} out{cost}")


def _usd(amount: float) -> str:
    """`$0.0031`, `$1.20`: small sums are what captions cost."""
    return f"${amount:.2f}" if amount >= 1 else f"${amount:.4f}"
