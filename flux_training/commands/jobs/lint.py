"""`flux lint`: checks job folders without any service or key."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console
from rich.text import Text

from flux_training.commands.cli import console, no_cache_option, say_wrapped, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.stack.project import project_root
from flux_training.training.dataset.facts import OnProgress, report_each_thousand_images
from flux_training.training.errors import BadInput
from flux_training.training.finding import Finding, LintReport, group_findings
from flux_training.training.jobs.declare import job_folder_names
from flux_training.training.jobs.examine import Examiner
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.settings import StackSettings
from flux_training.training.words import counted, flux_command, nearest, wrapped

COLOURS = {"error": "bold red", "warning": "yellow"}


@dataclass(frozen=True)
class LintTarget:
    """The job folders `names` of a stack; with `declared`, also all jobs that the stack declares."""

    stack: str
    settings: StackSettings
    folders: list[str]
    names: list[str]
    declared: bool


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=complete_job)
@click.option("--all", "every", is_flag=True, help="All job folders, not only those that the stack declares.")
@click.option("--each", is_flag=True, help="Print every finding on a line of its own, by job.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@no_cache_option
@click.option("--strict", is_flag=True, help="Exit with 1 if there are warnings.")
@stack_option
@click.pass_context
def lint(
    ctx: click.Context,
    jobs: tuple[str, ...],
    every: bool,
    each: bool,
    as_json: bool,
    strict: bool,
    stack: str,
) -> None:
    """Find mistakes in job folders. Needs no service and no key.

    Prints one line for each broken rule, with the first places.

    JOB is a job's name, its folder or a file in it. Without JOB, all jobs that the stack declares are checked. A
    Pulumi.STACK.yaml stands for all jobs of that stack. All rules: docs/lint.md.
    """
    called_from = ctx.find_root().obj
    targets = _lint_targets(_named_stacks(jobs, called_from) or [stack], jobs, every, called_from)
    with _print_lint_progress() as progress:
        examiner = Examiner.of(on_progress=progress)
        reports = [
            lint_jobs(target.settings, names=target.names, examiner=examiner, declared=target.declared)
            for target in targets
        ]
    if as_json:
        print(json.dumps(lint_report_as_json(merge_reports(reports)), indent=2))
    else:
        for target, report in zip(targets, reports, strict=True):
            if len(targets) > 1:
                console.print(Text(f"Stack {target.stack}", style="bold underline"))
            if each:
                _print_each(report)
            else:
                _print_groups(report, target.stack)
            _print_summary(target, report)
            if len(targets) > 1:
                console.print()
    if any(report.errors or (strict and report.warnings) for report in reports):
        sys.exit(1)


def _lint_targets(
    stacks: Sequence[str], jobs: Sequence[str], every: bool, called_from: Path
) -> list[LintTarget]:
    """Raises BadInput with the findings of all stacks."""
    targets, findings = [], []
    for stack in stacks:
        try:
            settings = stack_settings(project_root(), stack)
            folders = job_folder_names(Path(settings.jobs_folder))
            names = folders if every else _job_names(jobs, settings.jobs_folder, folders, called_from)
        except BadInput as bad:
            findings += bad.findings
            continue
        # An argument that is not a job is a stack file, which stands for all of the stack's jobs.
        declared = not every and len(names) < max(len(jobs), 1)
        targets.append(LintTarget(stack, settings, folders, sorted(set(names)), declared))
    if findings:
        raise BadInput(list(dict.fromkeys(findings)))
    return targets


def _named_stacks(arguments: Sequence[str], called_from: Path) -> list[str]:
    """The stacks whose files are among the arguments."""
    paths = [called_from / argument for argument in arguments]
    stacks = [
        path.name.removeprefix("Pulumi.").removesuffix(".yaml")
        for path in paths
        if path.match("Pulumi.?*.yaml") and path.is_file() and path.parent.samefile(project_root())
    ]
    return list(dict.fromkeys(stacks))


def _job_names(
    arguments: Sequence[str], jobs_folder: str, folders: list[str], called_from: Path
) -> list[str]:
    """One for each argument that means a job. Raises BadInput for arguments that are neither a job nor a file."""
    names: list[str] = []
    findings: list[str] = []
    for argument in arguments:
        path = called_from / argument
        name = argument if argument in folders else _job_of(path, Path(jobs_folder))
        if name in folders:
            names.append(name)
        elif not path.is_file():
            known = f"{nearest(path.name, folders)}; use one of: {', '.join(folders)}"
            findings.append(f"`{argument}` is not a job folder below {jobs_folder}{known}")
    if findings:
        raise BadInput(findings)
    return names


def _job_of(path: Path, jobs_folder: Path) -> str:
    try:
        return path.absolute().relative_to(jobs_folder.absolute()).parts[0]
    except (ValueError, IndexError):
        return ""


def merge_reports(reports: Sequence[LintReport]) -> LintReport:
    """One report, with each finding once."""
    jobs = {job for report in reports for job in report.jobs}
    findings = dict.fromkeys(finding for report in reports for finding in report.findings)
    silenced = dict.fromkeys(entry for report in reports for entry in report.silenced)
    return LintReport(sorted(jobs), list(findings), list(silenced))


def lint_report_as_json(report: LintReport) -> dict[str, Any]:
    """The report as `--json` prints it."""
    return {
        "jobs": list(report.jobs),
        "errors": len(report.errors),
        "warnings": len(report.warnings),
        "findings": [finding.as_json() for finding in report.findings],
        "silenced": [{**entry.finding.as_json(), "reason": entry.reason} for entry in report.silenced],
    }


@contextmanager
def _print_lint_progress() -> Iterator[OnProgress]:
    """Prints to stderr how many images are checked: on a terminal one changing line, else a line for each thousand."""
    stderr = Console(stderr=True, soft_wrap=True, emoji=False)
    if not stderr.is_terminal:
        yield report_each_thousand_images(stderr.print)
        return
    status = stderr.status("")

    def show(done: int, total: int) -> None:
        status.update(f"Checked {done} of {total} images")
        status.start()

    try:
        yield show
    finally:
        status.stop()


def _print_groups(report: LintReport, stack: str) -> None:
    """One line for each rule, as `up` and `plan` print it."""
    for group in group_findings(report.findings, stack):
        line = f"{group.severity}: {group}"
        text = Text(wrapped(line, console.width) if console.is_terminal else line)
        text.stylize(COLOURS[group.severity], 0, len(group.severity))
        console.print(text)
    if report.findings:
        console.print()


def _print_each(report: LintReport) -> None:
    by_job: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_job.setdefault(finding.job, []).append(finding)
    for job, findings in by_job.items():
        console.print(Text(job or "jobs of the stack", style="bold"))
        _print_findings(findings)
        console.print()


def _print_summary(target: LintTarget, report: LintReport) -> None:
    counts = [
        counted(len(report.jobs), "job"),
        counted(len(report.errors), "error"),
        counted(len(report.warnings), "warning"),
        *([f"{len(report.silenced)} silenced"] if report.silenced else []),
    ]
    say_wrapped(", ".join(counts))
    used = {*report.jobs, *(entry.dataset for entry in target.settings.jobs.values())}
    others = [name for name in target.folders if name not in used]
    if target.declared and others:
        check = flux_command("lint --all", target.stack)
        say_wrapped(
            f"Not checked, because stack {target.stack} does not declare them: {', '.join(others)} ({check})"
        )


def _print_findings(findings: list[Finding]) -> None:
    """By rule, errors first: the rule, its findings, and how to fix them."""
    by_code: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: finding.severity):
        by_code.setdefault(finding.code, []).append(finding)
    for code, same in by_code.items():
        first = same[0]
        console.print(
            Text.assemble("  ", (first.severity, COLOURS[first.severity]), f" {code}: {first.rule}")
        )
        for finding in same:
            console.print(Text(f"    {finding.place}: {finding.message}"))
        console.print(Text(f"    fix: {first.fix}", style="dim"))
