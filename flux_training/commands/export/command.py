"""`flux export`: makes a folder with weights, model card and samples, ready for Hugging Face, Civitai and ComfyUI."""

import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import rich_click as click

from flux_training.commands.cli import UserPath, outputs_folder, say_wrapped, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.export.card import Card, CardImage, card_text
from flux_training.commands.report.runs import ReportedRun, select_run
from flux_training.commands.results.download import sha256_of_file
from flux_training.training.errors import BadInput
from flux_training.training.files import add_file_name_to_errors
from flux_training.training.runs.run import NOISE_STAGES
from flux_training.training.runs.run_state import RunState
from flux_training.training.values import count
from flux_training.training.words import flux_command, one_line

WEIGHTS = ".safetensors"
CARD = "README.md"
CHECKPOINT = re.compile(rf"_(\d{{9}})(_(?:{'|'.join(NOISE_STAGES)}))?\.safetensors\Z", re.ASCII)


@dataclass(frozen=True)
class ExportedWeights:
    """The LoRA to export, and the step that it was saved at. `files`: its source by exported name; two for two noise stages."""

    files: Mapping[str, Path]
    step: int

    @property
    def names(self) -> str:
        return " and ".join(self.files)


@click.command()
@click.argument("job", shell_complete=complete_job)
@click.option(
    "--to",
    "folder",
    required=True,
    type=UserPath(path_type=Path),
    help="The folder to make. It must not exist yet.",
)
@click.option(
    "--run", "run_id", metavar="ID", help="This run instead of the newest; the first characters are enough."
)
@click.option(
    "--step",
    type=click.IntRange(min=0),
    help="Export the checkpoint of this step instead of the final weights.",
)
@stack_option
def export(job: str, folder: Path, run_id: str | None, step: int | None, stack: str) -> None:
    """Make a folder of JOB's newest fetched run that is ready for Hugging Face, Civitai and ComfyUI.

    It has the weights, a model card with licence, trigger word, settings and SHA-256, and the samples.
    """
    run = select_run(outputs_folder(stack), job, run_id, stack)
    if folder.exists():
        raise BadInput([f"--to {folder}: exists and is not overwritten; give another name or delete it"])
    weights = _final_weights(run, stack) if step is None else _checkpoint(run, step, stack)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as staging:
        made = Path(staging) / folder.name
        with add_file_name_to_errors(folder):
            _write(run, weights, made)
        made.rename(folder)
    say_wrapped(f"{folder}: {weights.names} of run {run.run_id}, step {weights.step}, and {CARD}")
    if run.is_stand_in:
        say_wrapped(
            "The stand-in trainer of the local cloud made these weights: no image model can use them, so do not publish them."
        )
        return
    say_wrapped(
        f"Next: `hf upload {job} {shlex.quote(str(folder))}` publishes it on Hugging Face (add --private to keep it to yourself). "
        "`pip install huggingface_hub` installs `hf`; `hf auth login` is needed once."
    )


def _final_weights(run: ReportedRun, stack: str) -> ExportedWeights:
    """Raises BadInput if the run has none, or others than those that were verified."""
    if not all(path.is_file() for path in run.weights):
        raise BadInput([f"{run.folder} has no final weights; {_in_place_of_weights(run, stack)}"])
    stages = run.stage_digests
    expected = [stages.get(stage) for stage in NOISE_STAGES] if stages else [run.done.get("sha256")]
    for path, digest in zip(run.weights, expected, strict=True):
        if sha256_of_file(path) == digest:
            continue
        again = flux_command(f"fetch {run.job} --run {run.run_id} --force", stack)
        raise BadInput([f"{path} is not the file that was verified after training; {again} fetches it again"])
    return ExportedWeights({path.name: path for path in run.weights}, count(run.done.get("steps")) or 0)


def _in_place_of_weights(run: ReportedRun, stack: str) -> str:
    """What to do about a run without its final weights. The bucket has them only if the run has finished."""
    if run.done:
        return f"{flux_command(f'fetch {run.job} --run {run.run_id}', stack)} gets them"
    if steps := ", ".join(map(str, sorted(_checkpoints(run)))):
        return f"--step exports a checkpoint: {steps}"
    checkpoints = flux_command(f"fetch {run.job} --run {run.run_id} --checkpoints", stack)
    if run.record.get("state") == RunState.CANCELED:
        return f"it was canceled at step {run.progress.step or 0}; {checkpoints} gets the checkpoints that it had saved, if any"
    return f"when it was fetched, it had not finished; {checkpoints} gets what the bucket has now"


def _checkpoint(run: ReportedRun, step: int, stack: str) -> ExportedWeights:
    """Raises BadInput, with the steps that there are, if the checkpoint was not fetched."""
    found = _checkpoints(run)
    if step not in found:
        raise BadInput([f"--step {step}: no checkpoint of this step; {_other_checkpoints(run, stack)}"])
    stages = [f"{run.job}_{stage}{WEIGHTS}" for stage in NOISE_STAGES]
    missing = [name for name in stages if name not in found[step]]
    if len(missing) == 1:
        again = flux_command(f"fetch {run.job} --run {run.run_id} --checkpoints", stack)
        raise BadInput(
            [f"--step {step}: the checkpoint lacks {missing[0]}, one of its two files; {again} gets both"]
        )
    return ExportedWeights(found[step], step)


def _other_checkpoints(run: ReportedRun, stack: str) -> str:
    """The steps that there are, and how to get more, unless those of a finished run were fetched: the bucket gets no others."""
    found = _checkpoints(run)
    steps = f"{run.folder} has those of {', '.join(map(str, sorted(found)))}" if found else "none was fetched"
    if found and run.done:
        return steps
    again = flux_command(f"fetch {run.job} --run {run.run_id} --checkpoints", stack)
    return f"{steps}; {again} gets what the bucket has"


def _checkpoints(run: ReportedRun) -> dict[int, dict[str, Path]]:
    """The fetched checkpoints by step: their files by exported name."""
    found: dict[int, dict[str, Path]] = {}
    for path in sorted((run.folder / "checkpoints").glob(f"*{WEIGHTS}")):
        if match := CHECKPOINT.search(path.name):
            found.setdefault(int(match[1]), {})[f"{run.job}{match[2] or ''}{WEIGHTS}"] = path
    return found


def _write(run: ReportedRun, weights: ExportedWeights, folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for name, path in weights.files.items():
        shutil.copyfile(path, folder / name)
    samples = _copy_samples(run, weights.step, folder)
    card = Card(
        job=run.job,
        run_id=run.run_id,
        step=weights.step,
        weights={name: sha256_of_file(path) for name, path in weights.files.items()},
        trigger=one_line(run.trigger),
        config=run.config,
        images=len(run.captions),
        samples=samples,
        weights_in_image=run.weights_in_image,
        is_stand_in=run.is_stand_in,
    )
    (folder / CARD).write_text(card_text(card), encoding="utf-8")


def _copy_samples(run: ReportedRun, step: int, folder: Path) -> list[CardImage]:
    """Of each prompt the last sample up to this step. The first is also the preview that ComfyUI shows."""
    copied: list[CardImage] = []
    for prompt, by_step in run.samples.items():
        steps = [one for one in by_step if one <= step]
        if not steps:
            continue
        source = run.folder / "samples" / by_step[max(steps)].name
        target = folder / "images" / f"{prompt + 1:02}{source.suffix.lower()}"
        shutil.copyfile(source, target)
        if not copied:
            shutil.copyfile(source, folder / f"{run.job}.preview{target.suffix}")
        text = one_line(run.prompts[prompt]) if prompt < len(run.prompts) else ""
        copied.append(CardImage(f"images/{target.name}", text))
    return copied
