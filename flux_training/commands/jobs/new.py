"""`flux new`: a job folder from a folder of photos."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rich_click as click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from flux_training.commands.cli import DEFAULT_STACK, UserPath, console, say
from flux_training.commands.jobs.folders import HERE, existing_dataset, jobs_folder
from flux_training.commands.stack.edit import declare, declared_jobs, entry_for
from flux_training.training.dataset.images import Look
from flux_training.training.dataset.intake import (
    MAX_SIDE,
    NUMBERED,
    TAKEN_SUFFIX,
    Intake,
    list_sources,
    looks_in,
    next_number,
    take_in,
)
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import natural_key, only_one_in, write_atomically
from flux_training.training.jobs.folder import read_config
from flux_training.training.lint.check import refuse_unusable
from flux_training.training.lint.registry import Subject
from flux_training.training.names import CAPTION_SUFFIX, IMAGE_SUFFIXES
from flux_training.training.train_yml.edit import PROMPTS, new_train_yml
from flux_training.training.train_yml.trainer_config import DATASET_FOLDER
from flux_training.training.words import counted


@click.command()
@click.argument("name")
@click.option(
    "--from",
    "source",
    required=True,
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    help="The folder with the photos, and with captions (.txt or .caption) where there are some. It is only read.",
)
@click.option("--trigger", help="The word that stands for what is trained, such as `ch3lsea cat`.")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="A sample to draw while it trains, with [trigger] in it. Give it several times.",
)
@click.option("--add", is_flag=True, help="Add the photos that a job has not yet.")
@click.option(
    "--max-side",
    default=MAX_SIDE,
    show_default=True,
    type=click.IntRange(min=0),
    help="Photos with a longer side are reduced to this many pixels; 0 keeps them as they are.",
)
@click.option("--stack", help="Also name the job in Pulumi.<stack>.yaml.")
def new(
    name: str,
    source: Path,
    trigger: str | None,
    prompts: tuple[str, ...],
    add: bool,
    max_side: int,
    stack: str | None,
) -> None:
    """Make a job folder from a folder of photos: upright, numbered, with their captions, each picture once.

    Takes JPEG, PNG, WebP, HEIC, AVIF, BMP, TIFF and GIF (of a moving one the first frame). Where a photo was
    taken and with what does not come along. The photos themselves are not changed.
    """
    folder = jobs_folder(HERE, stack or DEFAULT_STACK)
    job = folder / name
    if add:
        if trigger is not None or prompts:
            raise click.UsageError("--trigger and --prompt are for a new job; edit this one's train.yml")
        intake, numbers = _add(existing_dataset(folder, name), source, max_side)
    else:
        intake, numbers = _make(
            job, source, _checked(trigger, prompts, folder, name), prompts or PROMPTS, max_side
        )
    _report(job, intake, numbers)
    _declare_or_tell(stack, name)
    _next_steps(job, stack or DEFAULT_STACK)


def _checked(trigger: str | None, prompts: tuple[str, ...], folder: Path, name: str) -> str:
    """The trigger word, when all that was given can be used; raises BadInput with everything that cannot."""
    job = folder / name
    findings = []
    try:
        refuse_unusable(Subject(name, job, None, None))
    except BadInput as bad:
        findings += bad.findings
    if not findings and job.exists():
        findings.append(
            f"{job.name}: {job} is there already, and is not overwritten; "
            f"`flux new {job.name} --add --from …` adds the photos that it has not yet, another name makes another job"
        )
    if trigger is None:
        findings.append(
            "--trigger is missing: the word that stands for what is trained, such as `ch3lsea cat`"
        )
    elif not trigger.strip() or not trigger.isprintable() or "[" in trigger:
        findings.append(f"--trigger {trigger!r}: give a word or two, without brackets and line breaks")
    findings += [
        f"--prompt {prompt!r}: give one line of text"
        for prompt in prompts
        if not prompt.isprintable() or not prompt
    ]
    if findings or trigger is None:
        raise BadInput(findings)
    return trigger.strip()


def _make(
    job: Path, source: Path, trigger: str, prompts: tuple[str, ...], max_side: int
) -> tuple[Intake, list[int]]:
    """A new job folder, which appears whole or not at all."""
    job.parent.mkdir(parents=True, exist_ok=True)
    with _staging(job.parent, job.name) as staging:
        intake = _take(source, staging, [], max_side)
        if not intake.taken:
            raise BadInput([*intake.findings, f"{source}: no image that can be taken; nothing was made"])
        made = staging / job.name
        (made / DATASET_FOLDER).mkdir(parents=True)
        numbers = _number(intake, made / DATASET_FOLDER, 1)
        write_atomically(made / "train.yml", new_train_yml(job.name, trigger, prompts))
        read_config(made)
        try:
            made.rename(job)
        except OSError as error:
            raise FluxError(f"{job} appeared meanwhile", "it is not overwritten", "run this again") from error
    return intake, numbers


def _add(dataset: Path, source: Path, max_side: int) -> tuple[Intake, list[int]]:
    with only_one_in(dataset), _staging(dataset.parent.parent, dataset.parent.name) as staging:
        present = [file for file in dataset.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        known = looks_in(dataset, sorted(present, key=lambda file: natural_key(file.name)))
        intake = _take(source, staging, known, max_side)
        _lend_captions(dataset, intake)
        return intake, _number(intake, dataset, next_number(dataset))


def _take(source: Path, staging: Path, known: list[tuple[str, Look]], max_side: int) -> Intake:
    sources = list_sources(source)
    columns = (TextColumn("Reading the photos"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(sources.images))
        return take_in(sources, staging, known, max_side, lambda: progress.advance(task))


def _number(intake: Intake, dataset: Path, first: int) -> list[int]:
    """Move what was taken into the dataset; the numbers it got. The image goes first: one without a caption can be captioned."""
    numbers = list(range(first, first + len(intake.taken)))
    for number, taken in zip(numbers, intake.taken, strict=True):
        stem = NUMBERED.format(number)
        taken.file.rename(dataset / f"{stem}{TAKEN_SUFFIX}")
        if taken.caption:
            write_atomically(dataset / f"{stem}{CAPTION_SUFFIX}", taken.caption + "\n")
    return numbers


def _lend_captions(dataset: Path, intake: Intake) -> None:
    """An image of the job without a caption gets that of the same picture in the folder."""
    for duplicate in intake.duplicates:
        own = (dataset / duplicate.kept).with_suffix(CAPTION_SUFFIX)
        if duplicate.caption and (dataset / duplicate.kept).is_file() and not own.exists():
            write_atomically(own, duplicate.caption + "\n")
            intake.notes.append(f"{duplicate.kept}: has its caption from {duplicate.source} now")


@contextmanager
def _staging(jobs: Path, name: str) -> Iterator[Path]:
    """A hidden folder beside the jobs; what a killed command left of it is cleared away first."""
    for old in jobs.glob(f".{name}.new-*"):
        shutil.rmtree(old, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(dir=jobs, prefix=f".{name}.new-"))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _report(job: Path, intake: Intake, numbers: list[int]) -> None:
    captions = sum(bool(taken.caption) for taken in intake.taken)
    span = f" ({NUMBERED.format(numbers[0])} to {NUMBERED.format(numbers[-1])})" if numbers else ""
    reduced = f", {intake.reduced} reduced in size" if intake.reduced else ""
    say(f"{job}: {counted(len(numbers), 'image')} taken{span}, {captions} with a caption{reduced}")
    same = [f"{duplicate.source} shows the same as {duplicate.kept}" for duplicate in intake.duplicates]
    for title, lines in (("Set aside", same), ("Noted", intake.notes), ("Left out", intake.findings)):
        if lines:
            say(f"\n{title}:")
            for line in lines:
                say(f"  {line}")


def _declare_or_tell(stack: str | None, name: str) -> None:
    if stack is not None:
        added = declare(HERE, stack, {name: {}})
        say(f"\nPulumi.{stack}.yaml: {name} {'is named there now' if added else 'was named there already'}")


def _next_steps(job: Path, stack: str) -> None:
    dataset = job / DATASET_FOLDER
    images = [file for file in dataset.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    missing = sum(not file.with_suffix(CAPTION_SUFFIX).exists() for file in images)
    steps = {f"./flux caption {job.name} --review": "shows images and captions side by side"}
    if missing:
        steps = {
            f"./flux caption {job.name}": f"writes the {counted(missing, 'caption')} that it lacks"
        } | steps
    steps["make preview"] = "shows what would be trained"
    width = max(map(len, steps)) + 3
    say("\nNext:")
    if entry_for(declared_jobs(HERE, stack), job.name) is None:
        say(f"  name it in Pulumi.{stack}.yaml, below flux-training:jobs, with the line `{job.name}: {{}}`")
    for command, does in steps.items():
        say(f"  {command:<{width}}{does}")
