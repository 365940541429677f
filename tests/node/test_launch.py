"""What the launcher reports, how it handles signals, and how it continues the run of another node."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
from localcloud.node import folder_watch

from flux_training.training.dataset.manifest import MAX_MANIFEST_BYTES
from tests.node.fake_trainer import weights
from tests.node.fuzz import load
from tests.node.queued import FolderTransfers
from tests.node.runs import LAUNCHER, Node, picture, until_gone

GOOD = ("steps:0-20", "final:20")
# What tqdm 4.70 wrote for ai-toolkit's loop (set_postfix_str, then update) on a pipe, at 6.7 steps a second.
RECORDED = (
    "\rjob:   0%|          | 0/20 [00:00<?, ?it/s]"
    "\rjob:   0%|          | 0/20 [00:00<?, ?it/s, lr: 1.0e-04 loss: 5.000e-01]"
    "\rjob:   5%|█▋        | 1/20 [00:00<00:00,  6.65it/s, lr: 1.0e-04 loss: 5.000e-01]"
    "\rjob:   5%|█▋        | 1/20 [00:00<00:00,  6.65it/s, lr: 1.0e-04 loss: 3.333e-01]\n"
    "Saving at step 1\n"
    "\rjob:  10%|███▎      | 2/20 [00:00<00:00,  6.65it/s, lr: 1.0e-04 loss: 3.333e-01]"
    "\rjob:  10%|██████▋   | 2/20 [00:03<00:03,  1.50s/it, lr: 1.0e-04 loss: 2.500e-01]"
    "\rjob:  15%|██████████| 3/20 [00:03<00:00,  6.64it/s, lr: 1.0e-04 loss: 2.500e-01]\n"
    "\rGenerating Images:  75%|███▎      | 3/4 [00:00<00:00,  6.65it/s, loss: 9.0e+00]\n"
    "\rjob_2:  95%|███▎      | 19/20 [00:00<00:00,  6.65it/s, lr: 1.0e-04 loss: 9.000e+00]\n"
)


def test_progress_and_curve(tmp_path: Path) -> None:
    ended = Node(tmp_path, *GOOD).run()
    expected = {"version": 1, "state": "finished", "job": "job", "run_id": "0123456789ab", "attempt": 1}
    expected |= {"step": 20, "steps": 20, "loss": 0.05, "loss_first": 0.75, "launcher": "1"}
    expected |= {"restarts": 0, "message": None, "eta_seconds": None}
    assert {key: ended.progress[key] for key in expected} == expected
    assert ended.progress["loss_last"] == pytest.approx((1 / 19 + 1 / 20) / 2, rel=1e-3)
    assert set(ended.progress) - set(expected) == {
        *("loss_smoothed", "loss_last", "seconds_per_step", "gpu", "gpu_seconds", "started_at", "updated_at"),
        *("begun", "start_seconds"),
    }
    assert 0 <= ended.progress["start_seconds"] <= ended.progress["gpu_seconds"] + 5
    rows = (tmp_path / "output/job/loss.csv").read_text().splitlines()
    assert (rows[0], rows[1], rows[20], len(rows)) == ("step,loss", "1,1", "20,0.05", 21)


def test_the_lines_that_ai_toolkit_prints(tmp_path: Path) -> None:
    node = Node(tmp_path, "exit:1")
    program = f"import sys; sys.stderr.write({RECORDED!r}); sys.exit(1)"
    node.change("launch", trainer=[sys.executable, "-c", program])
    progress = node.run().progress
    assert (progress["step"], progress["loss"], progress["loss_first"]) == (3, 0.25, 0.5)
    assert (tmp_path / "output/job/loss.csv").read_text() == "step,loss\n1,0.5\n2,0.3333\n3,0.25\n"


def test_done_json_describes_the_weights(tmp_path: Path) -> None:
    assert Node(tmp_path, *GOOD).run().published
    done = json.loads((tmp_path / "model/done.json").read_text())
    assert sorted(done) == ["finished_at", "job", "run_id", "sha256", "size", "steps", "version"]
    assert (tmp_path / "model/job.safetensors").read_bytes() == weights(20)
    assert (done["size"], done["steps"]) == (len(weights(20)), 20)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_finished_weights_are_published_without_training(tmp_path: Path) -> None:
    node = Node(tmp_path, "exit:1")
    (node.output / "job.safetensors").write_bytes(weights(20))
    ended = node.run()
    assert (ended.code, ended.published, ended.progress["step"]) == (0, True, 20)
    assert ended.progress["gpu_seconds"] == 0


def test_a_restart_adds_up(tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-9", "save:8", "kill:9")
    first = node.run().progress
    assert (first["restarts"], first["step"]) == (0, 9)
    node.change("launch", trainer=[sys.executable, "-I", "-S", "fake.py", "steps:8-20", "final:20"])
    second = node.run().progress
    assert (second["restarts"], second["state"]) == (1, "finished")
    assert second["started_at"] == first["started_at"]
    assert second["gpu_seconds"] >= first["gpu_seconds"]
    assert (first["loss_first"], second["loss_first"]) == (1.0, 0.75)
    assert (tmp_path / "output/job/loss.csv").read_text().count("\n") == 21


def test_max_hours_are_summed_over_restarts(tmp_path: Path) -> None:
    node = Node(tmp_path, *GOOD, max_hours=1)
    before = {"run_id": "0123456789ab", "restarts": 3, "gpu_seconds": 3600.5}
    (node.output / "progress.json").write_text(json.dumps(before))
    ended = node.run()
    assert (ended.code, ended.progress["restarts"]) == (8, 4)


def test_late_files_are_waited_for(tmp_path: Path) -> None:
    node = Node(tmp_path, *GOOD, wait_minutes=1)
    late = tmp_path / "dataset/00002.jpg"
    late.write_bytes(b"half")
    process = node.start()
    path, deadline = node.output / "progress.json", time.monotonic() + 20
    while "00002.jpg: 4 bytes instead" not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    late.write_bytes(picture(2))
    assert node.ended(process).code == 0


@pytest.mark.parametrize(
    ("signum", "words", "state"),
    [
        (signal.SIGINT, ("sleep",), "canceled"),
        (signal.SIGTERM, ("sleep",), "interrupted"),
        (signal.SIGTERM, ("deaf", "sleep"), "interrupted"),
        (signal.SIGHUP, ("sleep",), "interrupted"),
    ],
)
def test_stopped_by_a_signal_it_dies_by_that_signal(
    signum: signal.Signals, words: tuple[str, ...], state: str, tmp_path: Path
) -> None:
    node = Node(tmp_path, "steps:0-3", *words)
    process = node.start()
    trainer = node.asleep(process)
    process.send_signal(signum)
    ended = node.ended(process)
    assert ended.code == -(signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)
    assert (ended.progress["state"], ended.published) == (state, False)
    until_gone(trainer)


def test_a_cancelled_run_is_no_result_even_when_the_trainer_says_zero(tmp_path: Path) -> None:
    node = Node(tmp_path)
    program = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(0))\n"
    program += "import os; open('output/job/asleep', 'w').write(str(os.getpid()))\nwhile True: signal.pause()"
    node.change("launch", trainer=[sys.executable, "-c", program])
    process = node.start()
    node.asleep(process)
    process.send_signal(signal.SIGINT)
    ended = node.ended(process)
    assert (ended.code, ended.published) == (-signal.SIGINT, False)


def test_when_the_worker_is_gone_the_trainer_ends(tmp_path: Path) -> None:
    node = Node(tmp_path, "deaf", "sleep")
    command = [sys.executable, "-I", "-S", "training-config/launch.py"]
    program = f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(600)"
    worker = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.DEVNULL)
    trainer = node.asleep(worker)  # type: ignore[arg-type]
    worker.kill()
    worker.wait()
    until_gone(trainer)


def test_a_killed_launcher_takes_a_trainer_that_prints_with_it(tmp_path: Path) -> None:
    node = Node(tmp_path)
    program = "import os, time; open('output/job/asleep', 'w').write(str(os.getpid()))\n"
    program += "while True: print('x', flush=True); time.sleep(0.05)"
    node.change("launch", trainer=[sys.executable, "-c", program])
    process = node.start()
    trainer = node.asleep(process)
    process.kill()
    process.communicate()
    until_gone(trainer)


def test_a_full_pipe_stops_neither_the_trainer_nor_the_watchdog(tmp_path: Path) -> None:
    Node(tmp_path, "noise", "noise", *GOOD)
    reader, writer = os.pipe()
    command = [sys.executable, "-I", "-S", "training-config/launch.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    assert process.wait(30) == 0  # nobody ever read
    os.close(reader)


def test_no_secret_is_printed_or_written(tmp_path: Path) -> None:
    far = "x" * 1995 + "verysecret2"  # where the line is cut
    node = Node(tmp_path, "env", "say:the key is verysecret1", f"say:{far}", "say:verysecret5", "exit:1")
    secrets = {"AWS_SECRET_ACCESS_KEY": "verysecret1", "HF_TOKEN": "verysecret2", "NODE_TOKEN": "verysecret3"}
    secrets |= {"wandb_api_key": "verysecret4", "SSH_KEY": "-----\nverysecret5\n-----"}
    ended = node.run(**secrets)
    given = {"launch.json", "fake.py"}  # they hold the words that the trainer is to say
    paths = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in given]
    written = "".join(path.read_text(errors="replace") for path in paths)
    assert "the key is ***" in ended.out
    assert "the key is ***" in written
    assert "verys" not in ended.out + written
    names = ended.out.splitlines()
    assert "HF_TOKEN" in names
    assert not {"AWS_SECRET_ACCESS_KEY", "NODE_TOKEN"} & set(names)


NEWER = {
    "UTC",
    "ExceptionGroup",
    "TaskGroup",
    "StrEnum",
    "tomllib",
    "Self",
    "batched",
    "file_digest",
    "chdir",
}


def test_nothing_newer_than_python_3_10() -> None:
    """The grammar and the most likely names; vermin checks all of them (test_endurance.py)."""
    tree = ast.parse(LAUNCHER.read_text(encoding="utf-8"), feature_version=(3, 10))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names |= {alias.name for node in imports for alias in node.names}
    assert not names & NEWER


def test_a_slowly_written_checkpoint_is_uploaded_again(tmp_path: Path) -> None:
    """The worker uploads it while it grows and ignores later changes, so the first upload is truncated."""
    node = Node(tmp_path, "slow:8", "sleep", resend_seconds=1)
    transfers = FolderTransfers(tmp_path, tmp_path / "bucket", upload_seconds=0.8)
    entry = {"bucket": "", "prefix": "output/", "local_path": "output/job/"}
    with mock.patch.object(folder_watch, "MAX_WAIT_SECONDS", 0.3):
        watch = folder_watch.FolderWatch(node.output, entry, transfers, compressed=False)
        process = node.start()
        try:
            node.asleep(process)
            sent, deadline = tmp_path / "bucket/output/job_000000008.safetensors", time.monotonic() + 20
            seen = set()
            while not sent.exists() or sent.read_bytes() != weights(8):
                seen |= {sent.stat().st_size} if sent.exists() else set()
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.terminate()
            node.ended(process)
            watch.stop()
    assert seen
    assert max(seen) < len(weights(8))


def test_a_clock_that_goes_back_is_a_fault_of_its_own() -> None:
    launch = load()
    path = Path(__file__)
    still = mock.patch.object(launch.os, "utime")
    with mock.patch.object(launch, "CLOCK_SECONDS", 0.02), still, pytest.raises(launch.EndError) as caught:
        launch.renew_ctime(path, time.time_ns() + 10**15)
    assert caught.value.code == 14


def test_lint_knows_what_the_launcher_reads_of_a_manifest() -> None:
    assert load().MOST_JSON == MAX_MANIFEST_BYTES


def test_progress_is_written_at_a_rate_that_r2_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R2 allows one write per second and key; the worker may see a change up to a second late."""
    Node(tmp_path, steps=1000, save_every=1000)
    monkeypatch.chdir(tmp_path)
    launch = load()
    progress = launch.Progress(launch.read_settings(tmp_path / "training-config/launch.json"))
    progress.write("training", "")
    written = []
    for tenth in range(1, 101):
        progress.step = tenth // 3
        before = progress._written_at
        with mock.patch.object(launch.time, "monotonic", lambda at=tenth / 10: 1e9 + at):
            progress.write()
        written += [tenth] * (progress._written_at != before)
    assert len(written) > 3
    assert min(later - earlier for earlier, later in pairwise(written)) >= 20
