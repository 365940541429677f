"""What lint finds: one mistake at one place, with the rule that it breaks and how to fix it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, Literal

from flux_training.training.words import MAX_PLACES, first_of, flux_command

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


def summarize(findings: Sequence[Finding], stack: str) -> list[str]:
    """One line for each rule and job: the first places, how many more there are, and the first message."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.job, finding.code), []).append(finding)
    return [_of_one_kind(found, stack) for found in kinds.values()]


def _of_one_kind(found: Sequence[Finding], stack: str) -> str:
    first = found[0]
    if len(found) == 1:
        return str(first)
    folder = f"{PurePath(first.path).parent}/"
    places = first_of([first.place, *(other.place.removeprefix(folder) for other in found[1:])])
    same = all(other.message == first.message for other in found)
    message = first.message if same else f"{first.message} (and similar)"
    left = f"; {flux_command('lint', stack)} shows all" if len(found) > MAX_PLACES or not same else ""
    return f"{places}: {message}; {first.rule}; {first.fix} [{first.code}]{left}"
