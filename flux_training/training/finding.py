"""What lint finds: one mistake at one place, with the rule that it breaks and how to fix it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from flux_training.training.words import flux_command

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """A mistake before its rule is known. `code` is the rule's, if reading a file already failed."""

    path: str
    message: str
    line: int | None = None
    code: str = ""


@dataclass(frozen=True)
class Finding:
    """A mistake. An error stops `up`, a warning does not.

    `code` is the rule's name, `message` says what is wrong, `rule` why, `fix` what to do. `path` is relative to the checkout, `line` counts
    from 1. `job` is empty for the stack's own settings.
    """

    code: str
    severity: Severity
    path: str
    line: int | None
    message: str
    rule: str
    fix: str
    job: str = ""

    @property
    def place(self) -> str:
        """`jobs/cat/train.yml:12`."""
        return self.path if self.line is None else f"{self.path}:{self.line}"

    def as_json(self) -> dict[str, Any]:
        """As `flux lint --json` prints it. The key `mend` is kept for existing readers."""
        fields = asdict(self)
        return {"mend" if key == "fix" else key: value for key, value in fields.items()}

    def __str__(self) -> str:
        return f"{self.place}: {self.message}; {self.rule}; {self.fix} [{self.code}]"


@dataclass(frozen=True)
class Silenced:
    """A finding that a job's settings silence, and the reason given there."""

    finding: Finding
    reason: str


@dataclass(frozen=True)
class LintReport:
    """What lint found in `jobs`, sorted by job, path and line."""

    jobs: Sequence[str]
    findings: Sequence[Finding]
    silenced: Sequence[Silenced] = ()

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "warning"]


def summarize(findings: Sequence[Finding], limit: int, stack: str) -> list[str]:
    """One line per finding, at most `limit` per rule and job, then how many were left out."""
    counts: Counter[tuple[str, str]] = Counter()
    lines: list[str] = []
    for finding in findings:
        counts[finding.job, finding.code] += 1
        if counts[finding.job, finding.code] <= limit:
            lines.append(str(finding))
    lines += [
        f"{job or 'jobs'}: {count - limit} more of [{code}]; {flux_command('lint', stack)} shows all"
        for (job, code), count in counts.items()
        if count > limit
    ]
    return lines
