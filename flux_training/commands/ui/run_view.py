"""One run as the page shows it: losses, samples, times and findings. Everything is read from the bucket with limits."""

import io
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flux_training.clients.records import read_bounded, read_record
from flux_training.clients.results import CHANGED_CONFIG, read_stored_inputs
from flux_training.clients.storage import Storage
from flux_training.commands.cli import outputs_folder
from flux_training.commands.report.chart import chart_curve, chart_marks
from flux_training.commands.report.inline_images import MAX_SAMPLE_PIXELS, encode_image
from flux_training.commands.report.run_commands import run_commands
from flux_training.commands.report.runs import fetched_runs
from flux_training.commands.report.times import cost_parts, describe_restarts
from flux_training.training.bill import show_dollars
from flux_training.training.runs.loss_curve import Point, parse_losses
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import show_duration
from flux_training.training.runs.samples import NAME, prompts_of, sample_grid, spread_evenly
from flux_training.training.train_yml.trainer_config import parse_train_yml
from flux_training.training.words import printable

# The maximum size of loss.csv: 100,000 steps of 20 bytes.
MAX_LOSS_BYTES = 2 * 1024 * 1024
MAX_SAMPLES = 5000
MAX_PROMPTS, MAX_STEPS = 24, 40
MAX_PROMPT_LENGTH = 500
MAX_IMAGE_BYTES = 32 * 1024 * 1024
IMAGE_SIDE = 1024


def read_run(storage: Storage, keys: RunKeys, stack: str) -> dict[str, Any]:
    """Seven reads, however many samples there are. `stack` is named in commands. Raises ServiceError."""
    progress = read_record(storage, keys.progress, RunProgress)
    record = read_record(storage, keys.record, RunRecord)
    inputs = read_stored_inputs(storage, keys)
    is_own = inputs is not None and inputs.run_id == keys.run
    config = parse_train_yml(inputs.raw_config if inputs and is_own else b"")
    reported, queued = progress.value or RunProgress(), record.value or RunRecord()
    idle = queued.estimate.idle_seconds if queued.estimate else None
    return {
        "job": keys.job,
        "run_id": keys.run,
        "figures": _key_figures(reported),
        "times": _times(reported, queued),
        "cost_parts": [asdict(part) for part in cost_parts(reported, _price_when_queued(queued), idle)],
        "commands": run_commands(
            keys.job,
            keys.run,
            stack,
            is_finished=reported.state == "finished",
            # Count only fetched runs, because `flux report --compare` compares those.
            has_others=len(fetched_runs(outputs_folder(stack), keys.job)) > 1,
        ),
        "findings": [*progress.faults, *record.faults, *([] if is_own or not inputs else [CHANGED_CONFIG])],
        "message": reported.message,
        "curve": chart_curve(keys.job, _losses(storage, keys), reported, chart_marks(config, reported)),
        "prompts": _samples_by_prompt(storage, keys, prompts_of(config)),
    }


def read_curves(storage: Storage, runs: Sequence[RunKeys]) -> list[dict[str, Any]]:
    """The loss curves of the runs, labelled with their jobs; one read for each. Runs without losses are left out. Raises ServiceError."""
    # Read one curve after the other: the losses of one run may need 20 MB until they are reduced to a curve.
    curves = [chart_curve(keys.job, _losses(storage, keys)) for keys in runs]
    return [curve for curve in curves if curve["points"]]


def read_image(storage: Storage, keys: RunKeys, name: str) -> bytes | None:
    """A sample as WebP, decoded and encoded again; None if there is none that can be read. Raises ServiceError."""
    if not NAME.fullmatch(name):
        return None
    raw = read_bounded(storage, f"{keys.output}samples/{name}", MAX_IMAGE_BYTES)
    image = encode_image(io.BytesIO(raw), IMAGE_SIDE, MAX_SAMPLE_PIXELS) if raw else None
    return image.data if image else None


def _losses(storage: Storage, keys: RunKeys) -> list[Point]:
    csv = read_bounded(storage, f"{keys.output}loss.csv", MAX_LOSS_BYTES) or b""
    return parse_losses(csv.decode("utf-8", "replace"))


def _key_figures(progress: RunProgress) -> list[tuple[str, str]]:
    """The numbers at the top of the page. Unknown ones are empty."""
    return [
        ("Steps", f"{progress.step} of {progress.steps}" if progress.step is not None else ""),
        (progress.loss_name.capitalize(), progress.loss_change),
        ("GPU time", show_duration(progress.gpu_seconds) if progress.gpu_seconds is not None else ""),
        ("Restarts", str(progress.restarts) if progress.restarts is not None else ""),
    ]


def _times(progress: RunProgress, record: RunRecord) -> list[tuple[str, str]]:
    estimate = record.estimate
    return [
        ("Queued", f"{record.created_at:%Y-%m-%d %H:%M} UTC" if record.created_at else ""),
        ("Last report", f"{progress.updated_at:%Y-%m-%d %H:%M:%S} UTC" if progress.updated_at else ""),
        ("Launcher", progress.state),
        ("Time per step", f"{progress.seconds_per_step:.2f} s" if progress.seconds_per_step else ""),
        (
            "Cost estimated before",
            show_dollars(estimate.usd) if estimate and estimate.usd is not None else "",
        ),
        ("Faulty steps", progress.faults),
        ("Went on after restarts", describe_restarts(progress)),
        ("Continues run", record.parent or ""),
        ("GPU", progress.gpu),
    ]


def _price_when_queued(record: RunRecord) -> float | None:
    """In dollars an hour, when the run was queued."""
    return record.estimate.usd_an_hour if record.estimate else None


def _samples_by_prompt(storage: Storage, keys: RunKeys, words: list[str]) -> list[dict[str, Any]]:
    """For each prompt, the names of its samples by step. `words`: the prompts."""
    folder = f"{keys.output}samples/"
    listed = itertools.islice(storage.list(folder), MAX_SAMPLES)
    grid = sample_grid(item.key.removeprefix(folder) for item in listed)
    return [
        {
            "prompt": printable(
                words[prompt] if prompt < len(words) else f"prompt {prompt + 1}", MAX_PROMPT_LENGTH
            ),
            "samples": [
                {"step": step, "name": by_step[step].name}
                for step in spread_evenly(sorted(by_step), MAX_STEPS)
            ],
        }
        for prompt, by_step in list(grid.items())[:MAX_PROMPTS]
    ]
