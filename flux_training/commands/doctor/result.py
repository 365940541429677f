"""The result of a check. No check can stop the others."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from flux_training.training.errors import BadInput, FluxError
from flux_training.training.words import one_line

Verdict = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class CheckResult:
    """One line. Only `bad` makes the exit code 1; `note` is for what may matter, or cannot be known."""

    verdict: Verdict
    title: str
    message: str
    fix: str = ""


def ok(title: str, message: str) -> CheckResult:
    return CheckResult("ok", title, message)


def note(title: str, message: str, fix: str = "") -> CheckResult:
    return CheckResult("note", title, message, fix)


def bad(title: str, message: str, fix: str) -> CheckResult:
    return CheckResult("bad", title, message, fix)


def check_cluster(cluster: str, title: str, check: Callable[[], list[CheckResult]]) -> list[CheckResult]:
    """The check's results, each with the name of the cluster, if that has one."""
    results = run_check(title, check)
    return [replace(one, message=f"{cluster}: {one.message}") for one in results] if cluster else results


def run_check(title: str, check: Callable[[], list[CheckResult]]) -> list[CheckResult]:
    """The check's results; an exception becomes a result too."""
    try:
        return check()
    except BadInput as error:
        return [bad(title, one_line(finding), "") for finding in error.findings]
    except FluxError as error:
        message = "; ".join(part for part in (error.what, error.rule) if part)
        return [bad(title, one_line(message), one_line(error.next_step).removeprefix("fix: "))]
    except Exception as error:  # noqa: BLE001 - the other checks must run whatever fails
        return [bad(title, one_line(f"{type(error).__name__}: {error}"), "this is a bug: please report it")]
