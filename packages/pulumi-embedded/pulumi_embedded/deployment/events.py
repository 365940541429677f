"""What a run tells whoever shows it."""

from __future__ import annotations

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

# What a resource comes to; the others are the steps on the way there.
OUTCOMES: Final = (SAME, CREATE, UPDATE, DELETE, REPLACE, READ, REFRESH)

DEBUG, INFO, WARNING, ERROR = range(4)


@dataclass(eq=False)
class ResourceStep:
    """One step on one resource, planned or done."""

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
        """Default providers are nobody's business, and what is only read is not changed."""
        resource = self.new or self.old
        default = is_provider(self.type) and name_of(self.urn).partition("_")[0] == "default"
        return default or (resource is not None and resource.external and self.op != REFRESH)


class Listener(Protocol):
    """Somebody who shows a run.  Called from any thread."""

    def began(self, step: ResourceStep) -> None:
        """A step is being done."""

    def ended(self, step: ResourceStep) -> None:
        """A step has been done (in a preview: would be)."""

    def failed(self, step: ResourceStep, message: str) -> None:
        """A step could not be done."""

    def message(self, severity: int, urn: str, text: str, *, ephemeral: bool = False) -> None:
        """Something was said about a resource, or with no URN about the stack."""

    def outputs(self, old: Properties | None, new: Properties) -> None:
        """The stack's outputs before (None: the stack is new) and after."""

    def changes(self) -> dict[str, int]:
        """How many resources came to each of the ops."""
