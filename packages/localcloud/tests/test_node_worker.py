"""The behaviour of the Kelpie worker 0.7.1 (docs/services.md), tested on a node of the local cloud."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from localcloud.home import EXIT_REALLOCATE
from localcloud.node.transfers import Transfers
from localcloud.node.worker import IdleLimits, KelpieWorker, run_worker
from localcloud.testing import kelpie_client, running_cloud, wait_until
from node_jobs import BUCKET, NodeBucket, ended, job_of, running_group, submit

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("node-worker") / "cloud"
    with running_cloud(home, nodes=2, heartbeat_seconds=0.2, poll_seconds=0.05) as running:
        yield running


@pytest.fixture(scope="module")
def bucket(cloud: dict[str, Any]) -> NodeBucket:
    return NodeBucket(cloud)


@pytest.fixture(scope="module")
def group(cloud: dict[str, Any], bucket: NodeBucket) -> Iterator[str]:
    """One node for the jobs of all tests."""
    assert bucket
    with running_group(cloud, "worker") as identity:
        yield identity


@pytest.fixture
def run(cloud: dict[str, Any], group: str) -> Run:
    """Runs a Python program as a job; returns the job when it has ended."""

    def run_job(program: str, **job: Any) -> dict[str, Any]:
        return ended(cloud, submit(cloud, group, ["python", "-c", program], **job))

    return run_job


def sync(
    prefix: str, local_path: str, direction: str, bucket: str = BUCKET, **more: str
) -> list[dict[str, str]]:
    return [{"bucket": bucket, "prefix": prefix, "local_path": local_path, "direction": direction, **more}]


@pytest.mark.timeout(30)
def test_a_file_that_becomes_shorter_during_its_upload_is_uploaded_as_it_is_then(
    cloud: dict[str, Any], bucket: NodeBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher replaces progress.json every few seconds."""
    access = cloud["s3"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", access["url"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access["secret_access_key"])
    monkeypatch.setenv("AWS_REGION", "auto")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    (tmp_path / "progress.json").write_text("{}")
    # What boto3 asks before it opens the file.
    monkeypatch.setattr("s3transfer.utils.OSUtils.get_file_size", lambda *_: 4)
    Transfers(tmp_path).upload(tmp_path / "progress.json", BUCKET, "shorter.json", compressed=False)
    assert bucket.get("shorter.json") == b"{}"


def test_during_uploads_changes_and_deletes_deleted_files(run: Run, bucket: NodeBucket) -> None:
    for name in ("kept", "changed", "gone"):
        bucket.put(f"d1/{name}.txt", "old")
    program = "import os, time; time.sleep(1); os.makedirs('out/sub')\n"
    program += "open('out/changed.txt', 'w').write('new'); os.remove('out/gone.txt')\n"
    program += (
        "open('out/sub/deep.txt', 'w').write('x'); open('out/skip.tmp', 'w').write('x')\ntime.sleep(1.2)"
    )
    syncs = {
        "before": sync("d1/", "out/", "download"),
        "during": sync("d1/", "out/", "upload", pattern="txt$"),
    }
    assert run(program, sync=syncs)["status"] == "completed"
    wait_until(lambda: bucket.keys("d1/") == ["changed.txt", "kept.txt", "sub/deep.txt"])
    assert bucket.get("d1/changed.txt") == b"new"


def test_during_ignores_a_folder_that_did_not_exist_at_the_start(run: Run, bucket: NodeBucket) -> None:
    program = "import os, time; os.makedirs('fresh', exist_ok=True); open('fresh/new.txt', 'w').write('x')\n"
    program += "time.sleep(1)"
    job = run(program, sync={"during": sync("d2/", "fresh/", "upload")})
    assert job["status"] == "completed"
    assert bucket.keys("d2/") == []
    # The worker has created the folder when it wiped it, so the same job uploads now.
    run(program, sync={"during": sync("d2/", "fresh/", "upload")})
    wait_until(lambda: bucket.keys("d2/") == ["new.txt"])


def test_patterns_match_the_key_in_before_and_the_relative_path_in_after(
    run: Run, bucket: NodeBucket
) -> None:
    for name in ("one.txt", "two.bin"):
        bucket.put(f"in3/{name}", name)
    syncs = {
        "before": sync("in3/", "got/", "download", pattern="^in3/.*txt"),
        "after": sync("out3/", "got/", "upload", pattern="^(one|seen)"),
    }
    program = "import os; names = os.listdir('got'); open('got/seen', 'w').write(' '.join(names))"
    assert run(program, sync=syncs)["status"] == "completed"
    assert bucket.keys("out3/") == ["one.txt", "seen"]
    assert bucket.get("out3/seen") == b"one.txt"


def test_transfer_errors_are_ignored(run: Run) -> None:
    syncs = {
        "before": sync("x/", "a4/", "download", "no-such-bucket"),
        "after": sync("x/", "b4/", "upload", "no-such-bucket"),
    }
    program = "import os; os.mkdir('b4'); open('b4/x', 'w').write('x')"
    assert run(program, sync=syncs)["status"] == "completed"


WRITE_IN_TWO = "import os; os.mkdir('two'); open('two/x', 'w').write('x')"
TWO_ENTRIES = [*sync("out11/a/", "two/", "upload"), *sync("out11/b/", "two/", "upload")]


@pytest.mark.parametrize(
    ("program", "job"),
    [
        ("pass", {"environment": {"ZERO": "\0"}}),  # cannot be passed to a process
        (WRITE_IN_TWO, {"sync": {"after": TWO_ENTRIES}}),
        ("pass", {"sync": {"after": sync("out11/", "never-made/", "upload")}}),
    ],
    ids=["command that cannot be started", "two after entries for one folder", "missing after folder"],
)
def test_what_the_worker_cannot_do_is_a_failure(
    run: Run, bucket: NodeBucket, program: str, job: dict[str, Any]
) -> None:
    assert run(program, max_failures=1, **job)["status"] == "failed"
    assert bucket.keys("out11/") == []


def test_a_compressed_job(run: Run, bucket: NodeBucket) -> None:
    bucket.put("in6/a.txt.gz", gzip.compress(b"hello"))
    syncs = {"before": sync("in6/", "z6/", "download"), "after": sync("out6/", "z6/", "upload")}
    program = "open('z6/b.txt', 'w').write(open('z6/a.txt').read() * 2)"
    assert run(program, sync=syncs, compression=True)["status"] == "completed"
    assert gzip.decompress(bucket.get("out6/b.txt.gz")) == b"hellohello"


def test_exit_codes_count_as_failures_and_signals_do_not(cloud: dict[str, Any], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = f"import os, pathlib; mark = pathlib.Path({str(mark)!r}); lives = mark.read_text() if mark.exists() else ''\n"
    program += "mark.write_text(lives + 'x')\n"
    program += "os.kill(os.getpid(), 9) if len(lives) == 0 else exit(len(lives) == 1)"
    syncs = {"before": sync("in7/", "m7/", "download")}
    # The machine that failed the job must be replaced.
    with running_group(cloud, "failing", MAX_TIME_WITH_NO_WORK_S="1") as group:
        job = ended(cloud, submit(cloud, group, ["python", "-c", program], sync=syncs))
    assert (job["status"], job["num_failures"], mark.read_text()) == ("completed", 1, "xxx")


def test_the_environment_of_a_command(run: Run, bucket: NodeBucket) -> None:
    program = "import os, json; os.mkdir('e8'); json.dump(dict(os.environ) | {'cwd': os.listdir()}, open('e8/e', 'w'))"
    job = run(program, sync={"after": sync("out8/", "e8/", "upload")}, environment={"FLUX_RUN_ID": "r8"})
    assert job["status"] == "completed"
    seen = json.loads(bucket.get("out8/e"))
    assert (seen["FLUX_RUN_ID"], seen["KELPIE_JOB_ID"]) == ("r8", job["id"])
    assert {"INPUT_DIR", "OUTPUT_DIR", "CHECKPOINT_DIR", "KELPIE_STATE_FILE"} <= set(seen)
    assert {"run.py", "standin.py"} <= set(seen["cwd"])


def test_a_cancelled_command_gets_sigint_and_exit_code_zero_completes_the_job(
    cloud: dict[str, Any], group: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    program = f"import pathlib, time; mark = pathlib.Path({str(mark)!r}); mark.write_text('started')\n"
    program += "try: time.sleep(600)\nexcept KeyboardInterrupt: mark.write_text('interrupted')"
    syncs = {"before": sync("in9/", "m9/", "download")}
    identity = submit(cloud, group, ["python", "-c", program], sync=syncs)
    wait_until(lambda: mark.exists() and mark.read_text() == "started")
    with kelpie_client(cloud) as kelpie:
        kelpie.delete(f"/jobs/{identity}").raise_for_status()
    wait_until(lambda: mark.read_text() == "interrupted")
    # The command ended with 0, as ai-toolkit does, so the cancelled job is reported as completed.
    wait_until(lambda: job_of(cloud, identity)["status"] == "completed")


def test_keys_and_paths_do_not_leave_the_folder(cloud: dict[str, Any], run: Run, bucket: NodeBucket) -> None:
    syncs = {"before": sync("in10/", "../../escaped/", "download"), "during": sync("o/", "/tmp/", "upload")}  # noqa: S108 - to be refused
    bucket.put("in10/x", "x")
    assert run("pass", sync=syncs)["status"] == "completed"
    assert not list(Path(cloud["request_log"]).parent.rglob("escaped"))


# ---- a node without a cloud

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "KELPIE_API_URL": "http://127.0.0.1:9",
    "NODE_TOKEN": "t",
    "SALAD_PROJECT_NAME": "p",
    "SALAD_MACHINE_ID": "m",
    "SALAD_CONTAINER_GROUP_ID": "g",
}


def start_node(home: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "localcloud.node", "--home", str(home)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_folder_that_is_not_a_nodes_is_not_wiped(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    process = start_node(tmp_path, ENVIRONMENT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, "neither empty nor a node's folder" in out) == (2, True)
    assert (tmp_path / "precious").exists()


def test_missing_settings_are_named(tmp_path: Path) -> None:
    process = start_node(tmp_path, {key: value for key, value in ENVIRONMENT.items() if key != "NODE_TOKEN"})
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert out == "NODE_TOKEN is not set in the environment; SaladCloud sets it on every node\n"


def test_a_node_wipes_its_folder_and_ends_on_sigterm(tmp_path: Path) -> None:
    home = tmp_path / "node"
    (home / "output").mkdir(parents=True)
    (home / ".node").touch()
    (home / "output" / "old").touch()
    process = start_node(home, ENVIRONMENT)
    try:
        wait_until(lambda: (home / "run.py").exists() and (home / "standin.py").exists())
        assert not (home / "output").exists()
        assert process.stdout is not None
        process.stdout.readline()  # the first complaint that Kelpie cannot be reached: its signals are in place
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == EXIT_REALLOCATE


# ---- a worker that has had no work for too long


class OneJob:
    """Kelpie's API and the bucket for a worker with one job, which takes longer than its limit. `reported`: the jobs it has reported."""

    def __init__(self, home: Path, limits: IdleLimits) -> None:
        (home / "model").mkdir(parents=True)
        self.worker = KelpieWorker(home, self, 0.01, None, self, limits)  # type: ignore[arg-type]  # asked like the services
        after = {"bucket": "b", "prefix": "m/", "local_path": "model/", "direction": "upload"}
        command = {"command": sys.executable, "arguments": ["-c", "pass"], "heartbeat_interval": 0.1}
        self._jobs = [{"id": "j", "sync": {"after": [after]}, **command}]
        self.reported: list[str] = []
        self.may_upload, self.may_report = threading.Event(), threading.Event()

    def work(self) -> dict[str, Any] | None:
        if self._jobs:
            return self._jobs.pop()
        wait_until(lambda: not (self.may_upload.is_set() and self.worker.uploading))
        return None

    def upload_folder(self, _folder: Path, _entry: dict[str, Any], *, compressed: bool) -> None:
        assert not compressed
        wait_until(lambda: self.may_upload.is_set() or self.worker.stopping)

    def heartbeat(self, _job: str) -> str:
        self.may_report.wait(30)
        return "running"

    def completed(self, job: str) -> None:
        self.reported.append(job)


@pytest.fixture
def kept_handlers() -> Iterator[None]:
    """run_worker sets handlers for signals."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("kept_handlers")
def test_a_worker_whose_limit_passed_during_its_job_uploads_and_reports_and_stays_on_its_machine(
    tmp_path: Path,
) -> None:
    one = OneJob(tmp_path, IdleLimits(0.5))
    one.may_report.set()
    assert (run_worker(one.worker), one.reported) == (0, ["j"])


@pytest.mark.usefixtures("kept_handlers")
def test_it_leaves_before_the_report_if_the_uploads_have_ended_already(tmp_path: Path) -> None:
    one = OneJob(tmp_path, IdleLimits(0.5))
    one.may_upload.set()
    assert (run_worker(one.worker), one.reported) == (EXIT_REALLOCATE, [])
    one.may_report.set()


@pytest.mark.usefixtures("kept_handlers")
def test_the_shorter_limit_of_tests_waits_for_the_report(tmp_path: Path) -> None:
    one = OneJob(tmp_path, IdleLimits(300, 0.5))
    one.may_upload.set()
    one.may_report.set()
    assert (run_worker(one.worker), one.reported) == (EXIT_REALLOCATE, ["j"])
