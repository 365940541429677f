"""`flux rename`: a dataset's images numbered in order, each with its caption."""

from __future__ import annotations

import rich_click as click

from flux_training.commands.cli import say, stack_option
from flux_training.commands.jobs.folders import HERE, existing_dataset, jobs_folder
from flux_training.training.dataset.renaming import Renaming, carry_out, go_on, plan, taken_back, under_way
from flux_training.training.files import only_one_in
from flux_training.training.words import counted


@click.command()
@click.argument("name")
@stack_option
@click.option("--undo", is_flag=True, help="Give the files the names that they had before the last renaming.")
@click.option("--dry-run", is_flag=True, help="Say what would be renamed; rename nothing.")
def rename(name: str, stack: str, undo: bool, dry_run: bool) -> None:
    """Number a job's images 00001, 00002 … in their natural order, each together with its caption.

    Interrupted, run it again: it ends what it began. New names are a new dataset: the images are sent, and the job
    is trained, again.
    """
    dataset = existing_dataset(jobs_folder(HERE, stack), name)
    with only_one_in(dataset):
        if dry_run and (interrupted := under_way(dataset)):
            _show(interrupted)
            say(f"{dataset}: this renaming was interrupted; without --dry-run it is ended first")
            return
        ended = go_on(dataset)
        if ended is not None:
            say(f"{dataset}: ended what was interrupted, of {counted(len(ended.moves), 'file')}")
        if undo and ended is not None and ended.undo:
            return
        renaming = taken_back(dataset) if undo else plan(dataset)
        if not renaming.moves:
            say(f"{dataset}: the images are numbered already")
        elif dry_run:
            _show(renaming)
            say(f"{dataset}: {counted(len(renaming.moves), 'file')} would be renamed")
        else:
            carry_out(dataset, renaming)
            back = (
                "have their old names back" if undo else f"renamed; ./flux rename {name} --undo takes it back"
            )
            say(f"{dataset}: {counted(len(renaming.moves), 'file')} {back}")


def _show(renaming: Renaming) -> None:
    for move in renaming.moves:
        say(f"  {move.old} → {move.new}")
