"""Which folders of a job its train.yml uses, and for what.

ai-toolkit (DatasetConfig in toolkit/config_modules.py) has one training folder per entry of `datasets`. Control images, masks and the like
are in folders of their own, where each file has the name of the image that it belongs to (toolkit/dataloader_mixins.py).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flux_training.training.names import DATASET_FOLDER, FOLDER_NAME
from flux_training.training.values import mapping


class FolderKind(StrEnum):
    """What the images in a folder are, in the words of messages."""

    TRAINING = "image"
    REGULARIZATION = "regularization image"
    CONTROL = "control image"
    MASK = "mask"
    INPAINT = "inpaint image"
    UNCONDITIONAL = "unconditional image"
    SAMPLE = "control image of a sample"


NUMBERED_CONTROLS = ("control_path_1", "control_path_2", "control_path_3")
PAIRED_KEYS = {
    "control_path": FolderKind.CONTROL,
    **dict.fromkeys(NUMBERED_CONTROLS, FolderKind.CONTROL),
    "mask_path": FolderKind.MASK,
    "inpaint_path": FolderKind.INPAINT,
    "unconditional_path": FolderKind.UNCONDITIONAL,
}
TRAINED_KINDS = (FolderKind.TRAINING, FolderKind.REGULARIZATION)
SAMPLE_CONTROL = re.compile(r"ctrl_img(_[123])?")
# ai-toolkit has this flag only for the first control image.
PROMPT_CONTROL = re.compile(r"--ctrl_img +(\S+)")


@dataclass(frozen=True)
class FolderUse:
    """One use of a folder. `images` is the training folder whose images its files belong to: its own if it is trained itself."""

    folder: str
    kind: FolderKind
    images: str

    @property
    def is_trained(self) -> bool:
        return self.kind in TRAINED_KINDS

    @property
    def is_paired(self) -> bool:
        return not self.is_trained and self.kind is not FolderKind.SAMPLE


DATASET_ALONE = (FolderUse(DATASET_FOLDER, FolderKind.TRAINING, DATASET_FOLDER),)


def folder_uses(process: Mapping[str, Any]) -> tuple[FolderUse, ...]:
    """Every use of a folder whose name is valid. Without one, as in a file that cannot be read, `dataset/` is trained."""
    found = [use for entry in _entries(process) for use in _uses_of(entry)]
    return tuple(dict.fromkeys(found + list(_sample_uses(process)))) or DATASET_ALONE


def folder_name(path: object) -> str:
    """`control` for `control`, `./control` and `control/`; empty if it is not the name of a dataset's folder."""
    name = path.rstrip("/").removeprefix("./") if isinstance(path, str) else ""
    return name if FOLDER_NAME.fullmatch(name) else ""


def trained_folder(entry: Mapping[str, Any]) -> str:
    """The folder that an entry of `datasets` trains; empty if it is not a dataset's folder."""
    return folder_name(
        entry.get("folder_path") if entry.get("dataset_path") is None else entry.get("dataset_path")
    )


def paired_paths(entry: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """(key, path) of each folder with control images, masks and the like. ai-toolkit ignores `control_path` beside the numbered keys."""
    numbered = any(entry.get(key) for key in NUMBERED_CONTROLS)
    for key in PAIRED_KEYS:
        if key == "control_path" and numbered:
            continue
        value = entry.get(key)
        for path in value if isinstance(value, list) else [value] if value else []:
            yield key, path


def sample_controls(process: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(place below the process, path) of each control image that a sample names. ai-toolkit ignores `prompts` beside `samples`."""
    sample = mapping(process.get("sample"))
    section = "samples" if "samples" in sample else "prompts"
    found = sample.get(section)
    for number, entry in enumerate(found if isinstance(found, list) else []):
        place = ("sample", section, str(number))
        prompt = entry if isinstance(entry, str) else mapping(entry).get("prompt")
        for path in PROMPT_CONTROL.findall(prompt) if isinstance(prompt, str) else ():
            yield place, path
        for key, path in mapping(entry).items():
            if isinstance(key, str) and SAMPLE_CONTROL.fullmatch(key) and path:
                yield (*place, key), str(path)


def _entries(process: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = process.get("datasets")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _uses_of(entry: Mapping[str, Any]) -> Iterator[FolderUse]:
    own = trained_folder(entry)
    if not own:
        return
    yield FolderUse(own, FolderKind.REGULARIZATION if entry.get("is_reg") else FolderKind.TRAINING, own)
    for key, paired in paired_paths(entry):
        if name := folder_name(paired):
            yield FolderUse(name, PAIRED_KEYS[key], own)


def _sample_uses(process: Mapping[str, Any]) -> Iterator[FolderUse]:
    for _, path in sample_controls(process):
        folder, slash, _ = path.removeprefix("./").partition("/")
        if slash and folder_name(folder):
            yield FolderUse(folder, FolderKind.SAMPLE, folder)
