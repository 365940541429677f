"""What goes wrong, as the user is told.

EngineError              something a person can put right; shown as `error: …`, exit code 1
├── NeedsCliError          asked for something that only the Pulumi CLI does
├── LockedError          another update is running on the stack
├── PassphraseError      the passphrase does not open the stack's secrets
└── StepError           one resource's step failed; the rest of the deployment decides what follows
"""


class EngineError(Exception):
    """A failure with a message for the user; never shown with a traceback."""


class NeedsCliError(EngineError):
    """A feature, option or command that this engine leaves to the Pulumi CLI."""

    def __init__(self, what: str, detail: str = "") -> None:
        super().__init__(f"{what} needs the Pulumi CLI{': ' + detail if detail else ''}")


class LockedError(EngineError):
    """The stack is being updated by somebody else."""


class PassphraseError(EngineError):
    """The passphrase given does not decrypt this stack's secrets."""


class StepError(EngineError):
    """A step on one resource failed; the message has been shown with that resource."""
