"""Images that are taken out of a dataset without deleting them: `set-aside/` in the job folder, which neither lint nor the trainer reads."""

from pathlib import Path

from flux_training.training.dataset.captions import is_image
from flux_training.training.errors import BadInput
from flux_training.training.files import natural_key
from flux_training.training.names import CAPTION_SUFFIX, IMAGE_SUFFIXES
from flux_training.training.opening import outside_target, project_of_job_folder
from flux_training.training.train_yml.dataset_folders import folder_uses
from flux_training.training.train_yml.trainer_config import read_trainer_file

SET_ASIDE = "set-aside"


def images_set_aside(dataset: Path) -> list[Path]:
    """The images of `dataset/` that were set aside."""
    folder = dataset.parent / SET_ASIDE / dataset.name
    found = [file for file in folder.iterdir() if is_image(file)] if folder.is_dir() else []
    return sorted(found, key=lambda file: natural_key(file.name))


def set_image_aside(image: Path) -> None:
    """Move an image out of its dataset, with its caption and its control images and masks. Raises BadInput."""
    job = image.parent.parent
    _move(_image_and_its_files(job, image), job, job / SET_ASIDE)


def restore_set_aside_image(image: Path) -> None:
    """Move an image that was set aside back into its dataset. Raises BadInput."""
    job = image.parent.parent.parent
    _move(_image_and_its_files(job, image), job / SET_ASIDE, job)


def _image_and_its_files(job: Path, image: Path) -> list[Path]:
    """The image, its caption, and what belongs to it in the folders beside its own."""
    uses = folder_uses(read_trainer_file(job).process)
    beside = [use.folder for use in uses if use.is_paired and use.images == image.parent.name]
    partners = [
        image.parent.parent / folder / f"{image.stem}{suffix}"
        for folder in dict.fromkeys(beside)
        for suffix in IMAGE_SUFFIXES
    ]
    return [
        image,
        *(file for file in (image.with_suffix(CAPTION_SUFFIX), *partners) if file.is_file()),
    ]


def _move(files: list[Path], source: Path, target: Path) -> None:
    places = {file: target / file.relative_to(source) for file in files}
    folders = dict.fromkeys(place.parent for place in places.values())
    findings = [
        f"{folder}: leads out of the project; replace the link by a folder"
        for folder in folders
        if outside_target(folder, project_of_job_folder(folder))
    ]
    findings += [
        f"{place}: exists and is not overwritten; move it away first"
        for place in places.values()
        if place.exists()
    ]
    if findings:
        raise BadInput(findings)
    # Move the image last: until then it is still listed, so an interrupted move can be completed.
    for file, place in reversed(places.items()):
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
