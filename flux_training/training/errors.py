"""The errors this project raises, as one tree.

FluxError
├── BadInput                    a user's file or setting is wrong
└── clients.errors.ServiceError a service refused, failed or did not answer
"""

from collections.abc import Sequence


class FluxError(Exception):
    """Root of the tree; its text is "what (value); rule; next step" and is shown without a traceback."""

    def __init__(self, what: str, rule: str = "", next_step: str = "", value: object = None) -> None:
        super().__init__(what, rule, next_step, value)
        self.what = what
        self.rule = rule
        self.next_step = next_step
        self.value = value

    def __str__(self) -> str:
        what = self.what if self.value is None else f"{self.what} ({self.value})"
        return "; ".join(part for part in (what, self.rule, self.next_step) if part)


class BadInput(FluxError):  # noqa: N818  (named for what happened, like the rest of the tree)
    """A user's file or setting cannot be used. `findings` has one sentence per mistake."""

    def __init__(self, findings: Sequence[str]) -> None:
        super().__init__("\n".join(findings))
        self.args = (list(findings),)
        self.findings = list(findings)
