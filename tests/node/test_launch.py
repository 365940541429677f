"""What the launcher reports, how it ends by signals, and how it resumes where another node stopped."""

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

from flux_training.node.launcher import progress, restore, settings
from flux_training.node.launcher.errors import ExitCode, RunEndedError
from flux_training.node.launcher.trainer import OutputReader
from flux_training.training.dataset import manifest
from tests.node.fake_trainer import weights
from tests.node.runs import LAUNCHER_WORDS, Node, until_gone

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
SKIPPED = "say:# OOM during training step, skipping batch 1/3 #"
# Recorded from ai-toolkit, whose bar moves the cursor.
FAULTY = (
    "\r\x1b[Ajob:   0%|          | 0/20 [00:00<?, ?it/s, lr: 1.0e-04 loss: 5.000e-01]"
    "\rjob:   5%|█▋        | 1/20 [00:00<00:00,  6.65it/s, lr: 1.0e-04 loss: 5.000e-01]\n"
    "################################################\n"
    "# OOM during training step, skipping batch 1/3 #\n"
    "################################################\n\n"
    "\r\x1b[Ajob:  10%|███▎      | 2/20 [00:00<00:00,  6.65it/s, lr: 1.0e-04 loss: 5.000e-01]loss is nan\n"
    "\rjob:  10%|███▎      | 2/20 [00:03<00:03,  1.50s/it, lr: 1.0e-04 loss: 0.000e+00]"
    "\rjob:  15%|██████████| 3/20 [00:03<00:00,  6.64it/s, lr: 1.0e-04 loss: 0.000e+00]"
    "\rjob:  15%|██████████| 3/20 [00:03<00:00,  6.64it/s, lr: 1.0e-04 loss: 2.500e-01]"
    "\rjob:  20%|██████████| 4/20 [00:03<00:00,  6.64it/s, lr: 1.0e-04 loss: 2.500e-01]\n"
)


def test_weights_that_were_there_before_are_published_without_gpu_time(tmp_path: Path) -> None:
    """By that, status names a run whose weights somebody else put there (flux_training/commands/watch/job_status.py)."""
    node = Node(tmp_path, "exit:1")
    (node.stored / "job.safetensors").write_bytes(weights(20))
    ended = node.run()
    assert (ended.code, ended.published) == (0, True)
    assert (ended.progress["state"], ended.progress["gpu_seconds"]) == ("finished", 0)


def test_progress_and_curve(tmp_path: Path) -> None:
    ended = Node(tmp_path, *GOOD).run()
    expected = {"version": 1, "state": "finished", "job": "job", "run_id": "0123456789ab", "attempt": 1}
    expected |= {"step": 20, "steps": 20, "loss": 0.05, "loss_first": 0.75, "launcher": "1"}
    expected |= {"restarts": 0, "message": None, "eta_seconds": None}
    assert {key: ended.progress[key] for key in expected} == expected
    assert ended.progress["loss_smoothed"] == pytest.approx((1 / 19 + 1 / 20) / 2, rel=1e-3)
    assert ended.progress["loss_last"] == ended.progress["loss_smoothed"]
    assert ended.progress["loss_steps"] == 2
    assert set(ended.progress) - set(expected) == {
        *(
            "loss_smoothed",
            "loss_last",
            "loss_steps",
            "seconds_per_step",
            "gpu",
            "gpu_seconds",
            "started_at",
            "updated_at",
        ),
        *("begun", "start_seconds", "download_seconds", "skipped_batches", "nan_losses", "faulty_steps"),
        *("trainer", "checkpoints", "resumed", "restart_seconds", "repeated_seconds"),
    }
    assert ended.progress["start_seconds"] >= 0
    rows = (tmp_path / "upload/loss.csv").read_text().splitlines()
    assert (rows[0], rows[1], rows[20], len(rows)) == ("step,loss", "1,1", "20,0.05", 21)


def test_the_lines_that_ai_toolkit_prints(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.set_trainer(program=f"import sys; sys.stderr.write({RECORDED!r}); sys.exit(1)")
    progress = node.run().progress
    assert (progress["step"], progress["loss"], progress["loss_first"]) == (3, 0.25, 0.41665)
    assert (tmp_path / "upload/loss.csv").read_text() == "step,loss\n1,0.5\n2,0.3333\n3,0.25\n"


def test_skipped_batches_and_lost_losses_leave_gaps_in_the_curve(tmp_path: Path) -> None:
    """The bar goes on showing the last loss after a skipped batch, and 0.0 for one that is no number."""
    node = Node(tmp_path)
    node.set_trainer(
        program=f"import sys; sys.stdout.reconfigure(encoding='utf-8'); sys.stdout.write({FAULTY!r}); sys.exit(1)"
    )
    ended = node.run()
    assert (ended.progress["skipped_batches"], ended.progress["nan_losses"]) == (1, 1)
    assert (tmp_path / "upload/loss.csv").read_text() == "step,loss\n1,0.5\n4,0.25\n"
    assert "\x1b" not in ended.out


def test_faulty_steps_after_the_checkpoint_are_counted_again(tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-3", SKIPPED, "steps:4-6", "save:5", "steps:6-8", SKIPPED, "kill:9")
    assert node.run().progress["skipped_batches"] == 2
    node.set_trainer("steps:5-20", "final:20")
    ended = node.run()
    assert (ended.progress["state"], ended.progress["skipped_batches"]) == ("finished", 1)


@pytest.mark.parametrize(("share", "code"), [("0.05", ExitCode.TRAINING_FAULTY), ("0.5", ExitCode.FINISHED)])
def test_the_share_of_faulty_steps_that_ends_a_run_can_be_set(
    share: str, code: ExitCode, tmp_path: Path
) -> None:
    node = Node(tmp_path, "steps:0-4", SKIPPED, "steps:5-6", SKIPPED, "steps:7-20", "final:20")
    assert node.run(MAX_SKIPPED_SHARE=share).code == code


def test_done_json_describes_the_weights(tmp_path: Path) -> None:
    assert Node(tmp_path, *GOOD).run().published
    done = json.loads((tmp_path / "model/done.json").read_text())
    assert sorted(done) == ["finished_at", "job", "run_id", "sha256", "size", "steps", "version"]
    assert (tmp_path / "model/job.safetensors").read_bytes() == weights(20)
    assert (done["size"], done["steps"]) == (len(weights(20)), 20)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_finished_weights_are_published_without_training(tmp_path: Path) -> None:
    node = Node(tmp_path, "exit:1")
    (node.stored / "job.safetensors").write_bytes(weights(20))
    ended = node.run()
    assert (ended.code, ended.published, ended.progress["step"]) == (0, True, 20)
    assert ended.progress["gpu_seconds"] == 0


def test_a_restart_adds_up(tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-9", "save:8", "kill:9")
    first = node.run().progress
    assert (first["restarts"], first["step"]) == (0, 9)
    node.set_trainer("steps:8-20", "final:20")
    second = node.run().progress
    assert (second["restarts"], second["state"]) == (1, "finished")
    assert (first["resumed"], second["resumed"]) == ([], [8])
    assert (first["restart_seconds"], first["repeated_seconds"]) == (0, 0)
    assert second["repeated_seconds"] == round(first["seconds_per_step"], 1)  # one step
    assert second["restart_seconds"] == round(second["start_seconds"], 1)
    assert second["started_at"] == first["started_at"]
    assert second["gpu_seconds"] >= first["gpu_seconds"]
    assert first["loss_first"] == second["loss_first"] == 0.75
    assert (tmp_path / "upload/loss.csv").read_text().count("\n") == 21


def test_max_hours_are_summed_over_restarts(tmp_path: Path) -> None:
    node = Node(tmp_path, *GOOD, max_hours=1)
    before = {"run_id": "0123456789ab", "restarts": 3, "gpu_seconds": 3600.5}
    (node.stored / "progress.json").write_text(json.dumps(before))
    ended = node.run()
    assert (ended.code, ended.progress["restarts"]) == (8, 4)


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
    trainer = node.trainer(process)
    process.send_signal(signum)
    ended = node.result(process)
    assert ended.code == -(signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)
    assert (ended.progress["state"], ended.published) == (state, False)
    until_gone(trainer)


def test_a_cancelled_run_is_no_result_even_when_the_trainer_says_zero(tmp_path: Path) -> None:
    node = Node(tmp_path)
    program = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(0))\n"
    program += "import os; open('output/job/asleep', 'w').write(str(os.getpid()))\nwhile True: signal.pause()"
    node.set_trainer(program=program)
    process = node.start()
    node.trainer(process)
    process.send_signal(signal.SIGINT)
    ended = node.result(process)
    assert (ended.code, ended.published) == (-signal.SIGINT, False)


def test_when_the_worker_is_gone_the_trainer_ends(tmp_path: Path) -> None:
    node = Node(tmp_path, "deaf", "sleep")
    command = [sys.executable, *LAUNCHER_WORDS]
    program = f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(600)"
    worker = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=node.environment, stdout=subprocess.DEVNULL
    )
    trainer = node.trainer()
    worker.kill()
    worker.wait()
    until_gone(trainer)


def test_a_killed_launcher_takes_a_trainer_that_prints_with_it(tmp_path: Path) -> None:
    node = Node(tmp_path)
    program = "import os, time; open('output/job/asleep', 'w').write(str(os.getpid()))\n"
    program += "while True: print('x', flush=True); time.sleep(0.05)"
    node.set_trainer(program=program)
    process = node.start()
    trainer = node.trainer(process)
    process.kill()
    process.communicate()
    until_gone(trainer)


def test_a_full_pipe_stops_neither_the_trainer_nor_the_watchdog(tmp_path: Path) -> None:
    node = Node(tmp_path, "noise", "noise", *GOOD)
    reader, writer = os.pipe()
    command = [sys.executable, *LAUNCHER_WORDS]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=node.environment, stdout=writer, stderr=subprocess.DEVNULL
    )
    os.close(writer)
    assert process.wait(30) == 0  # nobody ever read
    os.close(reader)


def test_no_secret_is_printed_or_written(tmp_path: Path) -> None:
    far = "x" * 1995 + "verysecret2"  # where the line is cut
    node = Node(tmp_path, "env", "say:the key is verysecret1", f"say:{far}", "say:verysecret5", "exit:1")
    secrets = {"SALAD_API_KEY": "verysecret1", "HF_TOKEN": "verysecret2", "NODE_TOKEN": "verysecret3"}
    secrets |= {"wandb_api_key": "verysecret4", "SSH_KEY": "-----\nverysecret5\n-----"}
    ended = node.run(**secrets)
    given = {"run.py", "fake.py"}  # they hold the words that the trainer is to say
    paths = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in given]
    written = "".join(path.read_text(errors="replace") for path in paths)
    assert "the key is ***" in ended.out
    assert "the key is ***" in written
    assert "verys" not in ended.out + written
    names = ended.out.splitlines()
    assert "HF_TOKEN" in names
    assert not {"AWS_SECRET_ACCESS_KEY", "SALAD_API_KEY", "NODE_TOKEN"} & set(names)


def test_a_clock_that_jumps_back_is_a_fault_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.touch()
    with mock.patch.object(restore, "CLOCK_SECONDS", 0.02), pytest.raises(RunEndedError) as caught:
        restore.make_newest(path, time.time_ns() + 10**15)
    assert caught.value.code == ExitCode.CLOCK_JUMPED


def test_lint_and_the_launcher_agree_on_the_largest_manifest() -> None:
    assert settings.MAX_JSON_BYTES == manifest.MAX_MANIFEST_BYTES
    assert settings.MAX_IMAGES == manifest.MAX_IMAGES


@pytest.mark.parametrize(
    ("in_file", "in_environment", "used"),
    [(None, None, None), (2.0, None, 2.0), (None, "1.5", 1.5), (2.0, "1.5", 1.5), (0.5, "1.500000", 0.5)],
)
def test_the_hours_in_launch_json_cannot_exceed_those_the_job_was_queued_with(
    in_file: float | None,
    in_environment: str | None,
    used: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("training-config").mkdir()
    Path("training-config/launch.json").write_text(json.dumps({"max_hours": in_file}))
    environment = {} if in_environment is None else {"FLUX_MAX_HOURS": in_environment}
    assert settings.read_limits(environment).max_hours == used


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e9", "1,5", "123456"])
def test_unusable_hours_in_the_environment_end_the_start(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("training-config").mkdir()
    Path("training-config/launch.json").write_text("{}")
    with pytest.raises(RunEndedError) as caught:
        settings.read_limits({"FLUX_MAX_HOURS": text})
    assert caught.value.code == ExitCode.CONFIG_UNUSABLE


def test_progress_is_written_at_a_rate_that_r2_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One write a second and key; the worker sees a change up to a second late, so two of them can come closer."""
    node = Node(tmp_path, steps=1000, save_every=1000)
    monkeypatch.chdir(tmp_path)
    writer = progress.ProgressWriter(settings.read_settings(node.environment), None, None)
    writer.write(progress.LaunchState.TRAINING, "")
    written = []
    for tenth in range(1, 101):
        writer.step = tenth // 3
        before = writer._written_at
        with mock.patch.object(progress.time, "monotonic", lambda at=tenth / 10: 1e9 + at):
            writer.write()
        written += [tenth] * (writer._written_at != before)
    assert len(written) > 3
    assert min(later - earlier for earlier, later in pairwise(written)) >= 20


@pytest.mark.parametrize(("steps", "window"), [(1000, 50), (400, 40), (20, 2), (5, 1)])
def test_losses_are_means_of_50_steps_or_of_a_tenth_of_a_shorter_run(
    steps: int, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path, steps=steps, save_every=steps)
    monkeypatch.chdir(tmp_path)
    writer = progress.ProgressWriter(settings.read_settings(node.environment), None, None)
    writer.losses, writer.step = {step: float(step) for step in range(1, steps + 1)}, steps
    report = writer.report()
    assert report["loss_steps"] == window
    assert report["loss_first"] == (1 + window) / 2
    assert report["loss_smoothed"] == steps - (window - 1) / 2


CACHING = """
import sys, time
for number in range(1, 31):
    sys.stderr.write(f"\\rCaching latents: {number:3}%|█    | {number}/40 [00:04<00:08,  2.0it/s]")
    sys.stderr.flush()
    time.sleep(0.1)
time.sleep(60)
"""


def test_a_phase_with_a_bar_of_its_own_is_no_stall_while_the_bar_moves(tmp_path: Path) -> None:
    node = Node(tmp_path, stall_minutes=1 / 60)
    node.set_trainer(program=CACHING)
    ended = node.run()
    assert (ended.code, ended.progress["gpu_seconds"] > 3) == (ExitCode.STALLED, True)
    assert "Caching latents:  30%" in ended.out
    assert "after step 0, in: Caching latents 30/40" in ended.progress["message"]


@pytest.mark.parametrize(
    ("bar", "message"),
    [
        ("Caching latents:  30%|█   | 12/40 [00:04<00:08,  2.0it/s]", "Caching latents 12/40"),
        ("model.safetensors:  5%|█   | 1.2G/23.8G [00:04<08:08, 46MB/s]", "model.safetensors 1.2G/23.8G"),
        ("  3%|█   | 2/57 [00:04<00:08,  2.0it/s]", "quantizing 57 transformer blocks 2/57"),
    ],
)
def test_a_phase_is_named_after_its_bar_or_the_line_above(
    bar: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    monkeypatch.chdir(tmp_path)
    of_run = settings.read_settings(node.environment)
    writer = progress.ProgressWriter(of_run, None, None)
    output = tmp_path / "output.txt"
    output.write_text(f" - quantizing 57 transformer blocks\n\x1b[A\r{bar}\r{bar}\n")
    with output.open("rb") as file:
        OutputReader(of_run, writer).read(file.fileno())
    assert writer.message == message


# The lines of four steps with the losses 1, 2, 3 and 4, before and since 0.12.26.
OLD_BARS = ("0 -", "0 1", "0 2", "1 2", "1 3", "2 3", "2 4", "3 4")
NEW_BARS = ("0 -", "0 1", "1 1", "1 2", "2 2", "2 3", "3 3", "3 4", "4 4")


@pytest.mark.parametrize(
    ("trainer", "bars"),
    [
        ("0.11.0 c4db100e", OLD_BARS),
        ("0.12.25", OLD_BARS),
        ("0.12.26 27a03a91", NEW_BARS),
        ("1.0.0", NEW_BARS),
        ("", NEW_BARS),
    ],
)
@pytest.mark.parametrize("begun", [0, 4])
def test_each_loss_belongs_to_its_step_in_every_version(
    trainer: str, bars: tuple[str, ...], begun: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first step, and after a resume at step 4."""
    node = Node(tmp_path, steps=begun + 4)
    monkeypatch.chdir(tmp_path)
    of_run = settings.read_settings(node.environment)
    writer = progress.ProgressWriter(of_run, None, None)
    writer.trainer = trainer
    output = tmp_path / "output.txt"
    lines = (bar.split(" ") for bar in bars)
    output.write_text(
        "".join(
            f"\rjob:  5%|█   | {begun + int(count)}/{begun + 4} [00:04<00:08, lr: 1.0e-04 loss: {loss}]"
            for count, loss in lines
        ).replace(" loss: -", "")
    )
    with output.open("rb") as file:
        OutputReader(of_run, writer).read(file.fileno())
    assert writer.losses == {begun + number: float(number) for number in (1, 2, 3, 4)}
    assert writer.step == begun + 4
