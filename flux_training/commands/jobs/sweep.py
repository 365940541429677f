"""`flux sweep`: one job in many variants, all on one dataset."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich_click as click

from flux_training.commands.cli import say, stack_option
from flux_training.commands.jobs.folders import HERE, existing_job, jobs_folder
from flux_training.commands.stack.edit import JOBS, declare, declared_jobs, entry_for
from flux_training.training.errors import BadInput
from flux_training.training.files import only_one_in, write_atomically
from flux_training.training.jobs.folder import read_config
from flux_training.training.jobs.sweep import Axis, Variant, make_variants, parse_axis
from flux_training.training.train_yml.trainer_config import CONFIG_NAMES
from flux_training.training.words import counted

# What of the base job's settings its variants share; `attempt` and `resume` are its own affair.
SHARED = ("dataset", "maxHours", "stallMinutes", "webhook", "lint")


@click.command()
@click.argument("job")
@click.option(
    "--set",
    "axes",
    multiple=True,
    required=True,
    metavar="KEY=VALUE,VALUE",
    help="A value of train.yml below config.process[0], and what it shall be: train.lr=1e-4,2e-4. "
    "KEY+KEY=VALUE,VALUE changes two together. Give --set several times for every combination.",
)
@stack_option
@click.option("--repeat", is_flag=True, help="Make also the job that trains what JOB itself trains.")
@click.option("--dry-run", is_flag=True, help="Say what would be made; make nothing.")
def sweep(job: str, axes: tuple[str, ...], stack: str, repeat: bool, dry_run: bool) -> None:
    """Make a job for each combination of values, and name them in the stack's configuration.

    All use JOB's images and captions, which are sent once. Each is a run of its own, and is paid for as one.
    """
    folder = jobs_folder(HERE, stack)
    base = existing_job(folder, job)
    variants = make_variants(job, read_config(base).raw_config.decode(), _parsed(axes))
    if not repeat:
        variants = _without_repeats(job, variants, folder, stack)
    with only_one_in(folder):
        there = _there(folder, variants)
        new = [variant for variant in variants if variant.name not in there]
        _tell(variants, there, _steps(folder, variants))
        if dry_run:
            say(f"\n{counted(len(new), 'job')} would be made")
            return
        for variant in new:
            _make(folder, variant)
        entry = _entry(declared_jobs(HERE, stack), job)
        added = declare(HERE, stack, {variant.name: entry for variant in variants})
    say(
        f"\n{counted(len(new), 'job')} made below {folder}, {len(added)} named in Pulumi.{stack}.yaml below {JOBS}"
    )
    say("Next: make preview shows what would be trained")


def _parsed(axes: Sequence[str]) -> list[Axis]:
    """Raises BadInput with what is wrong in all of them."""
    parsed, findings = [], []
    for axis in axes:
        try:
            parsed.append(parse_axis(axis))
        except BadInput as bad:
            findings += bad.findings
    if findings:
        raise BadInput(findings)
    return parsed


def _without_repeats(job: str, variants: Sequence[Variant], folder: Path, stack: str) -> list[Variant]:
    """Those that train what the job itself does not. Of a job that the stack does not train, all; what was made before stays.

    Raises BadInput when none is left.
    """
    own = entry_for(declared_jobs(HERE, stack), job)
    if own is None or own.get("skip"):
        return list(variants)
    left_out = [variant for variant in variants if variant.repeats and not (folder / variant.name).exists()]
    kept = [variant for variant in variants if variant not in left_out]
    if not kept:
        raise BadInput(
            [
                f"every variant trains what {job} itself trains; give other values, or --repeat to train it again"
            ]
        )
    for variant in left_out:
        say(f"  {variant.name} is left out: {job} itself trains that (--repeat makes it all the same)")
    return kept


def _there(folder: Path, variants: Sequence[Variant]) -> set[str]:
    """The names of those that are there already. Raises BadInput with all that are there with another train.yml."""
    there, findings = set(), []
    for variant in variants:
        path = folder / variant.name
        if not path.exists():
            continue
        there.add(variant.name)
        present = [path / name for name in CONFIG_NAMES if (path / name).is_file()]
        if len(present) != 1 or present[0].read_bytes() != variant.text.encode():
            findings.append(
                f"{path}: is there already with another train.yml, and is not overwritten; "
                "rename or delete it (was the job that it was made of changed since?)"
            )
    if findings:
        raise BadInput(findings)
    return there


def _steps(folder: Path, variants: Sequence[Variant]) -> int:
    """Steps of all of them. Raises BadInput with everything that is wrong in their train.yml, before any is made."""
    steps, findings = 0, []
    with tempfile.TemporaryDirectory() as name:
        for variant in variants:
            tried = Path(name) / variant.name
            tried.mkdir()
            (tried / CONFIG_NAMES[0]).write_text(variant.text, encoding="utf-8")
            try:
                steps += read_config(tried).config.steps
            except BadInput as bad:
                findings += [finding.replace(name, str(folder)) for finding in bad.findings]
    if findings:
        raise BadInput(findings)
    return steps


def _make(folder: Path, variant: Variant) -> None:
    """Write a job folder, which appears whole or not at all."""
    staging = Path(tempfile.mkdtemp(dir=folder, prefix=f".{variant.name}.new-"))
    try:
        made = staging / variant.name
        made.mkdir()
        write_atomically(made / CONFIG_NAMES[0], variant.text)
        made.rename(folder / variant.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _entry(declared: Mapping[str, dict[str, Any]], job: str) -> dict[str, Any]:
    own = entry_for(declared, job) or {}
    return {"dataset": job} | {key: own[key] for key in SHARED if key in own}


def _tell(variants: Sequence[Variant], there: set[str], steps: int) -> None:
    width = max(len(variant.name) for variant in variants)
    for variant in variants:
        values = ", ".join(f"{key} {value}" for key, value in variant.values)
        words = [values]
        if variant.name in there:
            words.append("is there already")
        if variant.repeats:
            words.append("trains what the job itself trains")
        say(f"  {variant.name:<{width}}   {'; '.join(words)}")
    say(f"{counted(len(variants), 'job')}, {steps:,} steps in all{_strength(variants)}")


def _strength(variants: Sequence[Variant]) -> str:
    keys = {key for variant in variants for key, _ in variant.values}
    if "network.linear" in keys and "network.linear_alpha" not in keys:
        return (
            "\nnetwork.linear_alpha stays as it is: at twice the rank the LoRA acts half as strongly. "
            "--set network.linear+network.linear_alpha=… changes both"
        )
    return ""
