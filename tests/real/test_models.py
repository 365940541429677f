"""ai-toolkit's own dataset class reads the dataset of each architecture as we say: images, captions, control images, videos."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flux_training.training.dataset.video_header import read_video_header
from flux_training.training.models.table import TrainableModel
from tests.node.test_dataset import lay_out
from tests.training.lint.test_family_mistakes import (
    FAMILIES,
    IMAGES,
    control_names,
    make_folder,
    sound_document,
)
from tests.training.lint_folders import CLIP

CHECKOUT = os.environ.get("FLUX_TEST_AI_TOOLKIT", "")
PYTHON = os.environ.get("FLUX_TEST_AI_TOOLKIT_PYTHON", "")
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON, reason="FLUX_TEST_AI_TOOLKIT and FLUX_TEST_AI_TOOLKIT_PYTHON are not set"),
]


def make_node(root: Path, model: TrainableModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's folder after the launcher has brought the dataset."""
    job, node = root / "jobs" / model.arch, root / "nodes" / model.arch
    make_folder(job, model)
    (node / "training-config").mkdir(parents=True)
    for folder in (job, node / "training-config"):
        (folder / "train.yml").write_text(json.dumps(sound_document(model)), encoding="utf-8")
    monkeypatch.chdir(node)
    lay_out(job, node)
    return node


def check(model: TrainableModel, read: dict[str, Any]) -> None:
    images = {f"{number:05}.jpg" for number in range(1, IMAGES + 1)}
    videos = {"turn.mp4"} if model.datasets.videos else set()
    assert set(read["captions"]) == images | videos
    assert read["captions"]["00002.jpg"] == "tr1gger, picture 2"
    assert {name: read["frames"][name] for name in images} == dict.fromkeys(images, 1)
    assert {tuple(read["sizes"][name]) for name in images} == {(64, 64)}
    folders = control_names(model)
    found = read["controls"]["00003.jpg"]
    expected = [f"{folder}/00003.jpg" for folder in folders]
    assert (found if isinstance(found, list) else [found] if found else []) == expected
    if videos:
        header = read_video_header(CLIP.read_bytes())
        assert (read["captions"]["turn.mp4"], read["frames"]["turn.mp4"]) == ("tr1gger turns", 17)
        assert read["sizes"]["turn.mp4"] == [header.width, header.height]


def test_each_dataset_is_read_as_we_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [make_node(tmp_path, model, monkeypatch) for model in FAMILIES.values()]
    program = Path(__file__).with_name("read_dataset.py")
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    done = subprocess.run(
        [PYTHON, str(program), CHECKOUT, *map(str, nodes)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    for model, line in zip(FAMILIES.values(), lines, strict=True):
        (read,) = json.loads(line)
        check(model, read)
