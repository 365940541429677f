"""What a check found, and how no check can bring the others down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flux_training.training.errors import BadInput, FluxError
from flux_training.training.words import one_line

Verdict = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line. `note` is what one should know or nobody can know; only `bad` makes the doctor's exit code 1."""

    verdict: Verdict
    what: str
    words: str
    mend: str = ""


def ok(what: str, words: str) -> Finding:
    return Finding("ok", what, words)


def note(what: str, words: str, mend: str = "") -> Finding:
    return Finding("note", what, words, mend)


def bad(what: str, words: str, mend: str) -> Finding:
    return Finding("bad", what, words, mend)


def of_error(what: str, error: Exception) -> list[Finding]:
    """An error as findings: ours says itself what to do, any other is named with its kind."""
    if isinstance(error, BadInput):
        return [bad(what, one_line(finding), "") for finding in error.findings]
    if isinstance(error, FluxError):
        words = "; ".join(part for part in (error.what, error.rule) if part)
        return [bad(what, one_line(words), one_line(error.next_step))]
    return [
        bad(what, one_line(f"{type(error).__name__}: {error}"), "this was not foreseen: please report it")
    ]


def safely(what: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """What a check finds; what it raises is a finding too."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - the doctor goes on, however broken the surroundings are
        return of_error(what, error)
