"""Renders runs as HTML. Jinja2 escapes everything that nodes and users wrote."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flux_training.commands.design.style import content_security_policy_hash, shared_script, shared_style_with
from flux_training.commands.report.chart import chart_curve, chart_marks
from flux_training.commands.report.inline_images import MAX_SAMPLE_PIXELS, InlineImage, embed_image
from flux_training.commands.report.poster import first_frame
from flux_training.commands.report.run_commands import run_commands, without_quotes
from flux_training.commands.report.runs import (
    PAGE,
    ReportedRun,
    fetched_runs,
    find_images,
    run_label,
    run_to_compare_with,
)
from flux_training.commands.report.times import (
    cost_parts,
    idle_seconds_of,
    price_of_run,
    times_of_run,
    waste_of_run,
)
from flux_training.training.bill import show_dollars
from flux_training.training.names import VIDEO_SUFFIXES
from flux_training.training.runs.run import NOISE_STAGES
from flux_training.training.runs.run_state import RunState, show_duration
from flux_training.training.runs.samples import Sample, sample_settings, spread_evenly
from flux_training.training.train_yml.diff import (
    caption_changes,
    compared_settings,
    differing_images,
    distinctive_settings,
    setting_changes,
)
from flux_training.training.values import mapping, number
from flux_training.training.words import DEFAULT_STACK, one_line, printable

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
# The sizes of samples. The first and last are shown side by side; those between are smaller to keep the file small.
LARGE_SIDE, SAMPLE_SIDE, THUMBNAIL_SIDE = 1024, 768, 256
MAX_STEPS, MAX_PROMPTS, MAX_IMAGES = 12, 24, 200
# The maximum number of samples per run in a comparison. With this many, twelve runs make a file of about 20 MB.
MAX_COMPARED_STEPS, MAX_COMPARED_PROMPTS, COMPARED_SIDE = 6, 8, 512
MAX_TEXT = 200_000
Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class PageImage:
    """An image, the text below it, and its text alternative. `missing`: why there is no picture."""

    picture: InlineImage | None
    words: str
    alt: str
    step: int | None = None
    missing: str = ""


@dataclass(frozen=True)
class ImageStrip:
    """The samples of a prompt. `settings`: its seed and guidance, in words."""

    heading: str
    shots: list[PageImage]
    settings: str = ""


@dataclass(frozen=True)
class RunSamples:
    """One run's samples of a prompt by step, in a comparison."""

    label: str
    shots: list[PageImage]


@dataclass(frozen=True)
class ComparedPrompt:
    """A prompt, with the samples of each run."""

    heading: str
    runs: list[RunSamples]


@dataclass(frozen=True)
class PageLink:
    """A link to a file beside the page or in a neighbouring folder."""

    words: str
    href: str


@dataclass(frozen=True)
class PageWeights:
    """A file of the finished LoRA. `size` in bytes; `size` and `sha256` as done.json, which is not trusted, says. `link` if the file is here."""

    name: str
    size: object
    sha256: object
    link: PageLink | None


def run_page(run: ReportedRun, outputs: Path, jobs_folder: Path, stack: str = DEFAULT_STACK) -> str:
    """The page of one run of this stack. It links the previous and the next run of the job if they have a page already."""
    parent, description = run_to_compare_with(run, outputs)
    images, runs = find_images(run, jobs_folder), fetched_runs(outputs, run.job)
    return _render(
        "run.html.j2",
        run=run,
        title=f"{run.job} {run.run_id}",
        state=_state(run),
        differs=_distinguishing_settings(run, outputs),
        figures=_key_figures(run),
        strips=_sample_strips(run),
        curves=[chart_curve(run.job, run.losses, run.progress, chart_marks(run.config, run.progress))]
        if run.losses
        else [],
        dataset=[
            shown
            for name in list(run.captions)[:MAX_IMAGES]
            for shown in _image_with_partners(run, name, images)
        ],
        left_out=max(0, len(run.captions) - MAX_IMAGES),
        parent=parent,
        parent_called=description,
        fetch_parent=without_quotes(f"fetch {run.job} --run {run.record.get('parent')}", stack),
        fetch=without_quotes(f"fetch {run.job}", stack),
        config_changes=setting_changes(parent.config, run.config) if parent else [],
        caption_changes=caption_changes(parent.captions, run.captions) if parent else [],
        timings=times_of_run(run.record, run.progress, is_stand_in=run.is_stand_in),
        cost_parts=cost_parts(run.progress, price_of_run(run.record), idle_seconds_of(run.record)),
        commands=run_commands(
            run.job,
            run.run_id,
            stack,
            is_finished=bool(run.done),
            has_others=len(runs) > 1,
            has_checkpoints=any((run.folder / "checkpoints").glob("*")),
        ),
        weights=_weights_files(run),
        neighbours=_neighbour_links(run, runs),
    )


def _distinguishing_settings(run: ReportedRun, outputs: Path) -> str:
    """The settings in which the run differs from the newest runs of other jobs on the same images, as in a sweep; empty without any."""
    dataset = run.record.get("dataset")
    others = [
        jobs[-1]
        for job in sorted(path.name for path in outputs.iterdir())
        if job != run.job and (jobs := fetched_runs(outputs, job))
    ]
    same = [other for other in others if dataset and other.record.get("dataset") == dataset]
    found = distinctive_settings({one.job: one.config for one in (run, *same)})
    return found.get(run.job, "")


def compare_page(runs: Sequence[ReportedRun]) -> str:
    """The page of two or more runs."""
    labels = [run_label(run, runs) for run in runs]
    figures = [dict(_key_figures(run)) for run in runs]
    # The loss has another name where it is the mean of another number of steps; all losses stand together.
    names = sorted(
        dict.fromkeys(name for one in figures for name in one), key=lambda name: not name.startswith("Loss")
    )
    different = differing_images([run.images for run in runs])
    return _render(
        "compare.html.j2",
        title="Comparison of runs: " + ", ".join(labels),
        models=dict.fromkeys(run.base_model for run in runs),
        runs=[
            {"run": run, "label": label, "state": _state(run), "sort_keys": _sort_keys(run)}
            for run, label in zip(runs, labels, strict=True)
        ],
        figures=[(name, [one.get(name, "") for one in figures]) for name in names],
        settings=compared_settings([run.config for run in runs]),
        images=dict(list(different.items())[:MAX_IMAGES]),
        more_images=max(0, len(different) - MAX_IMAGES),
        curves=[
            chart_curve(label, run.losses, run.progress)
            for label, run in zip(labels, runs, strict=True)
            if run.losses
        ],
        prompts=_prompts_of_all_runs(runs, labels),
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
        finalize=lambda value: printable(value, MAX_TEXT) if type(value) is str else value,
    )
    environment.filters["breakable"] = _breakable
    style = shared_style_with(TEMPLATES / "report.css")
    script = shared_script() + (TEMPLATES / "report.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{content_security_policy_hash(style)}'; script-src '{content_security_policy_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704 - files of this program
        script=Markup(script),  # noqa: S704 - a file of this folder
        policy=policy,
        **facts,
    )


def _breakable(name: str) -> "Markup":
    """A setting or a file name as HTML that browsers break only after a dot or an underscore."""
    from markupsafe import Markup, escape

    pieces = re.split(r"(?<=[._])(?=.)", printable(name, MAX_TEXT))
    return Markup("<wbr>").join(map(escape, pieces))


def _state(run: ReportedRun) -> tuple[str, str]:
    """The state, and the style to show it in."""
    state = one_line(str(run.record.get("state") or "unknown"), 60)
    if state == RunState.COMPLETED:
        return state, "good"
    return state, "bad" if state.startswith((RunState.FAILED, RunState.WITHOUT_WEIGHTS)) else "other"


def _sort_keys(run: ReportedRun) -> dict[str, float]:
    """The known numbers by which the runs of a comparison can be sorted."""
    found = {
        "loss": run.progress.loss,
        "cost": number(mapping(run.record.get("cost")).get("actualUsd")),
        "time": run.progress.gpu_seconds,
    }
    return {name: value for name, value in found.items() if value is not None}


def _key_figures(run: ReportedRun) -> Facts:
    """The most important numbers, as far as they are known."""
    progress, cost = run.progress, number(mapping(run.record.get("cost")).get("actualUsd"))
    found = []
    if progress.loss_change:
        found.append((progress.loss_name.capitalize(), progress.loss_change))
    if progress.step is not None:
        found.append(("Steps", f"{progress.step} of {progress.steps or run.record.get('steps')}"))
    if progress.faults:
        found.append(("Faulty steps", progress.faults))
    if progress.gpu_seconds is not None:
        found.append(("GPU time", show_duration(progress.gpu_seconds)))
        waste = waste_of_run(run.record, progress)
        # Downloads and idle time are paid too, but are no part of the GPU time beside them.
        after = f", of which {show_duration(waste.idle)} idle afterwards" if waste.idle else ""
        found.append(("Paid without training", f"{show_duration(waste.total)}{after}"))
    if cost is not None:
        found.append(("Cost", show_dollars(cost) + (" at example prices" if run.is_stand_in else "")))
    found.append(("Images", str(len(run.images))))
    if run.is_stand_in:
        found.append(("Trainer", "stand-in of the local cloud"))
    if progress.restarts is not None:
        found.append(("Restarts", str(progress.restarts)))
    return found


def _weights_files(run: ReportedRun) -> list[PageWeights]:
    """The files of a finished run."""
    if not run.done:
        return []
    stages = run.stage_digests
    digests = [stages.get(stage) for stage in NOISE_STAGES] if stages else [run.done.get("sha256")]
    # done.json has the total size of all files, so the size of each one is unknown.
    size = None if stages else run.done.get("size")
    return [
        PageWeights(
            path.name,
            path.stat().st_size if path.is_file() else size,
            digest,
            PageLink(path.name, f"./{quote(path.name)}") if path.is_file() else None,
        )
        for path, digest in zip(run.weights, digests, strict=True)
    ]


def _neighbour_links(run: ReportedRun, runs: Sequence[ReportedRun]) -> list[PageLink]:
    ids = [one.run_id for one in runs]
    if run.run_id not in ids:
        return []
    index = ids.index(run.run_id)
    before, after = runs[max(0, index - 1) : index], runs[index + 1 : index + 2]
    return [
        PageLink(f"{words} run, {one.run_id}", f"../{quote(one.run_id)}/{PAGE}")
        for words, found in (("Previous", before), ("Next", after))
        for one in found
        if (one.folder / PAGE).is_file()
    ]


def _sample_strips(run: ReportedRun) -> list[ImageStrip]:
    """For each prompt, its samples by step."""
    settings = sample_settings(run.config)
    strips = []
    for prompt, by_step in list(run.samples.items())[:MAX_PROMPTS]:
        heading = run.prompts[prompt] if prompt < len(run.prompts) else f"prompt {prompt + 1}"
        details = settings[prompt] if prompt < len(settings) else ""
        steps = spread_evenly(sorted(by_step), MAX_STEPS)
        shots = [_sample_at_step(run, by_step[step], heading, details, steps) for step in steps]
        strips.append(ImageStrip(heading, shots, details))
    return strips


def _sample_at_step(
    run: ReportedRun, sample: Sample, heading: str, details: str, steps: Sequence[int]
) -> PageImage:
    words = f"step {sample.step}"
    alt = ", ".join(filter(None, (heading, words, details)))
    side = LARGE_SIDE if sample.step in (steps[0], steps[-1]) else SAMPLE_SIDE
    picture = embed_image(run.folder / "samples" / sample.name, side, MAX_SAMPLE_PIXELS)
    return PageImage(picture, words, alt, sample.step)


def _prompts_of_all_runs(runs: Sequence[ReportedRun], labels: Sequence[str]) -> list[ComparedPrompt]:
    """For each prompt, the samples of each run. Prompts are matched by position: their trigger words may differ."""
    prompts = max((len(run.samples) for run in runs), default=0)
    return [
        ComparedPrompt(
            " / ".join(dict.fromkeys(run.prompts[prompt] for run in runs if prompt < len(run.prompts)))
            or f"prompt {prompt + 1}",
            [
                RunSamples(label, _samples_to_compare(run, label, prompt))
                for run, label in zip(runs, labels, strict=True)
            ],
        )
        for prompt in range(min(prompts, MAX_COMPARED_PROMPTS))
    ]


def _samples_to_compare(run: ReportedRun, label: str, prompt: int) -> list[PageImage]:
    by_step = run.samples.get(prompt, {})
    return [
        PageImage(
            embed_image(run.folder / "samples" / by_step[step].name, COMPARED_SIDE, MAX_SAMPLE_PIXELS),
            f"{label}, step {step}",
            f"{label}, step {step}",
            step,
        )
        for step in spread_evenly(sorted(by_step), MAX_COMPARED_STEPS)
    ]


def _image_with_partners(run: ReportedRun, name: str, found: Mapping[str, Path]) -> list[PageImage]:
    """A trained image with its caption, then the control images and masks that belong to it."""
    partners = run.partners.get(name, [])
    shown = [(name, run.captions[name]), *((partner, f"{partner} of {name}") for partner in partners)]
    return [_dataset_image(one, words, found.get(one)) for one, words in shown]


def _dataset_image(name: str, words: str, path: Path | None) -> PageImage:
    """An image or the first frame of a video. `path` is None if the job folder no longer has the same file."""
    if path is None:
        return PageImage(None, words, name, missing=f"{name} was changed or removed since")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return PageImage(embed_image(path, THUMBNAIL_SIDE), words, name, missing=f"{name} cannot be shown")
    frame = first_frame(path)
    picture = embed_image(io.BytesIO(frame), THUMBNAIL_SIDE) if frame else None
    return PageImage(
        picture, words, name, missing=f"{name}: a video. Install ffmpeg to see its first frame here"
    )
