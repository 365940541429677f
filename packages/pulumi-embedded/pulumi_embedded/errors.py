"""What goes wrong, as the user is told.

EngineError              something a person can put right; shown as `error: …`
├── NeedsCliError         asked for something that only the Pulumi CLI does
├── StackNotFoundError    there is no such stack, or none is selected
├── UsageError            the command line lacks something, or says too much
├── LockedError           another update is running on the stack
├── PassphraseError       the passphrase does not open the stack's secrets
└── StepError             one resource's step failed; the rest of the deployment decides what follows

Exit codes are those of the CLI's newest version (pkg/cmd/pulumi/cmd/exit_codes.go).
"""

from typing import ClassVar, Final

FAILED: Final = 1
USAGE: Final = 2
NO_STACK: Final = 6
CHANGES: Final = 7
CANCELLED: Final = 8


class EngineError(Exception):
    """A failure with a message for the user; never shown with a traceback."""

    exit_code: ClassVar[int] = FAILED


class NeedsCliError(EngineError):
    """A feature, option or command that this engine leaves to the Pulumi CLI."""

    def __init__(self, what: str, detail: str = "") -> None:
        super().__init__(f"{what} needs the Pulumi CLI{': ' + detail if detail else ''}")


class StackNotFoundError(EngineError):
    """There is no such stack, or none is selected."""

    exit_code = NO_STACK


class UsageError(EngineError):
    """The command line lacks something, or says too much."""

    exit_code = USAGE


class LockedError(EngineError):
    """The stack is being updated by somebody else."""


class PassphraseError(EngineError):
    """The passphrase given does not decrypt this stack's secrets."""


class StepError(EngineError):
    """A step on one resource failed; the message has been shown with that resource."""
