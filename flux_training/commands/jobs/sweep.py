"""`flux sweep`: makes variants of a job that use the same dataset."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import rich_click as click

from flux_training.commands.cli import say, say_wrapped, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.jobs.folders import HERE, find_job_folder, jobs_folder, staging_folder
from flux_training.commands.stack.edit import (
    declare_jobs_in_file,
    declared_jobs,
    job_entry,
    jobs_key,
    remove_declarations,
)
from flux_training.commands.stack.file import steps_limit
from flux_training.training.errors import BadInput
from flux_training.training.files import lock_for_flux_command, write_atomically
from flux_training.training.jobs.folder import read_config
from flux_training.training.jobs.sweep import Axis, Variant, make_variants, parse_axis
from flux_training.training.opening import read_regular_file
from flux_training.training.train_yml.trainer_config import CONFIG_NAMES
from flux_training.training.words import counted, make_command

# The settings of the base job that its variants get, too.
SHARED_SETTINGS = ("dataset", "maxHours", "stallMinutes", "webhook", "lint")


@click.command()
@click.argument("job", shell_complete=complete_job)
@click.option(
    "--set",
    "axes",
    multiple=True,
    required=True,
    metavar="KEY=VALUE,VALUE",
    help="A key of train.yml below config.process[0] and its values: train.lr=1e-4,2e-4. "
    "KEY+KEY=VALUE,VALUE sets both keys to the same value. Several --set make every combination.",
)
@stack_option
@click.option("--repeat", is_flag=True, help="Also make the variant that trains the same as JOB itself.")
@click.option("--dry-run", is_flag=True, help="Show what would be made or deleted. Change nothing.")
@click.option("--undo", is_flag=True, help="Delete the jobs that the same command without --undo has made.")
def sweep(job: str, axes: tuple[str, ...], stack: str, repeat: bool, dry_run: bool, undo: bool) -> None:
    """Make a job for each combination of values, and declare them in the stack file.

    All use JOB's images and captions, which are uploaded once. Each is trained, and paid for, separately.
    """
    folder = jobs_folder(HERE, stack)
    base = find_job_folder(folder, job)
    variants = make_variants(job, read_config(base).raw_config.decode(), _parse(axes))
    if undo:
        _undo(variants, folder, stack, dry_run)
        return
    if not repeat:
        variants = _without_repeated_runs(job, variants, folder, stack)
    with lock_for_flux_command(folder):
        existing = _existing_variants(folder, variants)
        new = [variant for variant in variants if variant.name not in existing]
        limit = steps_limit(HERE, stack)
        _print(variants, existing, _total_steps(folder, variants, limit))
        if limit is not None:
            say_wrapped(f"maxSteps in Pulumi.{stack}.yaml limits each of these trainings to {limit:,} steps")
        if dry_run:
            say_wrapped(f"\n{counted(len(new), 'job')} would be made")
            return
        for variant in new:
            with staging_folder(folder, variant.name) as staging:
                made = staging / variant.name
                made.mkdir()
                write_atomically(made / CONFIG_NAMES[0], variant.text)
                made.rename(folder / variant.name)
        own = job_entry(declared_jobs(HERE, stack), job) or {}
        entry = {"dataset": job} | {key: own[key] for key in SHARED_SETTINGS if key in own}
        added = declare_jobs_in_file(HERE, stack, {variant.name: entry for variant in variants})
    made_jobs = f"{counted(len(new), 'job')} made below {folder}"
    say_wrapped(f"\n{made_jobs}, {len(added)} declared in Pulumi.{stack}.yaml below {jobs_key(HERE)}")
    say_wrapped(f"Next: {make_command('preview', stack)} shows what would be trained")
    say_wrapped("The same command with --undo deletes these jobs again")


def _undo(variants: Sequence[Variant], folder: Path, stack: str, dry_run: bool) -> None:
    """Delete the jobs of a sweep and their declarations. Raises BadInput if one was changed since it was made."""
    with lock_for_flux_command(folder):
        existing, declared = sorted(_existing_variants(folder, variants)), declared_jobs(HERE, stack)
        entries = [variant.name for variant in variants if variant.name in declared]
        if not existing and not entries:
            raise BadInput(
                [
                    f"{folder} has no job of this sweep; --undo needs the same --set options as the command that made the sweep"
                ]
            )
        findings = [
            f"{folder / name} has other files than {CONFIG_NAMES[0]} and is not deleted; move them away first"
            for name in existing
            if [file.name for file in (folder / name).iterdir()] != [CONFIG_NAMES[0]]
        ]
        if findings:
            raise BadInput(findings)
        for name in existing:
            say(f"  {folder / name}")
        if dry_run:
            say_wrapped(
                f"{counted(len(existing), 'job')} would be deleted, {len(entries)} removed from Pulumi.{stack}.yaml"
            )
            return
        remove_declarations(HERE, stack, entries)
        for name in existing:
            shutil.rmtree(folder / name)
    say_wrapped(f"{counted(len(existing), 'job')} deleted, {len(entries)} removed from Pulumi.{stack}.yaml")
    say_wrapped(f"Next: {make_command('plan', stack)} shows which queued runs that cancels. Results stay.")


def _parse(axes: Sequence[str]) -> list[Axis]:
    """Raises BadInput with every finding."""
    parsed, findings = [], []
    for axis in axes:
        try:
            parsed.append(parse_axis(axis))
        except BadInput as bad:
            findings += bad.findings
    if findings:
        raise BadInput(findings)
    return parsed


def _without_repeated_runs(job: str, variants: Sequence[Variant], folder: Path, stack: str) -> list[Variant]:
    """Without the new variants that would train what the job itself trains. Raises BadInput if none is left."""
    own = job_entry(declared_jobs(HERE, stack), job)
    if own is None or own.get("skip"):
        return list(variants)
    repeats = [variant for variant in variants if variant.repeats and not (folder / variant.name).exists()]
    kept = [variant for variant in variants if variant not in repeats]
    if not kept:
        what = f"every variant trains the same as {job} itself"
        raise BadInput([f"{what}; give other values, or --repeat to train it again"])
    for variant in repeats:
        say_wrapped(f"  {variant.name} is left out: {job} itself trains that (--repeat makes it anyway)")
    return kept


def _existing_variants(folder: Path, variants: Sequence[Variant]) -> set[str]:
    """The names of variants that exist. Raises BadInput if one has another train.yml."""
    existing, findings = set(), []
    for variant in variants:
        path = folder / variant.name
        if not path.exists():
            continue
        existing.add(variant.name)
        configs = [path / name for name in CONFIG_NAMES if (path / name).is_file()]
        if len(configs) != 1 or read_regular_file(configs[0]) != variant.text.encode():
            findings.append(
                f"{path} exists with another train.yml and stays as it is; "
                "rename or delete it (it may have been made before train.yml of the base job was changed)"
            )
    if findings:
        raise BadInput(findings)
    return existing


def _total_steps(folder: Path, variants: Sequence[Variant], limit: int | None) -> int:
    """`limit`: the most steps of a training. Raises BadInput with everything that is wrong in any train.yml, before any job is made."""
    steps, findings = 0, []
    with tempfile.TemporaryDirectory() as name:
        for variant in variants:
            job = Path(name) / variant.name
            job.mkdir()
            (job / CONFIG_NAMES[0]).write_text(variant.text, encoding="utf-8")
            try:
                own = read_config(job).steps
                steps += own if limit is None else min(own, limit)
            except BadInput as bad:
                findings += [finding.replace(name, str(folder)) for finding in bad.findings]
    if findings:
        raise BadInput(findings)
    return steps


def _print(variants: Sequence[Variant], existing: set[str], steps: int) -> None:
    width = max(len(variant.name) for variant in variants)
    for variant in variants:
        words = [", ".join(f"{key} {value}" for key, value in variant.values)]
        if variant.name in existing:
            words.append("exists")
        if variant.repeats:
            words.append("trains the same as the job itself")
        say(f"  {variant.name:<{width}}   {'; '.join(words)}")
    say_wrapped(f"{counted(len(variants), 'job')}, {steps:,} steps in total")
    keys = {key for variant in variants for key, _ in variant.values}
    if "network.linear" in keys and "network.linear_alpha" not in keys:
        say_wrapped(
            "network.linear_alpha stays the same: with twice the rank, the LoRA is half as strong. "
            "--set network.linear+network.linear_alpha=… changes both"
        )
