"""Lint of the jobs a stack declares."""

from collections.abc import Sequence
from pathlib import Path

from flux_training.training.finding import Finding, LintReport, Problem, Silenced
from flux_training.training.jobs.declare import JOBS_SETTING, ChosenJobs, gather_jobs
from flux_training.training.jobs.examine import Examiner
from flux_training.training.lint.check import split_silenced
from flux_training.training.lint.rules.stack import (
    find_names_that_differ_only_in_case,
    stack_rule,
    unused_silences,
)
from flux_training.training.settings import StackSettings


def lint_jobs(
    settings: StackSettings,
    root: Path = Path(),
    names: Sequence[str] = (),
    examiner: Examiner | None = None,
    declared: bool = True,
) -> LintReport:
    """All mistakes in the declared jobs and in the job folders `names`; without `declared` only in the latter.

    Bad input becomes a finding: raises nothing for it. Without an `examiner` from `Examiner.of` every file is read.
    """
    chosen = gather_jobs(settings, root, examiner or Examiner(), names, declared)
    findings = list(chosen.findings)
    alike = _names_that_differ_only_in_case(chosen)
    silenced: list[Silenced] = []
    for job in chosen.jobs:
        silence = chosen.settings[job.name].lint.silence
        found = [*(finding for finding in alike if finding.job == job.name), *job.findings]
        counts, quiet = split_silenced(found, silence)
        findings += counts
        silenced += quiet
        # A rule that is silenced for a pattern is silenced for all matching jobs. It is not a mistake if
        # one of them does not need that, so only entries with a job's own name are checked.
        if job.name in settings.jobs:
            used = {entry.finding.code for entry in quiet}
            findings += unused_silences(JOBS_SETTING, job.name, silence, used)
    return LintReport([job.name for job in chosen.jobs], _once(findings), silenced)


def _names_that_differ_only_in_case(chosen: ChosenJobs) -> list[Finding]:
    folders = {job.name: str(job.folder) for job in chosen.jobs}
    rule = stack_rule("job-case")
    return [
        rule.finding(Problem(folders[name], f"differs from {earlier} only in case"), name)
        for name, earlier in find_names_that_differ_only_in_case(list(folders))
    ]


def _once(findings: list[Finding]) -> list[Finding]:
    """Without the duplicates from jobs that share a `dataset`."""
    first: dict[tuple[str, str, int | None, str], Finding] = {}
    for finding in findings:
        first.setdefault((finding.code, finding.path, finding.line, finding.message), finding)
    return list(first.values())
