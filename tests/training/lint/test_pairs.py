"""Seeded mistakes in jobs with control images, masks and several datasets: each is found, with the name of the file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flux_training.training.jobs.lint import lint_jobs
from tests.training.job_folders import OTHER_WEIGHTS, add_folders, make_job
from tests.training.lint_folders import edit, picture, stack


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job folder with a control image and a mask for each image, and regularization images."""
    folder = make_job(tmp_path_factory.mktemp("sound"), "cat")
    add_folders(folder)
    return folder


def findings(root: Path) -> list[str]:
    """`path: message [rule]` of each error, below the job folder."""
    report = lint_jobs(stack(cat=OTHER_WEIGHTS), root)
    return [
        f"{Path(found.path).relative_to(root / 'jobs/cat')}: {found.message} [{found.code}]"
        for found in report.findings
        if found.severity == "error"
    ]


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def remove_folder(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name)


def rename(name: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder / new)

    return change


def change_path(path: str) -> Callable[[Path], object]:
    return edit('control_path: ["control"]', f"control_path: {path}")


MISTAKES: list[tuple[Callable[[Path], object], list[str]]] = [
    (
        remove("control/00002.png"),
        [
            "control/00002.png: no control image for dataset/00002.jpg [pair-missing]",
            "control/00002.png: no control image for reg/00002.png [pair-missing]",
        ],
    ),
    (remove_folder("mask"), ["mask: no such folder [dataset-missing]"]),
    (remove_folder("reg"), ["reg: no such folder [dataset-missing]"]),
    (remove("reg/00003.txt"), ["reg/00003.txt: no caption for this image [caption-missing]"]),
    (
        lambda folder: (folder / "dataset/00009.txt").write_text("tr1gger"),
        ["dataset/00009.txt: a caption without an image: no image is named 00009 [caption-orphan]"],
    ),
    (
        lambda folder: (folder / "control/00001.txt").write_text("x"),
        [
            "control/00001.txt: a caption of an image that is not trained itself, such as a control image or a mask [caption-orphan]"
        ],
    ),
    (
        lambda folder: picture(3).save(folder / "control/00009.png"),
        ["control/00009.png: dataset/ or reg/ has no image of this name [pair-orphan]"],
    ),
    (
        lambda folder: picture(3).save(folder / "control/00001.jpg"),
        ["control/00001.jpg: has the same name as control/00001.png, but for the suffix [pair-shared]"],
    ),
    (
        rename("control/00002.png", "control/00002.PNG"),
        ["control/00002.PNG: the suffix is .PNG [pair-suffix]"],
    ),
    (
        lambda folder: (folder / "control/00001.png").write_bytes(b"x"),
        ["control/00001.png: cannot be read as an image (not an image) [image-unreadable]"],
    ),
    (
        edit(", mask_path: mask", ""),
        ["mask: train.yml does not use this folder [folder-unused]"],
    ),
    (
        edit('control_path: ["control"], ', ""),
        ["train.yml: datasets[0] has 0 folders of control images; flux1-kontext takes 1 [control-count]"],
    ),
    (
        change_path("[control, mask]"),
        ["train.yml: datasets[0] has 2 folders of control images; flux1-kontext takes 1 [control-count]"],
    ),
    (
        edit("arch: flux_kontext", "is_flux: true"),
        [
            "train.yml: datasets[0] has 1 folder of control images; flux1-dev takes 0 [control-count]",
            "train.yml: datasets[1] has 1 folder of control images; flux1-dev takes 0 [control-count]",
        ],
    ),
    (
        rename("reg", "mask/x"),
        [
            "mask/x: neither an image or video (.jpg, .jpeg, .png, .webp, .mp4, .m4v, .mov) nor a caption (.txt) [dataset-stranger]",
            "reg: no such folder [dataset-missing]",
        ],
    ),
    (
        lambda folder: (folder / "dataset/00004.webm").write_bytes(b"x"),
        ["dataset/00004.webm: a video in a format that is not supported [dataset-video]"],
    ),
]


def test_a_sound_job_has_no_errors(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "jobs/cat")
    assert findings(tmp_path) == []


@pytest.mark.parametrize(("spoil", "expected"), MISTAKES, ids=[expected[0] for _, expected in MISTAKES])
def test_a_mistake_is_found_with_the_name_of_the_file(
    spoil: Callable[[Path], object], expected: list[str], sound: Path, tmp_path: Path
) -> None:
    shutil.copytree(sound, tmp_path / "jobs/cat")
    spoil(tmp_path / "jobs/cat")
    assert findings(tmp_path) == expected


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/path/to/control", "node-path"),
        ("before", "node-path"),
        ("../control", "node-path"),
        ("dataset/control", "pair-folder"),
    ],
)
def test_a_path_that_is_no_folder_of_the_job_is_found_in_its_line(
    path: str, rule: str, sound: Path, tmp_path: Path
) -> None:
    shutil.copytree(sound, tmp_path / "jobs/cat")
    change_path(path)(tmp_path / "jobs/cat")
    (found,) = (one for one in lint_jobs(stack(cat=OTHER_WEIGHTS), tmp_path).findings if one.code == rule)
    assert found.path.endswith("jobs/cat/train.yml")
    assert found.line is not None
    assert repr(path) in found.message


def as_flux2(folder: Path) -> None:
    edit("arch: flux_kontext", "arch: flux2")(folder)


def small(name: str) -> Callable[[Path], object]:
    return lambda folder: picture(3, 60).save(folder / name)


def wide(name: str) -> Callable[[Path], object]:
    return lambda folder: picture(3).resize((900, 100)).save(folder / name)


def enlarged(folder: Path) -> None:
    edit("arch: flux2", "arch: flux2, model_kwargs: {match_target_res: true}")(folder)


@pytest.mark.parametrize(
    ("spoils", "found"),
    [
        ([small("control/00002.png")], set()),
        ([wide("control/00002.png")], {"control-shape"}),
        ([as_flux2, small("control/00002.png")], {"control-size"}),
        ([as_flux2, wide("control/00002.png")], {"control-size"}),
        ([as_flux2, enlarged, small("control/00002.png")], set()),
        ([as_flux2, enlarged, small("control/00001.png")], {"control-size"}),  # a sample opens this one
        ([as_flux2, enlarged, wide("control/00002.png")], {"control-size"}),
    ],
)
def test_sizes_of_control_images_depend_on_the_model(
    spoils: list[Callable[[Path], object]], found: set[str], sound: Path, tmp_path: Path
) -> None:
    shutil.copytree(sound, tmp_path / "jobs/cat")
    for spoil in spoils:
        spoil(tmp_path / "jobs/cat")
    report = lint_jobs(stack(cat=OTHER_WEIGHTS), tmp_path)
    assert {one.code for one in report.findings if one.code.startswith("control-s")} == found


def test_a_control_image_that_lies_on_its_side_has_the_shape_of_its_image(
    sound: Path, tmp_path: Path
) -> None:
    shutil.copytree(sound, tmp_path / "jobs/cat")
    tall = picture(3).resize((200, 400))
    tall.save(tmp_path / "jobs/cat/dataset/00002.jpg")
    tags = tall.getexif()
    tags[0x0112] = 6
    tall.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "jobs/cat/control/00002.png", exif=tags)
    report = lint_jobs(stack(cat=OTHER_WEIGHTS), tmp_path)
    shaped = {
        (one.code, one.message.split(" but ")[1].split()[0])
        for one in report.findings
        if "-shape" in one.code
    }
    assert shaped == {("control-shape", "reg/00002.png"), ("mask-shape", "dataset/00002.jpg")}


def transparent() -> Image.Image:
    image = picture(4)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize(
    ("mode", "name", "is_read"),
    [
        ("RGBA", "00001.png", True),
        ("RGBA", "00001.webp", True),
        ("RGB", "00001.png", False),
        ("RGB", "00001.jpg", False),
    ],
)
def test_inpaint_images_need_transparency(
    mode: str, name: str, is_read: bool, sound: Path, tmp_path: Path
) -> None:
    job = tmp_path / "jobs/cat"
    shutil.copytree(sound, job)
    change_path("[control], inpaint_path: mask")(job)
    edit(", mask_path: mask", "")(job)
    for mask in (job / "mask").iterdir():
        transparent().save(mask)
    (job / "mask/00001.png").unlink()
    transparent().convert(mode).save(job / "mask" / name)
    found = [
        one for one in lint_jobs(stack(cat=OTHER_WEIGHTS), tmp_path).findings if one.code == "inpaint-opaque"
    ]
    assert [Path(one.path).name for one in found] == ([] if is_read else [name])
