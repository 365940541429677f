"""What lint finds: one mistake at one place, with the rule that it breaks and how to fix it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, Literal

from flux_training.training.words import MAX_PLACES, flux_command, list_first

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


@dataclass(frozen=True)
class FindingGroup:
    """All findings of one rule; never empty. `str()` is one line: the first places, how many more there are, and the first messages."""

    findings: Sequence[Finding]
    stack: str

    @property
    def severity(self) -> Severity:
        return self.findings[0].severity

    @property
    def places(self) -> str:
        """`jobs/cat/dataset/00001.txt, 00002.txt, 00003.txt and 7 more`; with the number of jobs if there are several."""
        folder = f"{PurePath(self.findings[0].path).parent}/"
        first, *others = (finding.place for finding in self.findings)
        named = list_first([first, *(place.removeprefix(folder) for place in others)])
        jobs = len({finding.job for finding in self.findings})
        return f"{named} (in {jobs:,} jobs)" if jobs > 1 else named

    def __str__(self) -> str:
        first = self.findings[0]
        if len(self.findings) == 1:
            return str(first)
        messages = list(dict.fromkeys(finding.message for finding in self.findings))
        similar = " (and similar)" if len(messages) > MAX_PLACES else ""
        message = f"{', '.join(messages[:MAX_PLACES])}{similar}"
        is_complete = len(self.findings) <= MAX_PLACES
        rest = "" if is_complete else f"; {flux_command('lint --each', self.stack)} shows all"
        return f"{self.places}: {message}; {first.rule}; {first.fix} [{first.code}]{rest}"


def group_findings(findings: Sequence[Finding], stack: str) -> list[FindingGroup]:
    """One group for each rule, errors first."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    groups = [FindingGroup(found, stack) for found in by_code.values()]
    return sorted(groups, key=lambda group: group.severity)
