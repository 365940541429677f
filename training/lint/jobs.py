"""Lint of the jobs a stack declares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.declare import JOBS_SETTING, ChosenJobs, gather_jobs
from training.file_cache import is_off
from training.lint.cache import FactsCache
from training.lint.check import check, split_silenced
from training.lint.finding import Finding, LintReport, Problem, Silenced
from training.lint.gather import FileFacts, Progress
from training.lint.stack import rule_of, same_but_for_case, unused_silences
from training.settings import StackSettings


def file_facts(root: Path = Path(), progress: Progress = lambda _done, _all: None) -> FileFacts:
    """Facts for `lint_jobs` and `declare_jobs`: of files that have not changed from `.flux-cache/` of the checkout, unless that is off."""
    return FileFacts(None if is_off() else FactsCache(root), progress)


def lint_jobs(
    settings: StackSettings,
    root: Path = Path(),
    names: Sequence[str] = (),
    files: FileFacts | None = None,
    declared: bool = True,
) -> LintReport:
    """Everything wrong in the declared jobs and in the job folders `names` of the checkout `root`; without `declared` only in these.

    Bad input is a finding: raises nothing for it. `files` from `file_facts`; every file is read when it is not given.
    """
    chosen = gather_jobs(settings, root, files or FileFacts(), names, declared)
    findings = list(chosen.findings)
    alike = _same_names(chosen)
    silenced: list[Silenced] = []
    for subject in chosen.subjects:
        silence = chosen.settings[subject.name].lint.silence
        found = [*(finding for finding in alike if finding.job == subject.name), *check(subject)]
        counts, quiet = split_silenced(found, silence)
        findings += counts
        silenced += quiet
        # A glob's silence is for all of its jobs: one that does not need it is no mistake.
        if subject.name in settings.jobs:
            used = {entry.finding.code for entry in quiet}
            findings += unused_silences(JOBS_SETTING, subject.name, silence, used)
    return LintReport([subject.name for subject in chosen.subjects], _once(findings), silenced)


def _same_names(chosen: ChosenJobs) -> list[Finding]:
    folders = {subject.name: str(subject.folder) for subject in chosen.subjects}
    rule = rule_of("job-case")
    return [
        rule.finding(Problem(folders[name], f"differs from {earlier} in capitals only"), name)
        for name, earlier in same_but_for_case(list(folders))
    ]


def _once(findings: list[Finding]) -> list[Finding]:
    """Without what jobs with the same `dataset` would say again."""
    first: dict[tuple[str, str, int | None, str], Finding] = {}
    for finding in findings:
        first.setdefault((finding.code, finding.path, finding.line, finding.message), finding)
    return list(first.values())
