"""The built-in provider `pulumi`: reads stack references from the stack's own backend."""

from collections.abc import Callable
from typing import Final

from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import PROVIDER_PREFIX
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers.provider import Provider
from pulumi_embedded.state.backend import ORGANIZATION
from pulumi_embedded.state.serialization import Resource

PACKAGE: Final = "pulumi"
PROVIDER_TYPE: Final = PROVIDER_PREFIX + PACKAGE
REFERENCE_TYPE: Final = "pulumi:pulumi:StackReference"

# Returns the outputs of a stack, given its project and name, or None if there is no such stack.
OutputsOf = Callable[[str, str], Properties | None]


class StackReferences(Provider):
    """Reads stack references. It has no process."""

    def __init__(self, project: str, outputs_of: OutputsOf) -> None:
        super().__init__({}, lambda _line: None)
        self._project = project
        self._outputs_of = outputs_of

    def read(self, old: Resource) -> tuple[str, Properties, Properties | None]:
        """The other stack's current outputs. Raises EngineError if there is no such stack."""
        if old.type != REFERENCE_TYPE:
            raise EngineError(f"unrecognized resource type '{old.type}'")
        name = values.reveal_secrets(old.inputs.get("name") or old.outputs.get("name"))
        outputs = self._outputs_of(*self._parts(str(name)))
        if outputs is None:
            raise EngineError(f'unknown stack "{name}"')
        secrets = sorted(key for key, value in outputs.items() if values.has_secret(value))
        return old.id, {"name": name, "outputs": outputs, "secretOutputNames": secrets}, {"name": name}

    def _parts(self, name: str) -> tuple[str, str]:
        """Project and stack of `stack` or `organization/project/stack`, the forms that these backends support."""
        *before, stack = name.split("/")
        if not before:
            return self._project, stack
        if before[0] != ORGANIZATION or len(before) != 2:
            raise EngineError(
                f"the stack reference {name!r} must be STACK or {ORGANIZATION}/PROJECT/STACK: "
                f"organization name must be '{ORGANIZATION}'"
            )
        return before[1], stack
