"""`flux lint`: what `preview` would say about job folders, without any cloud or key."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console
from rich.text import Text

from flux_training.commands.cli import console, no_cache_option, say, stack_option
from flux_training.commands.stack.engine import project_root
from flux_training.commands.stack.file import stack_settings
from flux_training.training.dataset.facts import OnProgress, each_thousand
from flux_training.training.errors import BadInput
from flux_training.training.finding import Finding, LintReport
from flux_training.training.jobs.declare import folder_names
from flux_training.training.jobs.examine import Examiner
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.settings import StackSettings
from flux_training.training.words import counted, nearest

# Of one rule in one job, on a terminal.
MOST_PLACES = 10
COLOURS = {"error": "bold red", "warning": "yellow"}


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.option(
    "--all", "every", is_flag=True, help="All job folders, also those that the stack does not declare."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@no_cache_option
@click.option("--strict", is_flag=True, help="Warnings fail as well.")
@stack_option
@click.pass_context
def lint(
    ctx: click.Context,
    jobs: tuple[str, ...],
    every: bool,
    as_json: bool,
    strict: bool,
    stack: str,
) -> None:
    """Find mistakes in job folders. Needs no cloud and no key.

    JOB is a job's name, its folder, or any file in it; without one, the jobs that the stack declares.
    A Pulumi.STACK.yaml means all jobs of that stack. What each rule means: docs/lint.md.
    """
    called_from = ctx.find_root().obj
    stacks = _stacks_of(jobs, called_from) or [stack]
    chosen = _in_all(stacks, lambda one: _choose(one, jobs, every, called_from))
    with _progress() as progress:
        examiner = Examiner.of(on_progress=progress)
        reports = [
            lint_jobs(one.settings, names=one.names, examiner=examiner, declared=one.declared)
            for one in chosen
        ]
    if as_json:
        print(json.dumps(as_document(merged(reports)), indent=2))
    else:
        for one, report in zip(chosen, reports, strict=True):
            _tell(one, report, several=len(stacks) > 1)
    if any(report.errors or (strict and report.warnings) for report in reports):
        sys.exit(1)


@dataclass(frozen=True)
class Chosen:
    """What is looked at of a stack: the job folders `names`, and with `declared` all that it declares."""

    stack: str
    settings: StackSettings
    folders: list[str]
    names: list[str]
    declared: bool


def _choose(stack: str, jobs: Sequence[str], every: bool, called_from: Path) -> Chosen:
    """Raises BadInput for a stack's file that cannot be used and a JOB that is none."""
    settings = stack_settings(project_root(), stack)
    folders = folder_names(Path(settings.jobs_folder))
    names = folders if every else _named(jobs, settings.jobs_folder, folders, called_from)
    # A stack's file among those given concerns all that is declared.
    declared = not every and len(names) < max(len(jobs), 1)
    return Chosen(stack, settings, folders, sorted(set(names)), declared)


def _in_all(stacks: Sequence[str], choose: Callable[[str], Chosen]) -> list[Chosen]:
    """Raises BadInput with what is wrong in all of them, each once."""
    chosen, findings = [], []
    for stack in stacks:
        try:
            chosen.append(choose(stack))
        except BadInput as bad:
            findings += bad.findings
    if findings:
        raise BadInput(list(dict.fromkeys(findings)))
    return chosen


def _stacks_of(said: Sequence[str], called_from: Path) -> list[str]:
    """The stacks whose files are named, each once."""
    found = {
        path.name.removeprefix("Pulumi.").removesuffix(".yaml"): None
        for path in (called_from / one for one in said)
        if path.match("Pulumi.?*.yaml") and path.is_file() and path.parent.samefile(project_root())
    }
    return list(found)


def _tell(chosen: Chosen, report: LintReport, several: bool) -> None:
    if several:
        console.print(Text(f"Stack {chosen.stack}", style="bold underline"))
    _show(report)
    if chosen.declared:
        _tell_of_others(report, chosen.settings, chosen.folders, chosen.stack)
    if several:
        console.print()


def merged(reports: Sequence[LintReport]) -> LintReport:
    """Several stacks' reports as one, without what they say alike."""
    jobs = {job for report in reports for job in report.jobs}
    findings = dict.fromkeys(finding for report in reports for finding in report.findings)
    silenced = dict.fromkeys(entry for report in reports for entry in report.silenced)
    return LintReport(sorted(jobs), list(findings), list(silenced))


def as_document(report: LintReport) -> dict[str, Any]:
    """The report as `--json` prints it."""
    return {
        "jobs": list(report.jobs),
        "errors": len(report.errors),
        "warnings": len(report.warnings),
        "findings": [asdict(finding) for finding in report.findings],
        "silenced": [{**asdict(entry.finding), "reason": entry.reason} for entry in report.silenced],
    }


def _named(jobs: Sequence[str], jobs_folder: str, folders: list[str], called_from: Path) -> list[str]:
    """The job folders that the arguments mean, one an argument that means one. Raises BadInput for what is neither that nor a file."""
    names: list[str] = []
    findings: list[str] = []
    for said in jobs:
        found = said if said in folders else _job_of(called_from / said, Path(jobs_folder))
        if found in folders:
            names.append(found)
        elif not (called_from / said).is_file():
            findings.append(
                f"`{said}` is no job folder below {jobs_folder}{nearest(Path(said).name, folders)}; name one of: {', '.join(folders)}"
            )
    if findings:
        raise BadInput(findings)
    return names


def _job_of(path: Path, jobs_folder: Path) -> str:
    try:
        return path.absolute().relative_to(jobs_folder.absolute()).parts[0]
    except (ValueError, IndexError):
        return ""


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """Tells how many images are done: one line that changes on a terminal, else a line for each thousand."""
    aside = Console(stderr=True, soft_wrap=True)
    if not aside.is_terminal:
        yield each_thousand(aside.print)
        return
    status = aside.status("")

    def show(done: int, total: int) -> None:
        status.update(f"Looked at {done} of {total} images")
        status.start()

    try:
        yield show
    finally:
        status.stop()


def _show(report: LintReport) -> None:
    by_job: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_job.setdefault(finding.job, []).append(finding)
    for job, findings in by_job.items():
        console.print(Text(job or "jobs of the stack", style="bold"))
        _show_job(findings)
        console.print()
    counts = [
        counted(len(report.jobs), "job"),
        counted(len(report.errors), "error"),
        counted(len(report.warnings), "warning"),
    ]
    if report.silenced:
        counts.append(f"{len(report.silenced)} silenced")
    say(", ".join(counts))


def _show_job(findings: list[Finding]) -> None:
    """By rule, errors first: the rule and its mend once, then each place."""
    by_code: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: finding.severity):
        by_code.setdefault(finding.code, []).append(finding)
    for code, same in by_code.items():
        first = same[0]
        head = Text("  ").append(first.severity, COLOURS[first.severity]).append(f" {code}: {first.rule}")
        console.print(head)
        shown = same[:MOST_PLACES] if console.is_terminal else same
        for finding in shown:
            console.print(Text(f"    {finding.place}: {finding.message}"))
        if len(same) > len(shown):
            console.print(Text(f"    and {len(same) - len(shown)} more (`flux lint --json` lists all)"))
        console.print(Text(f"    to mend it: {first.mend}", style="dim"))


def _tell_of_others(report: LintReport, settings: StackSettings, folders: list[str], stack: str) -> None:
    used = {*report.jobs, *(entry.dataset for entry in settings.jobs.values())}
    others = [name for name in folders if name not in used]
    if others:
        say(f"Not declared in stack {stack}, so not looked at: {', '.join(others)} (`flux lint --all` does)")
