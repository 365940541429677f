"""From runs to HTML: one page for a run, one that lays runs side by side. What nodes and people wrote is escaped by Jinja2."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flux_training.commands.report.chart import charts
from flux_training.commands.report.data_uris import Picture, embed
from flux_training.commands.report.runs import ReportedRun, find_images, parent_of
from flux_training.training.bill import dollars
from flux_training.training.runs.run_state import RunState, in_words
from flux_training.training.runs.samples import spread
from flux_training.training.train_yml.diff import caption_changes, differing, setting_changes
from flux_training.training.values import read_time
from flux_training.training.words import one_line, printable

TEMPLATES = Path(__file__).parent / "templates"
SAMPLE_SIDE, THUMB_SIDE = 768, 256
MOST_STEPS, MOST_PROMPTS, MOST_IMAGES = 12, 24, 200


@dataclass(frozen=True)
class Shot:
    """One picture of a grid with the words under it and those that a screen reader says."""

    picture: Picture | None
    words: str
    alt: str


@dataclass(frozen=True)
class Strip:
    """A prompt and its pictures."""

    heading: str
    shots: list[Shot]


def run_page(run: ReportedRun, outputs: Path, jobs_folder: Path) -> str:
    """The page of one run."""
    parent, called = parent_of(run, outputs)
    images = find_images(run, jobs_folder)
    return _render(
        "run.html.j2",
        run=run,
        title=f"{run.job} {run.run_id}",
        state=_state(run),
        figures=_figures(run),
        strips=_strips(run),
        charts=charts([(run.job, run.losses)]),
        dataset=[
            _image(name, caption, images.get(name))
            for name, caption in list(run.captions.items())[:MOST_IMAGES]
        ],
        left_out=max(0, len(run.captions) - MOST_IMAGES),
        parent=parent,
        parent_called=called,
        config_changes=setting_changes(parent.config, run.config) if parent else [],
        caption_changes=caption_changes(parent.captions, run.captions) if parent else [],
        timings=_timings(run),
        weights=run.done,
    )


def compare_page(runs: Sequence[ReportedRun]) -> str:
    """The page of two or more runs."""
    labels = [_label(run, runs) for run in runs]
    figures = [dict(_figures(run)) for run in runs]
    names = list(dict.fromkeys(name for one in figures for name in one))
    return _render(
        "compare.html.j2",
        title="Runs side by side: " + ", ".join(labels),
        runs=[
            {"run": run, "label": label, "state": _state(run)}
            for run, label in zip(runs, labels, strict=True)
        ],
        figures=[(name, [one.get(name, "") for one in figures]) for name in names],
        settings=differing([run.config for run in runs]),
        charts=charts([(label, run.losses) for label, run in zip(labels, runs, strict=True)]),
        strips=_strips_of_all(runs, labels),
    )


def _render(template: str, **facts: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value, 200_000) if type(value) is str else value,
    )
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_source(style)}'; script-src '{_source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # S704: both are files of this folder.
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        policy=policy,
        **facts,
    )


def _source(text: str) -> str:
    """How a Content-Security-Policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _label(run: ReportedRun, runs: Sequence[ReportedRun]) -> str:
    """The job's name, with the run's id where a job is there twice."""
    twice = sum(other.job == run.job for other in runs) > 1
    return f"{run.job} {run.run_id[:6]}" if twice else run.job


def _state(run: ReportedRun) -> tuple[str, str]:
    """The word and its kind: good, bad or other."""
    state = one_line(str(run.record.get("state") or "unknown"), 60)
    kind = (
        "good"
        if state == RunState.COMPLETED
        else "bad"
        if state.startswith((RunState.FAILED, "completed without"))
        else "other"
    )
    return state, kind


def _figures(run: ReportedRun) -> list[tuple[str, str]]:
    """What one wants to know first; what is not known is left out."""
    progress, cost = run.progress, run.record.get("cost")
    found = []
    if progress.loss_first is not None and progress.loss_last is not None:
        found.append(("Loss", f"{progress.loss_first:.4f} → {progress.loss_last:.4f}"))
    if progress.step is not None:
        found.append(("Steps", f"{progress.step} of {progress.steps or run.record.get('steps')}"))
    if progress.gpu_seconds is not None:
        found.append(("GPU time", in_words(progress.gpu_seconds)))
    if isinstance(cost, dict) and isinstance(cost.get("actualUsd"), int | float):
        found.append(("Cost", dollars(cost["actualUsd"])))
    found.append(("Images", str(len(run.images))))
    if progress.restarts is not None:
        found.append(("Restarts", str(progress.restarts)))
    return found


def _timings(run: ReportedRun) -> list[tuple[str, str]]:
    queue, progress = run.record.get("kelpie"), run.progress
    facts = queue if isinstance(queue, dict) else {}
    times = {
        name: read_time(facts.get(name)) for name in ("created", "started", "completed", "failed", "canceled")
    }
    found = [(word, _moment(times[name])) for name, word in _MOMENTS if times[name]]
    ended = times["completed"] or times["failed"] or times["canceled"]
    if times["created"] and times["started"]:
        found.append(("Waited for a node", in_words((times["started"] - times["created"]).total_seconds())))
    if times["created"] and ended:
        found.append(("From the queue to the end", in_words((ended - times["created"]).total_seconds())))
    if progress.seconds_per_step is not None:
        found.append(("A step", f"{progress.seconds_per_step:.2f} s"))
    cost = run.record.get("cost")
    if isinstance(cost, dict) and isinstance(cost.get("usdAnHour"), int | float):
        found.append(("Price of the node", f"${cost['usdAnHour']:.3f} an hour"))
    if progress.gpu:
        found.append(("GPU", progress.gpu))
    if facts.get("machine_id"):
        found.append(("Machine", one_line(str(facts["machine_id"]), 60)))
    return found


_MOMENTS = (
    ("created", "Queued"),
    ("started", "Started"),
    ("completed", "Completed"),
    ("failed", "Failed"),
    ("canceled", "Canceled"),
)


def _moment(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else ""


def _strips(run: ReportedRun) -> list[Strip]:
    """The samples by prompt, step by step."""
    strips = []
    for number, by_step in list(run.samples.items())[:MOST_PROMPTS]:
        heading = run.prompts[number] if number < len(run.prompts) else f"prompt {number + 1}"
        shots = [
            _shot(run, by_step[step].name, f"step {step}", f"{heading}, step {step}")
            for step in spread(sorted(by_step), MOST_STEPS)
        ]
        strips.append(Strip(heading, shots))
    return strips


def _strips_of_all(runs: Sequence[ReportedRun], labels: Sequence[str]) -> list[Strip]:
    """Each run's last sample of the same prompt; of prompts by their place where the words differ (a trigger word does)."""
    most = max((len(run.samples) for run in runs), default=0)
    strips = []
    for number in range(min(most, MOST_PROMPTS)):
        shots = []
        for run, label in zip(runs, labels, strict=True):
            by_step = run.samples.get(number)
            if not by_step:
                shots.append(Shot(None, f"{label}: none", ""))
                continue
            step = max(by_step)
            shots.append(_shot(run, by_step[step].name, f"{label}, step {step}", f"{label}, step {step}"))
        words = dict.fromkeys(run.prompts[number] for run in runs if number < len(run.prompts))
        strips.append(Strip(" / ".join(words) or f"prompt {number + 1}", shots))
    return strips


def _shot(run: ReportedRun, name: str, words: str, alt: str) -> Shot:
    return Shot(embed(run.folder / "samples" / name, SAMPLE_SIDE), words, alt)


def _image(name: str, caption: str, path: Path | None) -> Shot:
    return Shot(embed(path, THUMB_SIDE) if path else None, caption, name)
