"""`flux new`: makes a job folder from a folder of photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich_click as click
from click.shell_completion import CompletionItem
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from flux_training.commands.cli import UserPath, console, say_wrapped
from flux_training.commands.jobs.folders import HERE, find_dataset_folder, staging_folder
from flux_training.commands.jobs.set_aside import images_set_aside
from flux_training.commands.stack.edit import declare_jobs_in_file, declared_jobs, job_entry, jobs_key
from flux_training.commands.stack.file import stack_settings
from flux_training.training.dataset.captions import is_image
from flux_training.training.dataset.control_images import find_control_images, import_control_images
from flux_training.training.dataset.images import Fingerprint
from flux_training.training.dataset.intake import (
    IMPORTED_SUFFIX,
    MAX_SIDE,
    NUMBERED,
    Intake,
    fingerprints_in,
    import_images,
    list_files_to_import,
    next_number,
)
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import lock_for_flux_command, natural_key, write_atomically
from flux_training.training.jobs.declare import is_model_in_an_image
from flux_training.training.jobs.folder import read_config
from flux_training.training.lint.check import refuse_unusable
from flux_training.training.lint.registry import Subject
from flux_training.training.models.choice import find_model
from flux_training.training.models.table import DEFAULT_MODEL, MODELS, TrainableModel
from flux_training.training.names import CAPTION_SUFFIX, DATASET_FOLDER, IMAGE_SUFFIXES, QUOTATION_MARKS
from flux_training.training.train_yml.edit import new_train_yml, training_values
from flux_training.training.train_yml.templates import control_folders
from flux_training.training.train_yml.trainer_keys import TRAINER_KEYS
from flux_training.training.words import (
    DEFAULT_STACK,
    counted,
    flux_command,
    list_first,
    make_command,
    nearest,
    with_escapes,
)


@dataclass(frozen=True)
class PhotoSource:
    """What is imported: `folder` with the photos, and for edit models the folders with their control images."""

    folder: Path
    controls: tuple[Path, ...]
    max_side: int


class ModelType(click.ParamType):  # type: ignore[type-arg]  # generic only in click's stubs
    """A model by its name, its architecture or its id on Hugging Face."""

    name = "MODEL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TrainableModel:
        found = value if isinstance(value, TrainableModel) else find_model(str(value))
        if found is None and value in TRAINER_KEYS["model"]["arch"].choices:
            self.fail(
                f"ai-toolkit trains {value}, but nothing else is known about it here: make the job for another model, change "
                "`model` in its train.yml, and give its entry in `jobs` of the stack `model: {unchecked: true}`",
                param,
                ctx,
            )
        if found is None:
            longer = [f"`{name}`" for name in MODELS if name.startswith(str(value))]
            meant = (
                f" (did you mean {' or '.join(longer)}?)" if longer and value else nearest(str(value), MODELS)
            )
            self.fail(
                f"there is no model {value!r}{meant}; `./flux models` lists them",
                param,
                ctx,
            )
        return found

    def shell_complete(
        self, _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(name) for name in MODELS if name.startswith(incomplete)]


@click.command()
@click.argument("name")
@click.option(
    "--from",
    "source",
    required=True,
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    help="The folder with the photos, and captions (.txt or .caption) if there are any. It is not changed.",
)
@click.option(
    "--trigger",
    help="The trigger word: stands for what is trained, such as `ch3lsea cat`. A new job needs one.",
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="The prompt of a sample, with [trigger] in it. Can be given several times.",
)
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    type=ModelType(),
    help="The model to train; `flux models` lists them.",
)
@click.option(
    "--control",
    "controls",
    multiple=True,
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    help="For an edit model: the folder with the images before the edit, named like the photos. Can be given up to three times.",
)
@click.option(
    "--add",
    is_flag=True,
    help="Add photos to an existing job; those that it has, or has set aside, are skipped.",
)
@click.option(
    "--max-side",
    default=MAX_SIDE,
    show_default=True,
    type=click.IntRange(min=0),
    help="Larger photos are reduced to this many pixels; 0 keeps their size.",
)
@click.option("--stack", help="Also declare the job in Pulumi.<stack>.yaml.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Training steps. [default: the model's, such as 2000]"
)
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    help="The LoRA's rank and alpha: its size. [default: the model's, such as 16]",
)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="The learning rate. [default: 1e-4]")
@click.option(
    "--resolution",
    "resolutions",
    multiple=True,
    type=click.IntRange(min=64),
    help="Train each image in this size; can be given several times. [default: the model's, such as 512, 768 and 1024]",
)
def new(
    name: str,
    source: Path,
    trigger: str | None,
    prompts: tuple[str, ...],
    model: TrainableModel,
    controls: tuple[Path, ...],
    add: bool,
    max_side: int,
    stack: str | None,
    steps: int | None,
    rank: int | None,
    lr: float | None,
    resolutions: tuple[int, ...],
) -> None:
    """Make a job folder from a folder of photos: rotated upright, numbered, with their captions, without duplicates.

    Reads JPEG, PNG, WebP, HEIC, AVIF, BMP, TIFF and GIF (the first frame). Location and camera data are removed. The
    photos themselves are not changed.
    """
    settings = stack_settings(HERE, stack or DEFAULT_STACK)
    folder = HERE / settings.jobs_folder
    job = folder / name
    values = training_values(steps, rank, lr, resolutions)
    photos = PhotoSource(source, controls, max_side)
    if add:
        if trigger is not None or prompts or values or model.name != DEFAULT_MODEL:
            raise click.UsageError("--add only adds photos; change other things in the job's train.yml")
        intake, numbers = _add(find_dataset_folder(folder, name), photos)
    else:
        word = _valid_trigger(
            trigger, prompts, folder, name, stack or DEFAULT_STACK, _control_findings(model, controls)
        )
        text = new_train_yml(
            job.name, word, prompts, values, model,
            controls=len(controls), is_in_image=is_model_in_an_image(settings, model),
        )  # fmt: skip
        intake, numbers = _make(job, photos, text)
    _print_intake(job, intake, numbers)
    if stack is not None:
        added = declare_jobs_in_file(HERE, stack, {name: {}})
        say_wrapped(f"\nPulumi.{stack}.yaml: {name} {'is declared now' if added else 'was declared already'}")
    _print_next_steps(job, stack or DEFAULT_STACK)


def _control_findings(model: TrainableModel, controls: Sequence[Path]) -> list[str]:
    fewest, most = model.datasets.control_images
    if fewest <= len(controls) <= most:
        return []
    takes = (
        counted(most, "control image") if fewest == most else f"{fewest} to {counted(most, 'control image')}"
    )
    step = (
        "give a folder for each with --control FOLDER"
        if most
        else "leave --control out, or choose an edit model"
    )
    return [f"--control: {model.name} takes {takes} for each photo, {len(controls)} given; {step}"]


def _valid_trigger(
    trigger: str | None,
    prompts: tuple[str, ...],
    folder: Path,
    name: str,
    stack: str,
    known: Sequence[str],
) -> str:
    """The trigger word. Raises BadInput with everything that is wrong with the arguments, and what is `known` to be wrong."""
    job, findings = folder / name, list(known)
    try:
        refuse_unusable(Subject(name, job, None, None))
    except BadInput as bad:
        findings += bad.findings
    if not findings and job.exists():
        add = f"{flux_command(f'new {name} --add --from FOLDER', stack)} adds photos to it"
        findings.append(f"{name}: {job} exists and is not overwritten; {add}, or give another name")
    if trigger is None:
        findings.append(
            "--trigger is missing: the word that stands for what is trained, such as `ch3lsea cat`"
        )
    elif not trigger.strip() or not trigger.isprintable() or "[" in trigger:
        findings.append(f"--trigger {trigger!r}: give a word or two, without brackets or line breaks")
    elif trigger.strip().startswith(tuple(QUOTATION_MARKS)):
        findings.append(f"--trigger {trigger}: the quotes would be a part of the word; type it without them")
    invalid = [prompt for prompt in prompts if not prompt.isprintable() or not prompt]
    findings += [f"--prompt {prompt!r}: give one line of text" for prompt in invalid]
    if findings or trigger is None:
        raise BadInput(findings)
    return trigger.strip()


def _make(job: Path, photos: PhotoSource, train_yml: str) -> tuple[Intake, list[int]]:
    """Make a new job folder; it appears only once it is complete."""
    job.parent.mkdir(parents=True, exist_ok=True)
    with staging_folder(job.parent, job.name) as staging:
        intake = _convert_photos(photos, staging, [])
        if not intake.taken:
            raise BadInput(
                [
                    *map(with_escapes, group_files_by_reason(intake.findings)),
                    f"{photos.folder}: contains no usable image, so no job was created",
                ]
            )
        made = staging / job.name
        (made / DATASET_FOLDER).mkdir(parents=True)
        numbers = _move(photos, intake, made / DATASET_FOLDER, 1)
        write_atomically(made / "train.yml", train_yml)
        read_config(made)
        try:
            made.rename(job)
        except OSError as error:
            raise FluxError(
                f"{job} was created meanwhile", "it is not overwritten", "run this again"
            ) from error
    return intake, numbers


def _add(dataset: Path, photos: PhotoSource) -> tuple[Intake, list[int]]:
    with (
        lock_for_flux_command(dataset),
        staging_folder(dataset.parent.parent, dataset.parent.name) as staging,
    ):
        present = [file for file in dataset.iterdir() if is_image(file)]
        known = fingerprints_in(dataset, sorted(present, key=lambda file: natural_key(file.name)))
        # An image that was set aside would otherwise come back with its folder of photos.
        aside = images_set_aside(dataset)
        known += fingerprints_in(dataset.parent, aside)
        intake = _convert_photos(photos, staging, known)
        _copy_captions(dataset, intake)
        return intake, _move(photos, intake, dataset, next_number(dataset, aside))


def _convert_photos(photos: PhotoSource, staging: Path, known: list[tuple[str, Fingerprint]]) -> Intake:
    sources = list_files_to_import(photos.folder)
    columns = (TextColumn("Reading the photos"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(sources.images))
        return import_images(sources, staging, known, photos.max_side, lambda: progress.advance(task))


def _move(photos: PhotoSource, intake: Intake, dataset: Path, first: int) -> list[int]:
    """Move the converted images into the dataset, after their control images; their numbers."""
    numbers = list(range(first, first + len(intake.taken)))
    found = find_control_images(photos.controls, [taken.source for taken in intake.taken])
    numbered = {
        NUMBERED.format(number): found[taken.source]
        for number, taken in zip(numbers, intake.taken, strict=True)
    }
    folders = [dataset.parent / name for name in control_folders(len(photos.controls))]
    import_control_images(numbered, folders, photos.max_side)
    for number, taken in zip(numbers, intake.taken, strict=True):
        stem = NUMBERED.format(number)
        # Move the image before its caption: if the command is interrupted, an image without a caption can still be captioned.
        taken.file.rename(dataset / f"{stem}{IMPORTED_SUFFIX}")
        if taken.caption:
            write_atomically(dataset / f"{stem}{CAPTION_SUFFIX}", taken.caption + "\n")
    return numbers


def _copy_captions(dataset: Path, intake: Intake) -> None:
    """An image of the job without a caption gets the caption of its duplicate in the source folder."""
    for duplicate in intake.duplicates:
        own = (dataset / duplicate.kept).with_suffix(CAPTION_SUFFIX)
        if duplicate.caption and (dataset / duplicate.kept).is_file() and not own.exists():
            write_atomically(own, duplicate.caption + "\n")
            intake.notes.append(f"{duplicate.kept}: got the caption of {duplicate.source}")


def _print_intake(job: Path, intake: Intake, numbers: list[int]) -> None:
    captions = sum(bool(taken.caption) for taken in intake.taken)
    span = f" ({NUMBERED.format(numbers[0])} to {NUMBERED.format(numbers[-1])})" if numbers else ""
    reduced = f", {intake.reduced} reduced in size" if intake.reduced else ""
    say_wrapped(f"{job}: {counted(len(numbers), 'image')} added{span}, {captions} with a caption{reduced}")
    same = [f"{duplicate.source} shows the same as {duplicate.kept}" for duplicate in intake.duplicates]
    for title, lines in (
        ("Duplicates, left out", same),
        ("Notes", intake.notes),
        ("Left out", group_files_by_reason(intake.findings)),
    ):
        if lines:
            say_wrapped(f"\n{title}:")
            for line in lines:
                say_wrapped(f"  {with_escapes(line)}")


def _print_next_steps(job: Path, stack: str) -> None:
    dataset = job / DATASET_FOLDER
    images = [file for file in dataset.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    missing = sum(not file.with_suffix(CAPTION_SUFFIX).exists() for file in images)
    steps = {}
    if missing:
        steps[flux_command(f"caption {job.name}", stack)] = (
            f"writes the {counted(missing, 'missing caption')} with a model"
        )
    steps[flux_command(f"caption {job.name} --review", stack)] = "is a page to write and correct captions"
    steps[make_command("preview", stack)] = "shows what would be trained"
    width = max(map(len, steps)) + 1
    say_wrapped("\nNext:")
    if job_entry(declared_jobs(HERE, stack), job.name) is None:
        say_wrapped(
            f"  declare it in Pulumi.{stack}.yaml, below {jobs_key(HERE)}, with the line `{job.name}: {{}}`"
        )
    for command, effect in steps.items():
        say_wrapped(f"  {command:<{width}}{effect}")


def group_files_by_reason(findings: Sequence[str]) -> list[str]:
    """One line for all files with the same reason: `a.psd, b.psd, c.psd and 37 more: not an image`."""
    files: dict[str, list[str]] = {}
    for finding in findings:
        name, _, reason = finding.partition(": ")
        files.setdefault(reason, []).append(name)
    return [f"{list_first(names)}: {reason}" for reason, names in files.items()]
