"""How the launcher lays out the folders of a dataset."""

import json
import shutil
from pathlib import Path
from unittest import mock

import pytest

from flux_training.node.launcher import dataset, settings
from flux_training.node.launcher.downloads import Download
from flux_training.node.launcher.errors import RunEndedError
from flux_training.training.jobs.folder import read_images
from tests.node.runs import Node
from tests.training.job_folders import add_folders, make_job

ENTRY = {"size": 1, "sha256": "0" * 64}


def lay_out(job: Path, node: Path) -> None:
    """The images and captions of a job folder, as the launcher puts them into the working directory `node`."""

    def download(files: list[Download]) -> None:
        for file in files:
            name = file.key.removeprefix("datasets/d1/")
            shutil.copy(job / (name if "/" in name else f"dataset/{name}"), node / file.path)

    (node / "dataset").mkdir(parents=True)
    images = settings.parse_manifest(read_images(job).manifest)
    run = mock.Mock(spec=settings.RunSettings, dataset_prefix="datasets/d1/")
    dataset.bring_dataset(run, images, download)


def test_each_folder_is_laid_out_as_in_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, node = make_job(tmp_path, "edit"), tmp_path / "node"
    add_folders(job, "control", "control-depth")
    node.mkdir()
    monkeypatch.chdir(node)
    lay_out(job, node)
    expected = {str(path.relative_to(job)) for path in job.glob("*/*")}
    assert {str(path.relative_to(node)) for path in node.glob("*/*")} == expected
    assert "control-depth/00001.png" in expected
    assert (node / "reg/00001.txt").read_text() == "a gradient, picture 1"


def test_a_video_is_laid_out_with_its_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, node = make_job(tmp_path, "motion"), tmp_path / "node"
    clip = Path(__file__).resolve().parents[1] / "support/clip.mp4"
    shutil.copy(clip, job / "dataset/turn.mp4")
    (job / "dataset/turn.txt").write_text("tr1gger turns", encoding="utf-8")
    node.mkdir()
    monkeypatch.chdir(node)
    lay_out(job, node)
    assert (node / "dataset/turn.mp4").read_bytes() == clip.read_bytes()
    assert (node / "dataset/turn.txt").read_text() == "tr1gger turns"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "toolkit/x.png",
            "output/x.png",
            "control/../x.png",
            "control/a/x.png",
            "/control/x.png",
            "../x.png",
        ),
        *("control/.x.png", "Control/x.png", "control/x.txt", "control/", "dataset/../../x.png", "./x.png"),
    ],
)
def test_no_image_is_written_outside_the_folders_of_a_dataset(name: str) -> None:
    with pytest.raises(RunEndedError, match=r"not the name of a file of .* in a dataset"):
        settings.parse_manifest(json.dumps({"images": {name: ENTRY}}).encode())


def test_images_of_an_earlier_job_are_removed_before_and_after(tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-20", "final:20")
    for folder in ("control", "mask-x", "toolkit", "config"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file.py").touch()
    assert node.run().code == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left & {"control", "mask-x", "dataset", "toolkit", "config"} == {"toolkit", "config"}
