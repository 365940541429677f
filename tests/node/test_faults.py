"""What is broken -> what the launcher does -> what the queue then does.

Each row runs the launcher as a real process under the node's own worker (tests/node/queued.py), with the stand-in
trainer, or where the trainer itself is at fault, with one that does as it is told.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.node.fake_trainer import weights
from tests.node.runs import Node, Worker, picture

GOOD = ("steps:0-20", "final:20")


# What the queue does then (Node.says_the_queue).
COMPLETED, COUNTED, UNCOUNTED, CANCELED = "completed", "counted", "uncounted", "canceled"


@dataclass(frozen=True)
class Fault:
    """Trainer's words, settings of launch.json, a change to the folder -> exit code (negative: signal), what the
    queue does, words of the output, and of progress.json when it is a failure."""

    name: str
    code: int
    queue: str
    says: str = ""
    words: tuple[str, ...] = ()
    launch: dict[str, Any] = field(default_factory=dict)
    breaks: Callable[[Node], object] = lambda _node: None
    environment: dict[str, str] = field(default_factory=dict)
    while_it_sleeps: Callable[[Worker, int], object] | None = None


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


def file_for_output(node: Node) -> None:
    shutil.rmtree(node.output)
    node.output.write_text("")


def link(name: str, target: str) -> Callable[[Node], object]:
    return lambda node: (node.home / name).symlink_to(target)


def no_program(node: Node) -> None:
    (node.home / "nothing").write_bytes(b"\0\0\0\0")
    (node.home / "nothing").chmod(0o755)
    node.change("launch", trainer=["./nothing"])


def stubborn_clock(node: Node) -> None:
    """A test cannot set the clock, so the launcher's function that reads a ctime returns a constant."""
    saves(8, 16)(node)
    path = node.home / "training-config" / "launch.py"
    text = path.read_text().replace("CLOCK_SECONDS = 3.0", "CLOCK_SECONDS = 0.05")
    path.write_text(text.replace("path.stat().st_ctime_ns) > previous", "1) > previous"))


def spent(node: Node) -> None:
    before = {"run_id": "0123456789ab", "restarts": 3, "gpu_seconds": 3600.5}
    (node.output / "progress.json").write_text(json.dumps(before))


def begun(lives: int) -> Callable[[Node], object]:
    before = {"run_id": "0123456789ab", "restarts": 12, "gpu_seconds": 1.5, "begun": [8, lives]}

    def put(node: Node) -> None:
        saves(8)(node)
        (node.output / "progress.json").write_text(json.dumps(before))

    return put


def finished_and_spent(node: Node) -> None:
    spent(node)
    (node.output / "job.safetensors").write_bytes(weights(20))


def cancel(worker: Worker, _trainer: int) -> None:
    queue: Any = worker._api
    queue.cancel(queue.job_now)


def kill_launcher(_worker: Worker, trainer: int) -> None:
    parent = int(Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    os.kill(trainer, signal.SIGKILL)


@functools.cache
def trained() -> dict[str, bytes]:
    """What the stand-in trainer stores in 20 steps: checkpoints at 8 and 16, and optimizer.pt."""
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder))
        ended = node.run()
        assert ended.code == 0, ended.out
        return {path.name: path.read_bytes() for path in node.output.iterdir() if path.is_file()}


def save_name(step: int) -> str:
    return f"job_{step:09}.safetensors"


def saves(*steps: int) -> Callable[[Node], object]:
    def put(node: Node) -> None:
        for step in steps:
            (node.output / save_name(step)).write_bytes(trained()[save_name(step)])

    return put


def optimizer(change: Callable[[bytes], bytes]) -> Callable[[Node], object]:
    def put(node: Node) -> None:
        saves(8)(node)
        (node.output / "optimizer.pt").write_bytes(change(trained()["optimizer.pt"]))

    return put


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def header(data: bytes, old: bytes, new: bytes) -> bytes:
    """A changed header of the same length."""
    assert len(old) == len(new)
    assert old in data
    return data.replace(old, new, 1)


RESUMED = "Found step 8 in metadata"
# What can be wrong with the checkpoint of step 16.
BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "seven bytes": lambda _: b"1234567",
    "no header": lambda _: b"\xff" * 40,
    "header cut": lambda data: data[:30],
    "tensors cut": lambda data: data[:-1],
    "one byte longer": lambda data: data + b"x",
    "zeros, as a crashed disk leaves them": lambda data: bytes(len(data)),
    "no number": lambda data: data[:-2] + b"\xff\x7f",
    "no step": lambda data: header(data, b"training_info", b"training_inf0"),
    "step of nonsense": lambda _: weights("x"),
    "step beyond": lambda _: weights(21),
    "header of nonsense": lambda _: (9).to_bytes(8, "little") + b'{"a":[1]}',
    "header a list": lambda _: (2).to_bytes(8, "little") + b"[]",
    "type unknown": lambda data: header(data, b'"F16"', b'"Q16"'),
    "overlap": lambda _: weights(16).replace(b"[0, 8]", b"[1, 9]"),
    "shape negative": lambda _: weights(16).replace(b"[2, 2]", b"[-2,-2]"[:6]),
    "offset no integer": lambda _: weights(16).replace(b"[0, 8]", b"[0,8.]"),
}


def broken(name: str) -> Callable[[Node], object]:
    def put(node: Node) -> None:
        saves(8)(node)
        (node.output / save_name(16)).write_bytes(BROKEN[name](trained()[save_name(16)]))

    return put


def only_broken(*, again: bool = False) -> Callable[[Node], object]:
    def put(node: Node) -> None:
        (node.output / save_name(8)).write_bytes(trained()[save_name(8)][:-1])
        if again:
            before = {"run_id": "0123456789ab", "checkpoints_lost": True}
            (node.output / "progress.json").write_text(json.dumps(before))

    return put


FAULTS = [
    # ---- launch.json and manifest.json
    Fault(
        "no launch.json",
        2,
        COUNTED,
        "launch.json cannot be read",
        breaks=data("training-config/launch.json", None),
    ),
    Fault(
        "launch.json cut",
        2,
        COUNTED,
        "launch.json cannot be read",
        breaks=config("launch.json", '{"contract": 1'),
    ),
    Fault(
        "launch.json no text",
        2,
        COUNTED,
        "cannot be read",
        breaks=data("training-config/launch.json", b"\xff\xfe"),
    ),
    Fault("launch.json a list", 2, COUNTED, "must hold an object", breaks=config("launch.json", "[]")),
    Fault("launch.json deep", 2, COUNTED, "cannot be read", breaks=config("launch.json", "[" * 200_000)),
    Fault("other contract", 2, COUNTED, "contract is 2", breaks=launch(contract=2)),
    Fault("no job", 2, COUNTED, "job is None", breaks=launch(job=None)),
    Fault("job with a folder", 2, COUNTED, "job is '../x'", breaks=launch(job="../x")),
    Fault("job like run.json", 2, COUNTED, "rename job 'run'", breaks=launch(job="run")),
    Fault("job like samples", 2, COUNTED, "rename job 's'", breaks=launch(job="s")),
    Fault("steps as text", 2, COUNTED, "steps is '20'", breaks=launch(steps="20")),
    Fault("no steps", 2, COUNTED, "steps is 0", breaks=launch(steps=0)),
    Fault("output outside", 2, COUNTED, "output_folder is '../out'", breaks=launch(output_folder="../out")),
    Fault("model at the root", 2, COUNTED, "model_folder is '/model'", breaks=launch(model_folder="/model")),
    Fault("model is the dataset", 2, COUNTED, "four folders", breaks=launch(model_folder="dataset/model")),
    Fault("no trainer", 2, COUNTED, "trainer is []", breaks=launch(trainer=[])),
    Fault("trainer as text", 2, COUNTED, "trainer is 'python", breaks=launch(trainer="python run.py")),
    Fault("negative limit", 2, COUNTED, "stall_minutes is -1", breaks=launch(stall_minutes=-1)),
    Fault("config of another run", 2, COUNTED, "FLUX_RUN_ID is 'ffff'", environment={"FLUX_RUN_ID": "ffff"}),
    Fault(
        "no manifest",
        2,
        COUNTED,
        "manifest.json cannot be read",
        breaks=data("training-config/manifest.json", None),
    ),
    Fault(
        "empty manifest", 2, COUNTED, "at least one image", breaks=config("manifest.json", '{"images": {}}')
    ),
    Fault("manifest leaves the folder", 2, COUNTED, "not the plain name", breaks=image("../x.jpg")),
    Fault("manifest names a root", 2, COUNTED, "not the plain name", breaks=image("/etc/x.jpg")),
    Fault("manifest names a subfolder", 2, COUNTED, "not the plain name", breaks=image("a/b.jpg")),
    Fault("manifest hides a file", 2, COUNTED, "not the plain name", breaks=image(".x.jpg")),
    Fault("manifest names no image", 2, COUNTED, "not the plain name", breaks=image("x.gif")),
    Fault("size as text", 2, COUNTED, "lacks a usable size", breaks=image("x.jpg", size="1")),
    Fault("short hash", 2, COUNTED, "lacks a usable size", breaks=image("x.jpg", sha256="00")),
    Fault("caption is a number", 2, COUNTED, "lacks a usable size", breaks=image("x.jpg", caption=1)),
    Fault("two captions for one file", 2, COUNTED, "shares its caption file", breaks=same_stem),
    # ---- what the worker brought
    Fault("image missing", 3, COUNTED, "00002.jpg: missing", breaks=data("dataset/00002.jpg", None)),
    Fault("image empty", 3, COUNTED, "00002.jpg: 0 bytes instead of", breaks=data("dataset/00002.jpg", b"")),
    Fault(
        "another image", 3, COUNTED, "other content", breaks=data("dataset/00002.jpg", picture(2)[:-1] + b"x")
    ),
    Fault("no run.json", 3, COUNTED, "run.json: missing", breaks=data("output/job/run.json", None)),
    Fault("a file for the dataset", 4, COUNTED, "dataset", breaks=file_for_folder),
    # ---- surroundings
    Fault("no python", 12, COUNTED, "there is no 'python9'", launch={"trainer": ["python9", "fake.py"]}),
    Fault("python is no program", 12, COUNTED, "cannot be started", breaks=no_program),
    Fault("no ai-toolkit", 13, COUNTED, "lacks ai-toolkit", breaks=data("run.py", None)),
    Fault("too little space", 10, COUNTED, "GiB are free", launch={"free_gib": 999_999}),
    Fault("no space", 10, COUNTED, "No space left", breaks=link("dataset/00001.txt", "/dev/full")),
    Fault("read-only", 11, COUNTED, "00001.txt", breaks=link("dataset/00001.txt", "/sys/kernel/of-flux")),
    Fault("a clock that jumps back", 14, COUNTED, "clock of this node jumps back", breaks=stubborn_clock),
    Fault("a file for the output", 4, COUNTED, "output/job", breaks=file_for_output),
    # ---- the trainer
    Fault(
        "exit code",
        5,
        COUNTED,
        "exit code 3 at step 5\nbad luck",
        words=("steps:0-5", "say:bad luck", "exit:3"),
    ),
    Fault(
        "out of memory", 6, COUNTED, "killed by signal 9, for lack of memory", words=("steps:0-5", "kill:9")
    ),
    Fault("segmentation fault", 6, COUNTED, "killed by signal 11, at step 0", words=("kill:11",)),
    Fault("asked to end", 6, COUNTED, "killed by signal 15", words=("kill:15",)),
    Fault(
        "no weights",
        9,
        COUNTED,
        "there is no output/job/job.safetensors",
        words=("steps:0-9", "say:Job stopped"),
    ),
    Fault("weights too early", 9, COUNTED, "is of step 12, not 20", words=("final:12",)),
    Fault("weights cut", 9, COUNTED, "its header says", words=("steps:0-20", "cut:20")),
    Fault("weights no numbers", 9, COUNTED, "not finite", words=("steps:0-20", "nan:20")),
    Fault(
        "stalled", 7, COUNTED, "no step for", words=("steps:0-3", "sleep"), launch={"stall_minutes": 0.005}
    ),
    Fault(
        "stalled and deaf",
        7,
        COUNTED,
        "no step for",
        words=("deaf", "child", "sleep"),
        launch={"stall_minutes": 0.005},
    ),
    Fault("too long", 8, COUNTED, "max_hours", words=("steps:0-3", "sleep"), launch={"max_hours": 0.0001}),
    Fault("garbage and failure", 5, COUNTED, "exit code 1", words=("noise", "exit:1")),
    # ---- what does no harm
    Fault("nothing broken", 0, COMPLETED),
    Fault(
        "strays in the dataset", 0, COMPLETED, "not in the manifest", breaks=data("dataset/more.jpg", b"x")
    ),
    Fault("captions of another job", 0, COMPLETED, breaks=data("dataset/00001.txt", b"old")),
    Fault("garbage", 0, COMPLETED, words=("noise", *GOOD)),
    Fault("a process left behind", 0, COMPLETED, words=("child", *GOOD)),
    Fault("no loss", 0, COMPLETED, words=("loss:nan", *GOOD)),
    Fault("a loss beyond numbers", 0, COMPLETED, words=("loss:1e999", *GOOD)),
    Fault("crash after the final save", 0, COMPLETED, words=(*GOOD, "exit:1")),
    Fault("out of memory after the final save", 0, COMPLETED, words=(*GOOD, "kill:9")),
    Fault(
        "progress.json of nonsense",
        0,
        COMPLETED,
        breaks=data("output/job/progress.json", b'{"restarts": "x"}'),
    ),
    Fault("progress.json cut", 0, COMPLETED, breaks=data("output/job/progress.json", b'{"restarts": ')),
    Fault("loss.csv of nonsense", 0, COMPLETED, breaks=data("output/job/loss.csv", b"step,loss\n\xff,1")),
    Fault("the folder of an ended job", 0, COMPLETED, breaks=lambda node: (node.home / "model").mkdir()),
    # ---- limits
    Fault("hours used up", 8, COUNTED, "max_hours (1) are used up", launch={"max_hours": 1}, breaks=spent),
    Fault("ten lives that brought nothing", 15, COUNTED, "brought no new checkpoint", breaks=begun(10)),
    Fault("nine lives that brought nothing", 0, COMPLETED, breaks=begun(9)),
    # ---- the end comes from outside
    Fault("cancelled", -2, CANCELED, words=("steps:0-3", "sleep"), while_it_sleeps=cancel),
    Fault("cancelled, and the trainer says 0", -2, CANCELED, words=("zero", "sleep"), while_it_sleeps=cancel),
    Fault(
        "node taken away",
        -15,
        UNCOUNTED,
        words=("steps:0-3", "sleep"),
        while_it_sleeps=lambda worker, _: worker.end(),
    ),
    Fault("launcher killed", -9, UNCOUNTED, words=("steps:0-3", "sleep"), while_it_sleeps=kill_launcher),
    # ---- checkpoints: all go on from step 8
    Fault("a sound checkpoint", 0, COMPLETED, RESUMED, breaks=saves(8)),
    Fault("restored in another order", 0, COMPLETED, "Found step 16 in metadata", breaks=saves(16, 8)),
    Fault("optimizer cut", 0, COMPLETED, "optimizer.pt: damaged", breaks=optimizer(lambda data: data[:-1])),
    Fault("optimizer with a bit flipped", 0, COMPLETED, "optimizer.pt: damaged", breaks=optimizer(flipped)),
    Fault("optimizer empty", 0, COMPLETED, "optimizer.pt: damaged", breaks=optimizer(lambda _: b"")),
    Fault(
        "optimizer without a checkpoint",
        0,
        COMPLETED,
        "no checkpoint it belongs to",
        breaks=data("output/job/optimizer.pt", b"PK"),
    ),
    *(Fault(f"checkpoint: {name}", 0, COMPLETED, RESUMED, breaks=broken(name)) for name in BROKEN),
    Fault("no checkpoint whole", 3, COUNTED, "no checkpoint arrived whole", breaks=only_broken()),
    Fault(
        "no checkpoint whole on the second node", 0, COMPLETED, "set aside", breaks=only_broken(again=True)
    ),
    Fault(
        "a folder like a checkpoint",
        0,
        COMPLETED,
        "set aside",
        breaks=lambda node: (node.output / "job_x").mkdir(),
    ),
    Fault(
        "final weights there already",
        0,
        COMPLETED,
        words=("exit:1",),
        breaks=data("output/job/job.safetensors", weights(20)),
    ),
    Fault(
        "final weights there, hours used up",
        0,
        COMPLETED,
        words=("exit:1",),
        launch={"max_hours": 1},
        breaks=finished_and_spent,
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_fault(fault: Fault, tmp_path: Path) -> None:
    node = Node(tmp_path, *fault.words, **fault.launch)
    fault.breaks(node)
    job = node.submit()
    ended = node.handed_out(job, fault.while_it_sleeps, **fault.environment)
    assert (ended.code, node.says_the_queue(job)) == (fault.code, fault.queue), ended.out
    assert ended.published == (fault.code == 0)
    assert 'launch.py", line' not in ended.out  # a traceback of the launcher's own
    assert fault.says in ended.out
    if ended.progress and fault.code > 0:
        assert ended.progress["state"] == "failed"
        assert fault.says in ended.progress["message"]
    elif fault.code == 0:
        assert (ended.progress["state"], ended.progress["step"]) == ("finished", 20)


def test_the_table_is_long_enough() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 60


def test_the_order_of_creation_is_that_of_the_steps(tmp_path: Path) -> None:
    node = Node(tmp_path, *GOOD)
    steps = [16, 4, 12, 8]
    paths = {step: node.output / save_name(step) for step in steps}
    for step, path in paths.items():
        path.write_bytes(weights(step))
    (node.output / "job.safetensors").write_bytes(weights(6))
    modified = {step: path.stat().st_mtime_ns for step, path in paths.items()}
    node.change("launch", trainer=[sys.executable, "-c", "import sys; sys.exit(1)"])
    node.run()
    created = {step: path.stat().st_ctime_ns for step, path in paths.items()}
    assert sorted(created, key=created.__getitem__) == sorted(steps)
    assert {step: path.stat().st_mtime_ns for step, path in paths.items()} == modified
    # chokidar takes a file whose atime is not later than its mtime for changed, and would upload all again.
    assert all(path.stat().st_atime_ns > path.stat().st_mtime_ns for path in paths.values())


def test_a_damaged_checkpoint_stays_in_the_folder_as_the_oldest(tmp_path: Path) -> None:
    """The worker would delete it in the bucket, where it may be sound; ai-toolkit prunes the oldest first."""
    node = Node(tmp_path, "exit:1")
    for step in (8, 16):
        (node.output / save_name(step)).write_bytes(weights(step))
    (node.output / save_name(12)).write_bytes(weights(12)[:-1])
    (node.output / "job.safetensors.part").write_bytes(b"x")
    (node.output / "other.safetensors").write_bytes(b"x")
    node.run()
    found = sorted(node.output.glob("job*"), key=lambda path: path.stat().st_ctime_ns)
    names = [path.name for path in found]
    assert sorted(names[:2]) == ["job.safetensors.part", save_name(12)]
    assert names[2:] == [save_name(8), save_name(16)]
    assert node.set_aside() == []


def test_when_no_checkpoint_is_sound_a_second_node_is_asked_before_they_go(tmp_path: Path) -> None:
    node = Node(tmp_path)
    only_broken()(node)
    job = node.submit()
    first = node.handed_out(job)
    assert (first.code, node.set_aside()) == (3, [])
    second = node.handed_out(job)
    assert (second.code, node.set_aside()) == (0, [save_name(8)])
    assert node.queue.job(job)["status"] == "completed"


def test_used_up_hours_end_every_later_life_before_training_and_keep_the_checkpoints(tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-9", "save:8", "sleep", max_hours=0.0001)
    job = node.submit()
    first = node.handed_out(job)
    assert first.code == 8, first.out
    (node.output / "asleep").unlink()
    for _ in range(2):
        later = node.handed_out(job)
        assert (later.code, later.progress["gpu_seconds"]) == (8, first.progress["gpu_seconds"])
        assert not (node.output / "asleep").exists()
    assert (node.queue.job(job)["status"], node.queue.job(job)["num_failures"]) == ("failed", 3)
    assert (node.output / save_name(8)).read_bytes() == weights(8)


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
