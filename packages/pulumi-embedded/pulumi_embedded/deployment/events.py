"""The events of a run, for the display."""

import time
from dataclasses import dataclass, field
from typing import Final, Protocol

from pulumi_embedded.properties.urns import is_provider, name_of
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers.provider import Diff
from pulumi_embedded.state.serialization import Resource

SAME: Final = "same"
CREATE: Final = "create"
UPDATE: Final = "update"
DELETE: Final = "delete"
REPLACE: Final = "replace"
CREATE_REPLACEMENT: Final = "create-replacement"
DELETE_REPLACED: Final = "delete-replaced"
REFRESH: Final = "refresh"
READ: Final = "read"

# A resource's outcome is always one of these operations. The other operations are steps of a replacement.
OUTCOMES: Final = (SAME, CREATE, UPDATE, DELETE, REPLACE, READ, REFRESH)

# Message severities, with the numbers that Pulumi's engine protocol uses.
DEBUG, INFO, WARNING, ERROR = range(4)


@dataclass(eq=False)
class ResourceStep:
    """An operation on a resource, planned or done."""

    op: str
    urn: str
    type: str
    old: Resource | None = None
    new: Resource | None = None
    diff: Diff | None = None
    note: str = ""
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def hidden(self) -> bool:
        """Whether the display skips it: default providers, and resources that are only read."""
        resource = self.new or self.old
        is_default = is_provider(self.type) and name_of(self.urn).partition("_")[0] == "default"
        return is_default or (resource is not None and resource.external and self.op != REFRESH)


class Listener(Protocol):
    """Receives the events of a run, from any thread."""

    def on_step_started(self, step: ResourceStep) -> None: ...

    def on_step_ended(self, step: ResourceStep) -> None:
        """A step has been done or, in a preview, would be done."""

    def on_step_failed(self, step: ResourceStep, message: str) -> None: ...

    def on_message(self, severity: int, urn: str, text: str, *, ephemeral: bool = False) -> None:
        """A message about a resource, or about the stack if the URN is empty."""

    def on_outputs(self, old: Properties | None, new: Properties) -> None:
        """The stack's outputs before (None if the stack is new) and after."""

    def outcome_counts(self) -> dict[str, int]:
        """How many resources had each outcome."""
