"""Errors with a message for the user, shown as `error: …`.

EngineError
├── NeedsCliError         only the Pulumi CLI supports this
├── StackNotFoundError    the stack does not exist
├── UsageError            the command line is invalid
├── LockedError           another update of the stack is running
└── StepError             a step on one resource failed, and that has been reported

The exit codes are the CLI's (pkg/cmd/pulumi/cmd/exit_codes.go).
"""

from typing import ClassVar, Final

FAILED: Final = 1
USAGE: Final = 2
NO_STACK: Final = 6
CHANGES: Final = 7
CANCELLED: Final = 8


class EngineError(Exception):
    """A failure whose message is shown without a traceback."""

    exit_code: ClassVar[int] = FAILED


class NeedsCliError(EngineError):
    """A feature, option or command that only the Pulumi CLI supports."""

    def __init__(self, what: str, detail: str = "") -> None:
        super().__init__(f"{what} needs the Pulumi CLI{': ' + detail if detail else ''}")


class StackNotFoundError(EngineError):
    """The stack does not exist."""

    exit_code = NO_STACK


class UsageError(EngineError):
    """The command line is invalid."""

    exit_code = USAGE


class LockedError(EngineError):
    """Another update of the stack is running."""


class StepError(EngineError):
    """A step on one resource failed, and that has been reported."""
