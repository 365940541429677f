"""Finds and makes a stack's job folders."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flux_training.commands.stack.file import stack_settings
from flux_training.training.errors import BadInput
from flux_training.training.jobs.declare import job_folder_names
from flux_training.training.names import DATASET_FOLDER
from flux_training.training.opening import outside_target, project_of_job_folder
from flux_training.training.train_yml.dataset_folders import folder_uses
from flux_training.training.train_yml.trainer_config import read_trainer_file
from flux_training.training.words import nearest

# The folder in which the user called `flux`. The command itself then changes to the checkout.
HERE = Path()


def jobs_folder(root: Path, stack: str) -> Path:
    """The stack's `jobsFolder`, relative to the checkout. Raises BadInput if the stack file cannot be used."""
    return Path(stack_settings(root, stack).jobs_folder)


def find_job_folder(folder: Path, name: str) -> Path:
    """The job's folder. Raises BadInput with the nearest name if there is none."""
    if name not in job_folder_names(folder):
        raise BadInput([f"{name}: no folder under {folder}{nearest(name, job_folder_names(folder))}"])
    return folder / name


def find_dataset_folder(folder: Path, name: str) -> Path:
    """The job's `dataset/`. Raises BadInput if it has none."""
    dataset = find_job_folder(folder, name) / DATASET_FOLDER
    if not dataset.is_dir():
        reason = "if the job uses another job's images (`dataset:` in the stack file), give that job's name"
        raise BadInput([f"{dataset}: no such folder; {reason}"])
    if target := outside_target(dataset, project_of_job_folder(dataset.parent)):
        raise BadInput(
            [f"{dataset}: links to {target}, outside the project; replace the link by a copy of the folder"]
        )
    return dataset


def other_dataset_folders(job: Path, *, trained: bool) -> list[str]:
    """The folders beside `dataset/` that train.yml trains on, or those whose files belong to the images of `dataset/` by name."""
    uses = folder_uses(read_trainer_file(job).process)
    found = [
        f"{use.folder}/"
        for use in uses
        if use.folder != DATASET_FOLDER
        and (use.is_trained if trained else not use.is_trained and use.images == DATASET_FOLDER)
    ]
    return list(dict.fromkeys(found))


@contextmanager
def staging_folder(jobs: Path, name: str) -> Iterator[Path]:
    """A hidden folder in which to build a job folder before it gets its name. Removes those that a killed command has left."""
    for old in jobs.glob(f".{name}.new-*"):
        shutil.rmtree(old, ignore_errors=True)
    with (
        _treat_signals_like_ctrl_c(),
        tempfile.TemporaryDirectory(dir=jobs, prefix=f".{name}.new-", ignore_cleanup_errors=True) as folder,
    ):
        yield Path(folder)


@contextmanager
def _treat_signals_like_ctrl_c() -> Iterator[None]:
    """Let `kill`, a time-out and a closed terminal clean up like Ctrl-C."""
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
