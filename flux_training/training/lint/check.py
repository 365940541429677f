"""Runs rules over a job's facts."""

from collections.abc import Iterable, Mapping

from flux_training.training.errors import BadInput
from flux_training.training.finding import Finding, Silenced
from flux_training.training.lint.registry import Rule, Subject
from flux_training.training.lint.rules import NEEDED, RULES


def check_rules(job: Subject, rules: Iterable[Rule] | None = None) -> list[Finding]:
    """What the rules (by default all of them) find in one job, by path and line."""
    chosen = RULES.values() if rules is None else rules
    found = [rule.finding(problem, job.name) for rule in chosen for problem in rule.check(job)]
    return sorted(found, key=lambda finding: (finding.path, finding.line or 0, finding.code))


def refuse_unusable(job: Subject) -> None:
    """Raises BadInput if the job breaks a needed rule."""
    findings = check_rules(job, NEEDED)
    if findings:
        raise BadInput([str(finding) for finding in findings])


def split_silenced(
    findings: Iterable[Finding], silence: Mapping[str, str]
) -> tuple[list[Finding], list[Silenced]]:
    """(the findings that count, those that a job's settings silence)."""
    counts: list[Finding] = []
    silenced: list[Silenced] = []
    for finding in findings:
        if finding.code in silence and not RULES[finding.code].always:
            silenced.append(Silenced(finding, silence[finding.code]))
        else:
            counts.append(finding)
    return counts, silenced
