"""What is broken -> what the launcher does: a real process, a trainer that does as it is told."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.node.fake_trainer import weights
from tests.node.runs import Node, picture

GOOD = ("steps:0-20", "final:20")


@dataclass(frozen=True)
class Fault:
    """Trainer's words, settings of launch.json, a change to the folder -> exit code and words of the message."""

    name: str
    code: int
    says: str = ""
    words: tuple[str, ...] = GOOD
    launch: dict[str, Any] = field(default_factory=dict)
    breaks: Callable[[Node], object] = lambda _node: None
    environment: dict[str, str] = field(default_factory=dict)


def config(name: str, text: str) -> Callable[[Node], object]:
    return lambda node: (node.home / "training-config" / name).write_text(text)


def launch(**values: Any) -> Callable[[Node], object]:
    return lambda node: node.change("launch", **values)


def image(name: str, **values: Any) -> Callable[[Node], object]:
    entry = {"size": 1, "sha256": "0" * 64, "caption": "c"} | values
    return lambda node: node.change("manifest", images={name: entry})


def data(name: str, content: bytes | None) -> Callable[[Node], object]:
    return lambda node: (
        (node.home / name).unlink() if content is None else (node.home / name).write_bytes(content)
    )


def same_stem(node: Node) -> None:
    path = node.home / "training-config" / "manifest.json"
    images = json.loads(path.read_text())["images"]
    images["00001.png"] = images["00001.jpg"] | {"caption": "another"}
    node.change("manifest", images=images)


def file_for_folder(node: Node) -> None:
    shutil.rmtree(node.home / "dataset")
    (node.home / "dataset").write_text("")


FAULTS = [
    # ---- launch.json and manifest.json
    Fault(
        "no launch.json", 2, "launch.json cannot be read", breaks=data("training-config/launch.json", None)
    ),
    Fault("launch.json cut", 2, "launch.json cannot be read", breaks=config("launch.json", '{"contract": 1')),
    Fault(
        "launch.json no text", 2, "cannot be read", breaks=data("training-config/launch.json", b"\xff\xfe")
    ),
    Fault("launch.json a list", 2, "must hold an object", breaks=config("launch.json", "[]")),
    Fault("launch.json deep", 2, "cannot be read", breaks=config("launch.json", "[" * 200_000)),
    Fault("other contract", 2, "contract is 2", breaks=launch(contract=2)),
    Fault("no job", 2, "job is None", breaks=launch(job=None)),
    Fault("job with a folder", 2, "job is '../x'", breaks=launch(job="../x")),
    Fault("job like run.json", 2, "rename job 'run'", breaks=launch(job="run")),
    Fault("job like samples", 2, "rename job 's'", breaks=launch(job="s")),
    Fault("steps as text", 2, "steps is '20'", breaks=launch(steps="20")),
    Fault("no steps", 2, "steps is 0", breaks=launch(steps=0)),
    Fault("output outside", 2, "output_folder is '../out'", breaks=launch(output_folder="../out")),
    Fault("model at the root", 2, "model_folder is '/model'", breaks=launch(model_folder="/model")),
    Fault("model is the dataset", 2, "four folders", breaks=launch(model_folder="dataset/model")),
    Fault("no trainer", 2, "trainer is []", breaks=launch(trainer=[])),
    Fault("trainer as text", 2, "trainer is 'python", breaks=launch(trainer="python run.py")),
    Fault("negative limit", 2, "stall_minutes is -1", breaks=launch(stall_minutes=-1)),
    Fault("config of another run", 2, "FLUX_RUN_ID is 'ffff'", environment={"FLUX_RUN_ID": "ffff"}),
    Fault(
        "no manifest", 2, "manifest.json cannot be read", breaks=data("training-config/manifest.json", None)
    ),
    Fault("empty manifest", 2, "at least one image", breaks=config("manifest.json", '{"images": {}}')),
    Fault("manifest leaves the folder", 2, "not the plain name", breaks=image("../x.jpg")),
    Fault("manifest names a root", 2, "not the plain name", breaks=image("/etc/x.jpg")),
    Fault("manifest names a subfolder", 2, "not the plain name", breaks=image("a/b.jpg")),
    Fault("manifest hides a file", 2, "not the plain name", breaks=image(".x.jpg")),
    Fault("manifest names no image", 2, "not the plain name", breaks=image("x.gif")),
    Fault("size as text", 2, "lacks a usable size", breaks=image("x.jpg", size="1")),
    Fault("short hash", 2, "lacks a usable size", breaks=image("x.jpg", sha256="00")),
    Fault("caption is a number", 2, "lacks a usable size", breaks=image("x.jpg", caption=1)),
    Fault("two captions for one file", 2, "shares its caption file", breaks=same_stem),
    # ---- what the worker brought
    Fault("image missing", 3, "00002.jpg: missing", breaks=data("dataset/00002.jpg", None)),
    Fault("image empty", 3, "00002.jpg: 0 bytes instead of", breaks=data("dataset/00002.jpg", b"")),
    Fault("another image", 3, "other content", breaks=data("dataset/00002.jpg", picture(2)[:-1] + b"x")),
    Fault("no run.json", 3, "run.json: missing", breaks=data("output/job/run.json", None)),
    Fault("a file for the dataset", 4, "dataset", breaks=file_for_folder),
    # ---- surroundings
    Fault("no python", 4, "there is no 'python9'", launch={"trainer": ["python9", "fake.py"]}),
    Fault("no ai-toolkit", 4, "there is no 'run.py'", launch={"trainer": [sys.executable, "run.py"]}),
    Fault("no space", 4, "GiB are free", launch={"free_gib": 999_999}),
    # ---- the trainer
    Fault("exit code", 5, "exit code 3 at step 5\nbad luck", words=("steps:0-5", "say:bad luck", "exit:3")),
    Fault("out of memory", 6, "killed by signal 9, for lack of memory", words=("steps:0-5", "kill:9")),
    Fault("segmentation fault", 6, "killed by signal 11, at step 0", words=("kill:11",)),
    Fault("asked to end", 6, "killed by signal 15", words=("kill:15",)),
    Fault("no weights", 9, "there is no output/job/job.safetensors", words=("steps:0-9", "say:Job stopped")),
    Fault("weights too early", 9, "is of step 12, not 20", words=("final:12",)),
    Fault("weights cut", 9, "bytes instead of", words=("steps:0-20", "cut:20")),
    Fault("weights no numbers", 9, "not finite", words=("steps:0-20", "nan:20")),
    Fault("stalled", 7, "no step for", words=("steps:0-3", "sleep"), launch={"stall_minutes": 0.005}),
    Fault(
        "stalled and deaf",
        7,
        "no step for",
        words=("deaf", "child", "sleep"),
        launch={"stall_minutes": 0.005},
    ),
    Fault("too long", 8, "max_hours", words=("steps:0-3", "sleep"), launch={"max_hours": 0.0001}),
    Fault("garbage and failure", 5, "exit code 1", words=("noise", "exit:1")),
    # ---- what does no harm
    Fault("nothing broken", 0),
    Fault("garbage", 0, words=("noise", *GOOD)),
    Fault("a process left behind", 0, words=("child", *GOOD)),
    Fault("no loss", 0, words=("loss:nan", *GOOD)),
    Fault("a loss beyond numbers", 0, words=("loss:1e999", *GOOD)),
    Fault("crash after the final save", 0, words=(*GOOD, "exit:1")),
    Fault("out of memory after the final save", 0, words=(*GOOD, "kill:9")),
    Fault("progress.json of nonsense", 0, breaks=data("output/job/progress.json", b'{"restarts": "x"}')),
    Fault("loss.csv of nonsense", 0, breaks=data("output/job/loss.csv", b"step,loss\n\xff,1")),
    Fault("the folder of an ended job", 0, breaks=lambda node: (node.home / "model").mkdir()),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_fault(fault: Fault, tmp_path: Path) -> None:
    node = Node(tmp_path, *fault.words, **fault.launch)
    fault.breaks(node)
    ended = node.run(**fault.environment)
    assert ended.code == fault.code, ended.out
    assert ended.published == (fault.code == 0)
    assert "Traceback" not in ended.out
    assert fault.says in ended.out
    if ended.progress and fault.code:
        assert ended.progress["state"] == "failed"
        assert fault.says in ended.progress["message"]
    elif fault.code == 0:
        assert (ended.progress["state"], ended.progress["step"]) == ("finished", 20)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    node = Node(tmp_path, *GOOD)
    node.output.chmod(0o500)
    ended = node.run()
    node.output.chmod(0o700)
    assert (ended.code, ended.published) == (4, False)


def checkpoint(node: Node, step: int, content: bytes | None = None) -> Path:
    path = node.output / f"job_{step:09}.safetensors"
    path.write_bytes(weights(step) if content is None else content)
    return path


BROKEN = {
    "empty": b"",
    "seven bytes": b"1234567",
    "no header": b"\xff" * 40,
    "header cut": weights(16)[:30],
    "tensors cut": weights(16)[:-1],
    "longer": weights(16) + b"x",
    "no number": weights(16, (float("inf"), 0.0, 0.0, 0.0)),
    "no step": weights(16, metadata={"format": "pt"}),
    "step of nonsense": weights("x"),
    "step beyond": weights(21),
    "header of nonsense": (9).to_bytes(8, "little") + b'{"a":[1]}',
    "header a list": (2).to_bytes(8, "little") + b"[]",
    "type unknown": weights(16).replace(b'"F16"', b'"Q16"'),
    "overlap": weights(16).replace(b"[0, 8]", b"[1, 9]"),
    "shape negative": weights(16).replace(b"[2, 2]", b"[-2,-2]"[:6]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_set_aside_and_the_last_sound_one_is_the_newest(
    name: str, tmp_path: Path
) -> None:
    node = Node(tmp_path, "steps:8-20", "final:20")
    sound = checkpoint(node, 8)
    broken = checkpoint(node, 16, BROKEN[name])
    ended = node.run()
    assert (ended.code, ended.published) == (0, True), ended.out
    assert (sound.exists(), broken.exists()) == (True, False)
    assert node.set_aside() == [broken.name]
    assert "Traceback" not in ended.out


def test_the_order_of_creation_is_that_of_the_steps(tmp_path: Path) -> None:
    node = Node(tmp_path, *GOOD)
    steps = [16, 4, 12, 8]
    paths = {step: checkpoint(node, step) for step in steps}
    (node.output / "job.safetensors").write_bytes(weights(6))
    modified = {step: path.stat().st_mtime_ns for step, path in paths.items()}
    node.change("launch", trainer=[sys.executable, "-c", "import sys; sys.exit(1)"])
    node.run()
    created = {step: path.stat().st_ctime_ns for step, path in paths.items()}
    assert sorted(created, key=created.__getitem__) == sorted(steps)
    assert {step: path.stat().st_mtime_ns for step, path in paths.items()} == modified
    # chokidar takes a file whose atime is not later than its mtime for changed, and would upload all again.
    assert all(path.stat().st_atime_ns > path.stat().st_mtime_ns for path in paths.values())


def test_what_only_looks_like_a_checkpoint_is_set_aside(tmp_path: Path) -> None:
    node = Node(tmp_path, *GOOD)
    (node.output / "job_folder").mkdir()
    (node.output / "job.safetensors.part").write_bytes(b"x")
    (node.output / "other.safetensors").write_bytes(b"x")
    assert node.run().code == 0
    assert node.set_aside() == ["job.safetensors.part", "job_folder"]
    assert (node.output / "other.safetensors").exists()


@pytest.mark.parametrize(
    ("with_checkpoint", "content"), [(True, b"PK\x03\x04cut"), (True, b""), (False, b"x")]
)
def test_optimizer_state_that_is_cut_or_belongs_to_nothing(
    with_checkpoint: bool, content: bytes, tmp_path: Path
) -> None:
    node = Node(tmp_path, *GOOD)
    if with_checkpoint:
        checkpoint(node, 8)
    (node.output / "optimizer.pt").write_bytes(content)
    assert node.run().code == 0
    assert node.set_aside() == ["optimizer.pt"]


def test_files_that_are_not_in_the_manifest_are_not_trained_on(tmp_path: Path) -> None:
    node = Node(tmp_path, *GOOD)
    (node.home / "dataset" / "stray.jpg").write_bytes(b"x")
    (node.home / "dataset" / "more").mkdir()
    assert node.run().code == 0
    assert node.set_aside() == ["more", "stray.jpg"]
    assert sorted(p.name for p in (node.home / "dataset").iterdir()) == [
        "00001.jpg",
        "00001.txt",
        "00002.jpg",
        "00002.txt",
    ]
    assert (node.home / "dataset" / "00002.txt").read_text() == "d1sc number 2"
