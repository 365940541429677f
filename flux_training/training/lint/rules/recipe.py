"""Rules about train.yml: can it be read, and does it fit how jobs are run here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.train_yml.known_keys import COMMIT, KNOWN_KEYS
from flux_training.training.train_yml.trainer_config import DATASET_FOLDER, OUTPUT_FOLDER
from flux_training.training.words import nearest

AREA = Area("train.yml")
MODEL_FOLDER = "/model"
# `sd_trainer` and the two that ai-toolkit's own user interface writes: extensions_built_in/sd_trainer/__init__.py.
TRAINERS = ("sd_trainer", "ui_trainer", "diffusion_trainer")
# ai-toolkit's own default.
SAVES_KEPT = 5
VARIABLE = re.compile(r"\$\{([^}]+)\}")

AREA.fault(
    "config-missing",
    "a job folder needs a train.yml",
    "copy one from another job folder and mind its five marked lines",
)
AREA.fault("config-both", "only one of the two may be there", "delete the one you do not use")
AREA.fault("config-unreadable", "train.yml is a short text file", "make it a readable file")
AREA.fault("config-encoding", "the trainer reads train.yml as UTF-8", "save the file as UTF-8")
AREA.fault("config-yaml", "ai-toolkit cannot read it", "mend that line")
AREA.fault("config-value", "ai-toolkit turns the file into JSON and back", "mend the value")
AREA.fault("config-keys", "without them ai-toolkit refuses the file", "see jobs/ for an example")


@AREA.error(
    "config-name",
    "they must be the same, because outputs are synced from output/<job folder>",
    "write the folder's name there",
    needed=True,
)
def config_name(job: Subject) -> Iterator[Problem]:
    if job.config is None or job.config.fault:
        return
    name = job.config.document["config"].get("name")
    if name != job.name:
        line = job.config.line_of(("config", "name"))
        said = f"`{name}`" if isinstance(name, str) else repr(name)
        yield Problem(str(job.config.path), f"config.name is {said}, but the folder is `{job.name}`", line)


@AREA.error(
    "config-process",
    "ai-toolkit trains what stands in config.process",
    "write one process of type sd_trainer",
    needed=True,
)
def config_process(job: Subject) -> Iterator[Problem]:
    if job.config and not job.config.fault and not job.config.process:
        yield Problem(
            str(job.config.path), "config.process[0] is missing", job.config.line_of(("config", "process"))
        )


@AREA.error(
    "training-folder",
    f"only `{OUTPUT_FOLDER}` is synced to the bucket",
    f"set it to `{OUTPUT_FOLDER}`",
    needed=True,
)
def training_folder(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains and job.config.process.get("training_folder") != OUTPUT_FOLDER:
        said = job.config.process.get("training_folder")
        yield job.in_config(f"training_folder is {said!r}", "training_folder")


@AREA.error(
    "folder-path",
    f"on the node the images lie in `{DATASET_FOLDER}`",
    f"set datasets: [{{folder_path: {DATASET_FOLDER}}}]",
    needed=True,
)
def folder_path(job: Subject) -> Iterator[Problem]:
    if not job.trains or job.config is None:
        return
    datasets = job.config.process.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        yield job.in_config("datasets[0] is missing", "datasets")
        return
    for number, entry in enumerate(datasets):
        folder = entry.get("folder_path") if isinstance(entry, dict) else None
        if not _is_dataset_folder(folder):
            message = f"datasets[{number}].folder_path is {folder!r}"
            yield job.in_config(message, "datasets", str(number), "folder_path")


@AREA.error(
    "steps-invalid",
    "the trainer counts to train.steps",
    "write a whole number above 0, such as 2000",
    needed=True,
)
def steps_invalid(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains and job.config.steps is None:
        yield job.in_config(f"train.steps is {job.section('train').get('steps')!r}", "train", "steps")


@AREA.error(
    "save-every-invalid",
    "a run that is interrupted goes on from what was saved",
    "write a whole number above 0, such as 250",
    needed=True,
)
def save_every_invalid(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains and job.config.save_every is None:
        said = job.section("save").get("save_every")
        yield job.in_config(f"save.save_every is {said!r}", "save", "save_every")


@AREA.error(
    "model-path",
    f"the container image has the weights of FLUX.1-dev in `{MODEL_FOLDER}`; anything else would be downloaded by the node, with a login it lacks",
    f"set name_or_path: {MODEL_FOLDER}, or silence this when your own image has them elsewhere",
)
def model_path(job: Subject) -> Iterator[Problem]:
    said = job.section("model").get("name_or_path")
    if job.trains and (not isinstance(said, str) or said.rstrip("/") != MODEL_FOLDER):
        yield job.in_config(f"model.name_or_path is {said!r}", "model", "name_or_path")


@AREA.warning(
    "saves-kept",
    "a checkpoint that the trainer deletes is deleted from the bucket, too",
    "set save.max_step_saves_to_keep to at least the number of saves",
)
def saves_kept(job: Subject) -> Iterator[Problem]:
    if not job.config or not job.config.steps or not job.config.save_every:
        return
    kept = job.section("save").get("max_step_saves_to_keep", SAVES_KEPT)
    # The last save is the LoRA itself, which is never deleted.
    saves = (job.config.steps - 1) // job.config.save_every
    if isinstance(kept, int) and 0 < kept < saves:
        yield job.in_config(
            f"keeps {kept} of the {saves} saves of this run", "save", "max_step_saves_to_keep"
        )


@AREA.error(
    "config-processes",
    "one job is one training: the launcher waits for one LoRA of one length",
    "make a job folder for each",
)
def config_processes(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains:
        processes = job.config.document["config"]["process"]
        if len(processes) > 1:
            line = job.config.line_of(("config", "process", "1"))
            yield Problem(str(job.config.path), f"config.process has {len(processes)} entries", line)


@AREA.error(
    "process-type",
    "other processes of ai-toolkit extract, merge or draw; they leave no LoRA",
    f"set type: {TRAINERS[0]}",
)
def process_type(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains and job.config.process.get("type") not in TRAINERS:
        said = job.config.process.get("type")
        yield job.in_config(f"the process is of type {said!r}{nearest(str(said), TRAINERS)}", "type")


@AREA.error(
    "caption-ext",
    "captions reach the node as .txt",
    "set caption_ext: txt",
)
def caption_ext(job: Subject) -> Iterator[Problem]:
    for number, entry in enumerate(job.config.datasets if job.config else ()):
        said = entry.get("caption_ext", "txt")
        if str(said).lstrip(".") != "txt":
            yield job.in_config(f"caption_ext is {said!r}", "datasets", str(number), "caption_ext")


@AREA.error(
    "key-unknown",
    f"ai-toolkit (commit {COMMIT[:8]}) passes over it in silence and takes its default",
    "mend the name, or delete it; silence this when your own image has a newer ai-toolkit",
)
def key_unknown(job: Subject) -> Iterator[Problem]:
    if not job.config or job.config.fault:
        return
    config = job.config.document["config"]
    for key in config.keys() - KNOWN_KEYS["config"]:
        line = job.config.line_of(("config", key))
        near = nearest(key, KNOWN_KEYS["config"])
        yield Problem(str(job.config.path), f"unknown key config.{key}{near}", line)
    for number, process in enumerate(
        config.get("process") if isinstance(config.get("process"), list) else []
    ):
        for place, key, near in _unknown(process, (), ""):
            line = job.config.line_of(("config", "process", str(number), *place, key))
            yield Problem(str(job.config.path), f"unknown key {'.'.join((*place, key))}{near}", line)


@AREA.error(
    "key-repeated",
    "of a key that stands twice only the last is read",
    "delete one of them",
)
def key_repeated(job: Subject) -> Iterator[Problem]:
    for key, line in job.config.repeated if job.config else ():
        yield Problem(str(job.config.path) if job.config else "", f"{key} is there a second time", line)


@AREA.error(
    "config-variable",
    "ai-toolkit puts the node's environment there, and ends when it has no such variable",
    "set it under cluster.environment in the stack's configuration, or write the value",
)
def config_variable(job: Subject) -> Iterator[Problem]:
    if not job.config:
        return
    text = job.config.raw.decode(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        for name in VARIABLE.findall(line):
            if name not in job.variables:
                yield Problem(str(job.config.path), f"${{{name}}} is no variable of the node", number)


@AREA.error(
    "push-to-hub",
    "the node has no login of Hugging Face, and asks for one until the run is stopped for standing still",
    "set push_to_hub: false; the LoRA comes to the bucket",
)
def push_to_hub(job: Subject) -> Iterator[Problem]:
    if job.section("save").get("push_to_hub"):
        yield job.in_config("save.push_to_hub is set", "save", "push_to_hub")


@AREA.error("device", "a node has one GPU", "set device: cuda:0")
def device(job: Subject) -> Iterator[Problem]:
    said = job.config.process.get("device", "cuda:0") if job.config else "cuda:0"
    if said not in ("cuda", "cuda:0"):
        yield job.in_config(f"device is {said!r}", "device")


def _is_dataset_folder(folder: object) -> bool:
    return (
        isinstance(folder, str)
        and not folder.startswith("/")
        and folder.strip("/").removeprefix("./") == DATASET_FOLDER
    )


def _unknown(found: Any, place: tuple[str, ...], section: str) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(place, key, the nearest known one) of each key of a section, and of the sections below it, that is not known."""
    if not isinstance(found, Mapping):
        return
    known = KNOWN_KEYS[section]
    for key, value in found.items():
        if key not in known:
            yield place, key, nearest(key, known)
            continue
        below = f"{section}.{key}".lstrip(".")
        if below in KNOWN_KEYS:
            yield from _unknown(value, (*place, key), below)
        elif f"{below}[]" in KNOWN_KEYS and isinstance(value, list):
            for number, entry in enumerate(value):
                yield from _unknown(entry, (*place, key, str(number)), f"{below}[]")
