"""Imports control images: for each image of a job, one of the same name from each of these folders."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from flux_training.training.dataset.images import encode_jpeg, read_image, reduce_image
from flux_training.training.dataset.intake import IMPORTED_SUFFIX, list_files_to_import
from flux_training.training.errors import BadInput


def find_control_images(folders: Sequence[Path], images: Sequence[str]) -> dict[str, list[Path]]:
    """The control images of each image, one from each folder. `images` are file names; only their stems count.

    Raises BadInput with every image that lacks one.
    """
    found: dict[str, list[Path]] = {image: [] for image in images}
    findings = []
    for folder in folders:
        by_stem = {_stem(source.name): source for source in list_files_to_import(folder).images}
        for image in images:
            if control := by_stem.get(_stem(image)):
                found[image].append(control)
            else:
                findings.append(
                    f"{image}: {folder} has no control image of this name, such as {Path(image).stem}.png"
                )
    if findings:
        raise BadInput(findings)
    return found


def import_control_images(
    numbered: Mapping[str, Sequence[Path]], folders: Sequence[Path], max_side: int
) -> None:
    """Writes the control images of each image to `folders` under the image's new name (`00001`). Raises BadInput."""
    for folder in folders:
        folder.mkdir(exist_ok=True)
    for name, controls in numbered.items():
        for control, folder in zip(controls, folders, strict=True):
            image = reduce_image(read_image(control).image, max_side)
            (folder / f"{name}{IMPORTED_SUFFIX}").write_bytes(encode_jpeg(image))


def _stem(name: str) -> str:
    return unicodedata.normalize("NFC", Path(name).stem)
