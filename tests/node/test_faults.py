"""What is broken -> what the launcher does -> what the queue then does.

Each row runs the launcher as a real process under the node's own worker (tests/node/queued.py), with the stand-in
trainer, or where the trainer itself is at fault, with one that does as it is told.
"""

import functools
import hashlib
import json
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flux_training.node.bundle import launcher_bundle
from tests.node.fake_trainer import weights
from tests.node.fault_proxy import DownloadFault, FaultProxy, ProxiedRequest, at_random
from tests.node.interruptions import FAULTS as PASSING_FAULTS
from tests.node.runs import RUN_ID, Node, NodeWorker, picture

# ai-toolkit prints it between two lines of signs.
SKIPPED = "say:# OOM during training step, skipping batch 1/3 #"
GOOD = ("steps:0-20", "final:20")


# What the queue does then (Node.queue_state).
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
    while_it_sleeps: Callable[[NodeWorker, int], object] | None = None


def config(name: str, content: str | bytes | None) -> Callable[[Node], object]:
    """A file below config/, with which the job is then queued."""

    def put(node: Node) -> None:
        write(node.run_files.config / name, content)
        if content is None:
            (node.home / "training-config" / name).unlink()
        else:
            node.reconfigure()

    return put


def limits(**values: Any) -> Callable[[Node], object]:
    return lambda node: node.change("launch", **values)


def image(name: str, **values: Any) -> Callable[[Node], object]:
    entry = {"size": 1, "sha256": "0" * 64, "caption": "c"} | values
    return lambda node: node.change("manifest", images={name: entry})


def write(path: Path, content: str | bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def stored(name: str, content: bytes | None) -> Callable[[Node], object]:
    """An object below output/."""
    return lambda node: write(node.stored / name, content)


def stored_image(name: str, content: bytes | None) -> Callable[[Node], object]:
    return lambda node: write(node.run_files.dataset / name, content)


def local(name: str, content: bytes | None) -> Callable[[Node], object]:
    return lambda node: write(node.home / name, content)


def same_stem(node: Node) -> None:
    images = json.loads((node.run_files.config / "manifest.json").read_text())["images"]
    images["00001.png"] = images["00001.jpg"] | {"caption": "another"}
    node.change("manifest", images=images)


def tampered(name: str) -> Callable[[Node], object]:
    """Another node changes the configuration after the job was queued."""

    def put(node: Node) -> None:
        path = node.run_files.config / name
        path.write_bytes(path.read_bytes() + b" ")
        node.bring()

    return put


def tampered_launcher(node: Node) -> None:
    path = node.run_files.config / launcher_bundle().file_name
    path.write_bytes(path.read_bytes() + b"x")
    node.bring()


def file_for_folder(name: str) -> Callable[[Node], object]:
    return lambda node: write(node.home / name, b"")


# Prints name and size of the checkpoints, the oldest first.
SHOW_CHECKPOINTS = """
import glob, os, sys
for path in sorted(glob.glob("output/job/job*"), key=lambda path: os.stat(path).st_ctime_ns):
    print("found", os.path.basename(path), os.stat(path).st_size)
sys.exit(1)
"""


def ended_job(node: Node) -> None:
    """What another job left on this node."""
    for folder in ("model", "dataset/more", "output/other/samples"):
        (node.home / folder).mkdir(parents=True)
    (node.home / "dataset" / "00001.txt").write_text("another job's caption")


def full_disk(node: Node) -> None:
    """A write to a link to /dev/full fails as on a full disk."""
    for name in (".progress.json.tmp", ".loss.csv.tmp"):
        (node.home / name).symlink_to("/dev/full")


def no_program(node: Node) -> None:
    folder = node.home / "bin"
    folder.mkdir()
    (folder / "python").write_bytes(b"\0\0\0\0")
    (folder / "python").chmod(0o755)


def spent(node: Node) -> None:
    before = {"run_id": RUN_ID, "restarts": 3, "gpu_seconds": 3600.5}
    (node.stored / "progress.json").write_text(json.dumps(before))


def begun(starts: int) -> Callable[[Node], object]:
    before = {"run_id": RUN_ID, "restarts": 12, "gpu_seconds": 1.5, "begun": [8, starts]}

    def put(node: Node) -> None:
        saves(8)(node)
        (node.stored / "progress.json").write_text(json.dumps(before))

    return put


def finished_and_spent(node: Node) -> None:
    spent(node)
    (node.stored / "job.safetensors").write_bytes(weights(20))


def parent(*steps: int) -> Callable[[Node], object]:
    """The run continues another one with these checkpoints."""

    def put(node: Node) -> None:
        folder = node.run_files.base.with_name("parent") / "output"
        folder.mkdir(parents=True)
        node.run_files.parent_prefix = "runs/job/parent/"
        for step in steps:
            (folder / save_name(step)).write_bytes(trained()[save_name(step)])
        (folder / "job.safetensors").write_bytes(b"damaged")

    return put


def cancel(worker: NodeWorker, _trainer: int) -> None:
    queue: Any = worker._api
    queue.cancel(queue.job_now)


def kill_launcher(_worker: NodeWorker, trainer: int) -> None:
    parent = int(Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    os.kill(trainer, signal.SIGKILL)


@functools.cache
def trained() -> dict[str, bytes]:
    """What the stand-in trainer stores in 20 steps: checkpoints at 8 and 16, and optimizer.pt."""
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder))
        result = node.run()
        assert result.code == 0, result.out
        return {path.name: path.read_bytes() for path in node.upload.iterdir() if path.is_file()}


def save_name(step: int) -> str:
    return f"job_{step:09}.safetensors"


def saves(*steps: int) -> Callable[[Node], object]:
    def put(node: Node) -> None:
        for step in steps:
            (node.stored / save_name(step)).write_bytes(trained()[save_name(step)])

    return put


def optimizer(change: Callable[[bytes], bytes]) -> Callable[[Node], object]:
    def put(node: Node) -> None:
        saves(8)(node)
        (node.stored / "optimizer.pt").write_bytes(change(trained()["optimizer.pt"]))

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
        (node.stored / save_name(16)).write_bytes(BROKEN[name](trained()[save_name(16)]))

    return put


def only_broken(*, again: bool = False) -> Callable[[Node], object]:
    def put(node: Node) -> None:
        (node.stored / save_name(8)).write_bytes(trained()[save_name(8)][:-1])
        if again:
            before = {"run_id": RUN_ID, "checkpoints_lost": True}
            (node.stored / "progress.json").write_text(json.dumps(before))

    return put


FAULTS = [
    # ---- launch.json
    Fault(
        "no launch.json",
        2,
        COUNTED,
        "launch.json cannot be read",
        breaks=local("training-config/launch.json", None),
    ),
    Fault(
        "launch.json cut",
        2,
        COUNTED,
        "launch.json cannot be read",
        breaks=config("launch.json", '{"contract": 1'),
    ),
    Fault("launch.json no text", 2, COUNTED, "cannot be read", breaks=config("launch.json", b"\xff\xfe")),
    Fault("launch.json a list", 2, COUNTED, "must hold an object", breaks=config("launch.json", "[]")),
    Fault("launch.json deep", 2, COUNTED, "cannot be read", breaks=config("launch.json", "[" * 200_000)),
    Fault("launch.json huge", 2, COUNTED, "is larger than", breaks=config("launch.json", " " * (17 << 20))),
    Fault(
        "a number of 5,000 digits",
        2,
        COUNTED,
        "cannot be read",
        breaks=config("launch.json", '{"x": %s}' % ("9" * 5000)),
    ),
    Fault("negative limit", 2, COUNTED, "stall_minutes is -1", breaks=limits(stall_minutes=-1)),
    Fault("limit as text", 2, COUNTED, "max_hours is '1'", breaks=limits(max_hours="1")),
    Fault("limit out of range", 2, COUNTED, "a number from 0 to 1440", breaks=limits(stall_minutes=1e8)),
    Fault("limit is true", 2, COUNTED, "stall_minutes is True", breaks=limits(stall_minutes=True)),
    # ---- the job's environment
    Fault("no job", 2, COUNTED, "FLUX_JOB is ''", environment={"FLUX_JOB": ""}),
    Fault("job with a folder", 2, COUNTED, "FLUX_JOB is '../x'", environment={"FLUX_JOB": "../x"}),
    Fault("job like config.yaml", 2, COUNTED, "rename job 'config'", environment={"FLUX_JOB": "config"}),
    Fault("job like samples", 2, COUNTED, "rename job 's'", environment={"FLUX_JOB": "s"}),
    Fault("steps as text", 2, COUNTED, "FLUX_STEPS is 'many'", environment={"FLUX_STEPS": "many"}),
    Fault("no steps", 2, COUNTED, "FLUX_STEPS is 0", environment={"FLUX_STEPS": "0"}),
    Fault("odd run id", 2, COUNTED, "FLUX_RUN_ID is 'ffff'", environment={"FLUX_RUN_ID": "ffff"}),
    Fault("no keys", 2, COUNTED, "AWS_ACCESS_KEY_ID or", environment={"AWS_ACCESS_KEY_ID": ""}),
    Fault("no address", 2, COUNTED, "AWS_ENDPOINT_URL is 'r2'", environment={"AWS_ENDPOINT_URL": "r2"}),
    # ---- what the job was queued with
    Fault(
        "manifest.json was changed",
        2,
        COUNTED,
        "not those this job was queued with",
        breaks=tampered("manifest.json"),
    ),
    Fault(
        "train.yml was changed",
        2,
        COUNTED,
        "not those this job was queued with",
        breaks=tampered("train.yml"),
    ),
    Fault("the launcher was changed", 2, COUNTED, "has another SHA-256", breaks=tampered_launcher),
    # ---- manifest.json
    Fault(
        "no manifest",
        2,
        COUNTED,
        "manifest.json cannot be read",
        breaks=local("training-config/manifest.json", None),
    ),
    Fault(
        "empty manifest",
        2,
        COUNTED,
        "with 1 to 20000 images",
        breaks=config("manifest.json", '{"images": {}}'),
    ),
    Fault("manifest leaves the folder", 2, COUNTED, "is not the name of a file", breaks=image("../x.jpg")),
    Fault("manifest names a root", 2, COUNTED, "is not the name of a file", breaks=image("/etc/x.jpg")),
    Fault("manifest names a subfolder", 2, COUNTED, "is not the name of a file", breaks=image("a/b.jpg")),
    Fault("manifest hides a file", 2, COUNTED, "is not the name of a file", breaks=image(".x.jpg")),
    Fault("manifest names no image", 2, COUNTED, "is not the name of a file", breaks=image("x.gif")),
    Fault("zero byte in a name", 2, COUNTED, "is not the name of a file", breaks=image("x\0.jpg")),
    Fault("half a character in a name", 2, COUNTED, "is not the name of a file", breaks=image("x\ud800.jpg")),
    Fault("size as text", 2, COUNTED, "no usable size", breaks=image("x.jpg", size="1")),
    Fault("size is true", 2, COUNTED, "no usable size", breaks=image("x.jpg", size=True)),
    Fault("size of a planet", 2, COUNTED, "no usable size", breaks=image("x.jpg", size=10**18)),
    Fault("short hash", 2, COUNTED, "no usable size", breaks=image("x.jpg", sha256="00")),
    Fault("hash is a list", 2, COUNTED, "no usable size", breaks=image("x.jpg", sha256=[1])),
    Fault("caption is a number", 2, COUNTED, "no usable size", breaks=image("x.jpg", caption=1)),
    Fault("two captions for one file", 2, COUNTED, "shares its caption file", breaks=same_stem),
    # ---- images
    Fault(
        "image missing", 3, COUNTED, "00002.jpg: there is no object", breaks=stored_image("00002.jpg", None)
    ),
    Fault("image empty", 3, COUNTED, "00002.jpg: it has 0 bytes", breaks=stored_image("00002.jpg", b"")),
    Fault(
        "another image",
        3,
        COUNTED,
        "its content is not",
        breaks=stored_image("00002.jpg", picture(2)[:-1] + b"x"),
    ),
    Fault("no run.json", 3, COUNTED, "run.json is missing", breaks=local("upload/run.json", None)),
    Fault("no bucket", 3, COUNTED, "NoSuchBucket", environment={"FLUX_BUCKET": "nowhere"}),
    Fault("wrong keys", 3, COUNTED, "403", environment={"AWS_SECRET_ACCESS_KEY": "wrong-key"}),
    Fault("nobody answers", 3, COUNTED, "no answer", environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
    # ---- surroundings
    Fault("a file for the dataset", 4, COUNTED, "dataset", breaks=file_for_folder("dataset")),
    Fault("a file for the output", 4, COUNTED, "output", breaks=file_for_folder("output")),
    Fault("no python", 12, COUNTED, "there is no 'python'", environment={"PATH": "/nowhere"}),
    Fault(
        "python is no program",
        12,
        COUNTED,
        "cannot be started",
        breaks=no_program,
        environment={"PATH": "bin"},
    ),
    Fault("no ai-toolkit", 13, COUNTED, "has no ai-toolkit", breaks=local("run.py", None)),
    Fault("too little space", 10, COUNTED, "GiB are free", launch={"free_gib": 999_999}),
    # ---- the trainer
    Fault(
        "exit code",
        5,
        COUNTED,
        "exit code 3 at step 5\nbad luck",
        words=("steps:0-5", "say:bad luck", "exit:3"),
    ),
    Fault(
        "out of memory",
        6,
        COUNTED,
        "killed by signal 9, most likely out of memory",
        words=("steps:0-5", "kill:9"),
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
    Fault(
        "most batches skipped",
        16,
        COUNTED,
        "3 steps were skipped for lack of memory and 0 had no loss (NaN), more than 10% of 20: train smaller images",
        words=("steps:0-4", SKIPPED, "steps:5-6", SKIPPED, "steps:7-8", SKIPPED, "steps:9-20", "final:20"),
    ),
    Fault(
        "no loss most of the time",
        16,
        COUNTED,
        "3 had no loss (NaN), more than 10% of 20: lower train.lr",
        words=("steps:0-4", "nans:4-7", "steps:7-20", "final:20"),
    ),
    Fault("two batches skipped", 0, COMPLETED, words=("steps:0-4", SKIPPED, "steps:5-6", SKIPPED, *GOOD)),
    Fault("garbage and failure", 5, COUNTED, "exit code 1", words=("noise", "exit:1")),
    # ---- what does no harm
    Fault("nothing broken", 0, COMPLETED),
    Fault("a full disk for progress.json", 0, COMPLETED, "progress.json cannot be written", breaks=full_disk),
    Fault("strays in the dataset", 0, COMPLETED, breaks=stored_image("more.jpg", b"x")),
    Fault("garbage", 0, COMPLETED, words=("noise", *GOOD)),
    Fault("a process left behind", 0, COMPLETED, words=("child", *GOOD)),
    Fault("no loss", 0, COMPLETED, words=("loss:nan", *GOOD)),
    Fault("a loss beyond numbers", 0, COMPLETED, words=("loss:1e999", *GOOD)),
    Fault("crash after the final save", 0, COMPLETED, words=(*GOOD, "exit:1")),
    Fault("out of memory after the final save", 0, COMPLETED, words=(*GOOD, "kill:9")),
    Fault("progress.json of nonsense", 0, COMPLETED, breaks=stored("progress.json", b'{"restarts": "x"}')),
    Fault("progress.json cut", 0, COMPLETED, breaks=stored("progress.json", b'{"restarts": ')),
    Fault("progress.json deep", 0, COMPLETED, breaks=stored("progress.json", b"[" * 200_000)),
    Fault("loss.csv of nonsense", 0, COMPLETED, breaks=stored("loss.csv", b"step,loss\n\xff,1")),
    Fault("the folders of an ended job", 0, COMPLETED, breaks=ended_job),
    # ---- limits
    Fault("hours used up", 8, COUNTED, "maxHours (1) are used up", launch={"max_hours": 1}, breaks=spent),
    Fault("ten starts that brought nothing", 15, COUNTED, "brought no new checkpoint", breaks=begun(10)),
    Fault("nine starts that brought nothing", 0, COMPLETED, breaks=begun(9)),
    # ---- the end comes from outside
    Fault("canceled", -2, CANCELED, words=("steps:0-3", "sleep"), while_it_sleeps=cancel),
    Fault("canceled, and the trainer says 0", -2, CANCELED, words=("zero", "sleep"), while_it_sleeps=cancel),
    Fault(
        "node taken away",
        -15,
        UNCOUNTED,
        words=("steps:0-3", "sleep"),
        while_it_sleeps=lambda worker, _: worker.end(),
    ),
    Fault("launcher killed", -9, UNCOUNTED, words=("steps:0-3", "sleep"), while_it_sleeps=kill_launcher),
    # ---- checkpoints: all resume from step 8
    Fault("a sound checkpoint", 0, COMPLETED, RESUMED, breaks=saves(8)),
    Fault("the newest of two", 0, COMPLETED, "Found step 16 in metadata", breaks=saves(16, 8)),
    Fault(
        "optimizer cut", 0, COMPLETED, "optimizer.pt is not used", breaks=optimizer(lambda data: data[:-1])
    ),
    Fault(
        "optimizer with a bit flipped", 0, COMPLETED, "optimizer.pt is not used", breaks=optimizer(flipped)
    ),
    Fault("optimizer empty", 0, COMPLETED, "optimizer.pt is not used", breaks=optimizer(lambda _: b"")),
    Fault("optimizer without a checkpoint", 0, COMPLETED, breaks=stored("optimizer.pt", b"PK")),
    *(Fault(f"checkpoint: {name}", 0, COMPLETED, RESUMED, breaks=broken(name)) for name in BROKEN),
    Fault("no checkpoint sound", 3, COUNTED, "no checkpoint is sound", breaks=only_broken()),
    Fault(
        "no checkpoint sound on the second node", 0, COMPLETED, "is deleted", breaks=only_broken(again=True)
    ),
    Fault("another file named like a checkpoint", 0, COMPLETED, breaks=stored("job_x.safetensors", b"x")),
    Fault("the parent's checkpoint", 0, COMPLETED, RESUMED, breaks=parent(8)),
    Fault("no sound checkpoint of the parent", 3, COUNTED, "no sound checkpoint below", breaks=parent()),
    Fault(
        "final weights there already",
        0,
        COMPLETED,
        words=("exit:1",),
        breaks=stored("job.safetensors", weights(20)),
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


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[pytest.mark.long] if number % 5 else [])
        for number, fault in enumerate(FAULTS)
    ],
    ids=lambda fault: fault.name.replace(" ", "-"),
)
def test_fault(fault: Fault, tmp_path: Path) -> None:
    check_fault(fault, Node(tmp_path, *fault.words, **fault.launch))


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_fault_with_faulty_downloads(fault: Fault, tmp_path: Path) -> None:
    limits = {"read_seconds": 0.3, "download_attempts": 8}
    node = Node(tmp_path, *fault.words, **limits | fault.launch)
    with FaultProxy(node.storage.url, at_random(FAULTS.index(fault), 0.1, PASSING_FAULTS)) as proxy:
        check_fault(fault, node, AWS_ENDPOINT_URL=proxy.url)


def check_fault(fault: Fault, node: Node, **environment: str) -> None:
    """Hand the job out once, and compare what happens with the row."""
    fault.breaks(node)
    job = node.submit()
    result = node.handed_out(job, fault.while_it_sleeps, **environment | fault.environment)
    assert (result.code, node.queue_state(job)) == (fault.code, fault.queue), result.out
    assert result.published == (fault.code == 0)
    assert "launcher/" not in result.out  # a traceback of the launcher's own
    assert fault.says in result.out
    if result.progress and fault.code > 0:
        assert result.progress["state"] == "failed"
        assert fault.says in result.progress["message"]
    elif result.progress and fault.code == 0:
        assert (result.progress["state"], result.progress["step"]) == ("finished", 20)


def test_the_table_is_long_enough() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 60


def found_checkpoints(node: Node) -> list[tuple[str, int]]:
    """Name and size of the checkpoints that the trainer finds, the oldest first."""
    node.set_trainer(program=SHOW_CHECKPOINTS)
    lines = dict.fromkeys(node.run().out.splitlines())  # the launcher repeats the last ones
    words = [line.split() for line in lines if line.startswith("found ")]
    return [(name, int(size)) for _, name, size in words]


@pytest.mark.parametrize("steps", [(16, 4, 12, 8), (8, 16)])
def test_the_order_of_creation_is_that_of_the_steps(steps: tuple[int, ...], tmp_path: Path) -> None:
    """Only the newest is downloaded; the trainer sees the others as empty files, which it may prune."""
    node = Node(tmp_path)
    for step in steps:
        (node.stored / save_name(step)).write_bytes(weights(step))
    *older, newest = sorted(steps)
    expected = [*((save_name(step), 0) for step in older), (save_name(newest), len(weights(newest)))]
    assert found_checkpoints(node) == expected


def test_a_damaged_checkpoint_is_the_oldest_file(tmp_path: Path) -> None:
    """ai-toolkit prunes the oldest first."""
    node = Node(tmp_path)
    for step in (8, 16):
        (node.stored / save_name(step)).write_bytes(weights(step))
    (node.stored / save_name(20)).write_bytes(weights(20)[:-1])
    assert [name for name, _ in found_checkpoints(node)] == [save_name(step) for step in (20, 8, 16)]


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_checkpoint_with_another_content_than_was_recorded_is_not_used(
    is_recorded: bool, tmp_path: Path
) -> None:
    node, swapped = Node(tmp_path), weights(16, (0.5, -1.0, 2.0, 1.0))
    assert len(swapped) == len(weights(16))
    (node.stored / save_name(8)).write_bytes(weights(8))
    (node.stored / save_name(16)).write_bytes(swapped)
    recorded = {save_name(step): sha256_of(weights(step)) for step in (8, 16)}
    report = {"run_id": RUN_ID, "checkpoints": recorded if is_recorded else None}
    (node.stored / "progress.json").write_text(json.dumps(report))
    assert [name for name, size in found_checkpoints(node) if size] == [save_name(8 if is_recorded else 16)]


@pytest.mark.parametrize("times", [1, 2])
def test_a_checkpoint_with_a_wrong_digest_is_downloaded_once_more(times: int, tmp_path: Path) -> None:
    """Its bytes may have been damaged on the way."""
    node = Node(tmp_path, "exit:1")
    for step in (8, 16):
        (node.stored / save_name(step)).write_bytes(weights(step))
    recorded = {save_name(step): sha256_of(weights(step)) for step in (8, 16)}
    (node.stored / "progress.json").write_text(json.dumps({"run_id": RUN_ID, "checkpoints": recorded}))

    def wrong(request: ProxiedRequest) -> DownloadFault | None:
        is_newest = request.method == "GET" and request.path.endswith(save_name(16))
        return DownloadFault.WRONG if is_newest and request.number <= times else None

    with FaultProxy(node.storage.url, wrong) as proxy:
        ended = node.run(AWS_ENDPOINT_URL=proxy.url)
    assert ended.progress["begun"] == [16 if times == 1 else 8, 1], ended.out


@pytest.mark.parametrize("swapped", ["job_000000008.safetensors", "job.safetensors", ""])
def test_a_checkpoint_of_the_continued_run_needs_the_digest_that_was_recorded(
    swapped: str, tmp_path: Path
) -> None:
    """Those of checkpoints are in progress.json, that of the result in done.json."""
    node = Node(tmp_path)
    folder = node.run_files.base.with_name("parent")
    for name in ("output", "model"):
        (folder / name).mkdir(parents=True)
    node.run_files.parent_prefix = "runs/job/parent/"
    files = {save_name(4): weights(4), save_name(8): weights(8), "job.safetensors": weights(12)}
    recorded = {name: sha256_of(data) for name, data in files.items()}
    done = {"sha256": recorded.pop("job.safetensors")}
    (folder / "output/progress.json").write_text(json.dumps({"checkpoints": recorded}))
    (folder / "model/done.json").write_text(json.dumps(done))
    if swapped == save_name(8):  # of the result there is nothing else to go on from
        del files["job.safetensors"]
    for name, data in files.items():
        content = data[:-2] + b"\0\x3c" if name == swapped else data
        (folder / "output" / name).write_bytes(content)
    step = {save_name(8): 4, "job.safetensors": 8, "": 12}[swapped]
    assert [name for name, _ in found_checkpoints(node)] == [save_name(step)]


def test_a_checkpoint_of_the_continued_run_leaves_steps_to_train(tmp_path: Path) -> None:
    """Somebody wrote one of the last step below the continued run, so that its successor would publish it."""
    node = Node(tmp_path)
    folder = node.run_files.base.with_name("parent") / "output"
    folder.mkdir(parents=True)
    node.run_files.parent_prefix = "runs/job/parent/"
    for step in (8, 20):
        (folder / save_name(step)).write_bytes(weights(step))
    assert [name for name, _ in found_checkpoints(node)] == [save_name(8)]


def test_checkpoints_are_recorded_until_they_are_trained_again(tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-9", "save:8", "steps:9-17", "save:16", "kill:17")
    recorded = {save_name(step): sha256_of(weights(step)) for step in (8, 16)}
    assert node.run().progress["checkpoints"] == recorded
    (node.stored / save_name(16)).unlink()
    node.set_trainer("steps:8-10", "kill:10")
    assert node.run().progress["checkpoints"] == {save_name(8): recorded[save_name(8)]}
    node.set_trainer("steps:8-20", "final:20")
    final = {"job.safetensors": sha256_of(weights(20))}
    assert node.run().progress["checkpoints"] == {save_name(8): recorded[save_name(8)]} | final


def test_when_no_checkpoint_is_sound_a_second_node_is_asked_before_they_are_deleted(tmp_path: Path) -> None:
    node = Node(tmp_path)
    only_broken()(node)
    job = node.submit()
    first = node.handed_out(job)
    assert (first.code, (node.stored / save_name(8)).exists()) == (3, True)
    node.bring()
    second = node.handed_out(job)
    assert (second.code, f"{save_name(8)} is deleted" in second.out) == (0, True)
    assert node.queue.job(job)["status"] == "completed"


def test_used_up_hours_end_every_later_start_before_training_and_keep_the_checkpoints(tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-9", "save:8", "sleep", max_hours=0.0001)
    job = node.submit()
    first = node.handed_out(job)
    assert first.code == 8, first.out
    (node.stored / "asleep").unlink()
    for _ in range(2):
        node.bring()
        later = node.handed_out(job)
        assert (later.code, later.progress["gpu_seconds"]) == (8, first.progress["gpu_seconds"])
        assert not (node.output / "asleep").exists()
    assert (node.queue.job(job)["status"], node.queue.job(job)["num_failures"]) == ("failed", 3)
    assert (node.stored / save_name(8)).read_bytes() == weights(8)


def test_the_dataset_holds_what_the_manifest_names_and_nothing_else(tmp_path: Path) -> None:
    node = Node(tmp_path)
    ended_job(node)
    (node.run_files.dataset / "stray.jpg").write_bytes(b"x")
    program = "import os; print(sorted(os.listdir('dataset')), open('dataset/00002.txt').read())"
    node.set_trainer(program=program)
    assert "['00001.jpg', '00001.txt', '00002.jpg', '00002.txt'] d1sc number 2" in node.run().out


@pytest.mark.parametrize("word", ["final:20", "exit:1"])
def test_neither_images_nor_weights_are_left_on_the_node(word: str, tmp_path: Path) -> None:
    """But for the folders that the worker made, which it removes itself."""
    node = Node(tmp_path, "save:8", word)
    node.run()
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert left - {"training-config", "upload", "model", "__pycache__"} == set()
