"""`flux rename`: numbers a dataset's images, each with its caption."""

import rich_click as click

from flux_training.commands.cli import say, say_wrapped, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.jobs.folders import HERE, find_dataset_folder, jobs_folder, other_dataset_folders
from flux_training.training.dataset.renaming import (
    Renaming,
    complete_interrupted,
    interrupted_renaming,
    plan_numbering,
    plan_undo,
    rename_files,
)
from flux_training.training.errors import BadInput
from flux_training.training.files import lock_for_flux_command
from flux_training.training.names import DATASET_FOLDER
from flux_training.training.words import counted, flux_command


@click.command()
@click.argument("name", shell_complete=complete_job)
@stack_option
@click.option("--undo", is_flag=True, help="Give the files the names that they had before the last renaming.")
@click.option("--dry-run", is_flag=True, help="Show what would be renamed. Rename nothing.")
def rename(name: str, stack: str, undo: bool, dry_run: bool) -> None:
    """Number the images of job NAME 00001, 00002 … in their natural order, each with its caption.

    If it was interrupted, running it again completes it. New names make a new dataset: the images are uploaded and the
    job is trained again.
    """
    dataset = find_dataset_folder(jobs_folder(HERE, stack), name)
    if paired := other_dataset_folders(dataset.parent, trained=False):
        raise BadInput(
            [
                f"{dataset}: train.yml pairs its images with those in {', '.join(paired)} by name, and only {DATASET_FOLDER}/ would be renamed;"
                " rename the files of a pair together, yourself"
            ]
        )
    with lock_for_flux_command(dataset):
        if dry_run and (interrupted := interrupted_renaming(dataset)):
            _print(interrupted)
            say_wrapped(f"{dataset}: this renaming was interrupted; without --dry-run it is completed first")
            return
        completed = complete_interrupted(dataset)
        if completed is not None:
            say_wrapped(
                f"{dataset}: completed the interrupted renaming of {counted(len(completed.moves), 'file')}"
            )
        if undo and completed is not None and completed.undo:
            return
        renaming = plan_undo(dataset) if undo else plan_numbering(dataset)
        files = counted(len(renaming.moves), "file")
        if not renaming.moves:
            say_wrapped(f"{dataset}: the images are numbered already")
        elif dry_run:
            _print(renaming)
            say_wrapped(f"{dataset}: {files} would be renamed")
        else:
            rename_files(dataset, renaming)
            undone = "have their old names back"
            done = f"renamed; {flux_command(f'rename {name} --undo', stack)} reverts this"
            say_wrapped(f"{dataset}: {files} {undone if undo else done}")


def _print(renaming: Renaming) -> None:
    for move in renaming.moves:
        say(f"  {move.old} → {move.new}")
