"""What a rule found: one mistake, at one place, with its rule and its mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """What is wrong at a place, before the rule is known. `code` names it when reading a file ran into it."""

    path: str
    message: str
    line: int | None = None
    code: str = ""


@dataclass(frozen=True)
class Finding:
    """An error stops `up`; a warning does not.

    `code` is the rule's name in docs/lint.md and in `lint.silence`. `message` says what is wrong, with the value; `rule` why it is;
    `mend` the next step. `path` is relative to the checkout, `line` counts from 1. `job` is empty for what concerns the stack as a whole.
    """

    code: str
    severity: Severity
    path: str
    line: int | None
    message: str
    rule: str
    mend: str
    job: str = ""

    @property
    def place(self) -> str:
        """`jobs/cat/train.yml:12`."""
        return self.path if self.line is None else f"{self.path}:{self.line}"

    def __str__(self) -> str:
        return f"{self.place}: {self.message}; {self.rule}; {self.mend} [{self.code}]"


@dataclass(frozen=True)
class Silenced:
    """A finding that a job's settings silence, and the reason given there."""

    finding: Finding
    reason: str


@dataclass(frozen=True)
class LintReport:
    """What lint found in `jobs`, in the order of job, path and line."""

    jobs: Sequence[str]
    findings: Sequence[Finding]
    silenced: Sequence[Silenced] = ()

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "warning"]


def in_short(findings: Sequence[Finding], most: int) -> list[str]:
    """Each finding as a line; of one rule in one job no more than `most`, then how many there are besides."""
    seen: dict[tuple[str, str], int] = {}
    lines: list[str] = []
    for finding in findings:
        count = seen[finding.job, finding.code] = seen.get((finding.job, finding.code), 0) + 1
        if count <= most:
            lines.append(str(finding))
    lines += [
        f"{job or 'jobs'}: {count - most} more of [{code}]; `flux lint` shows all"
        for (job, code), count in seen.items()
        if count > most
    ]
    return lines
