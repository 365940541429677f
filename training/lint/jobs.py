"""Lint of the jobs a stack declares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.lint.finding import LintReport
from training.settings import StackSettings


def lint_jobs(
    settings: StackSettings, root: Path = Path(), names: Sequence[str] | None = None, cached: bool = True
) -> LintReport:
    """Everything wrong in the declared jobs (or in `names`) of the checkout `root`. Raises nothing for bad input: it is a finding.

    `cached`: facts of files that have not changed come from `.flux-cache/`.
    """
    raise NotImplementedError
