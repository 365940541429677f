"""`maxSteps`: short trainings on the local cloud, whose stand-in trainer is slow for what it does."""

from collections.abc import Iterable
from dataclasses import replace

from flux_training.training.errors import BadInput
from flux_training.training.estimates.parts import STAND_IN_STEP_SECONDS
from flux_training.training.jobs.folder import JobFolder
from flux_training.training.runs.run_state import show_duration
from flux_training.training.train_yml.templates import PROCESS
from flux_training.training.train_yml.yaml_text import set_value

# A training that takes less time than this is not mentioned in the note.
LONG_SECONDS = 300
# The example jobs have this many steps, so the suggestion does not make them train again.
SUGGESTED_STEPS = 300


def cap_steps(folder: JobFolder, max_steps: int | None) -> JobFolder:
    """The job with a train.yml of at most `max_steps` steps; the file in the folder stays as it is. Raises BadInput."""
    if max_steps is None or folder.steps <= max_steps:
        return folder
    try:
        text = set_value(folder.raw_config.decode(), (*PROCESS, "train", "steps"), str(max_steps))
    except (KeyError, ValueError) as error:
        raise BadInput(
            [
                f"{folder.path}: maxSteps ({max_steps}) cannot replace train.steps in train.yml ({error}); write the number there "
                "without an anchor, or remove maxSteps"
            ]
        ) from error
    raw_config = text.encode()
    return replace(folder, raw_config=raw_config, own_config=raw_config, steps=max_steps)


def describe_long_trainings(folders: Iterable[JobFolder], fix: str) -> str:
    """A note about trainings that take minutes with the stand-in trainer; empty if there are none. `fix`: what caps them."""
    long = [
        f"{show_duration(folder.steps * STAND_IN_STEP_SECONDS.low)} to {show_duration(folder.steps * STAND_IN_STEP_SECONDS.high)} for {folder.name}"
        for folder in folders
        if folder.steps * STAND_IN_STEP_SECONDS.high >= LONG_SECONDS
    ]
    if not long:
        return ""
    return f"The stand-in trainer of the local cloud takes {', '.join(long)}. For a quick try: {fix}"
