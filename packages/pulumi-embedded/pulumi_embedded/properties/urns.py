"""URNs: `urn:pulumi:<stack>::<project>::<qualified type>::<name>`.

The qualified type is `<parent's qualified type>$<type>`, or only the type if the parent is the Stack.
"""

from dataclasses import dataclass
from typing import Final

STACK_TYPE: Final = "pulumi:pulumi:Stack"
PROVIDER_PREFIX: Final = "pulumi:providers:"
_PREFIX: Final = "urn:pulumi:"


@dataclass(frozen=True)
class Urn:
    """The parts of a URN."""

    stack: str
    project: str
    qualified_type: str
    name: str

    @property
    def type(self) -> str:
        """The resource's type, without the types of its parents."""
        return self.qualified_type.rsplit("$", 1)[-1]

    def __str__(self) -> str:
        return f"{_PREFIX}{self.stack}::{self.project}::{self.qualified_type}::{self.name}"


def parse_urn(urn: str) -> Urn:
    """The parts of a URN. Raises ValueError if it is invalid."""
    parts = urn.removeprefix(_PREFIX).split("::", 3)
    if not urn.startswith(_PREFIX) or len(parts) != 4:
        raise ValueError(f"{urn!r} is not a URN (urn:pulumi:<stack>::<project>::<type>::<name>)")
    return Urn(*parts)


def make_urn(stack: str, project: str, parent: str, type_: str, name: str) -> str:
    """The URN of a resource; `parent` is a URN or empty."""
    qualified = type_
    if parent:
        parent_type = parse_urn(parent).qualified_type
        if parent_type != STACK_TYPE:
            qualified = f"{parent_type}${type_}"
    return str(Urn(stack, project, qualified, name))


def name_of(urn: str) -> str:
    return parse_urn(urn).name


def type_of(urn: str) -> str:
    return parse_urn(urn).type


def is_provider(type_: str) -> bool:
    """Whether resources of this type are providers."""
    return type_.startswith(PROVIDER_PREFIX)


def provider_urn(reference: str) -> str:
    """The URN in a provider reference `<urn>::<id>`."""
    return reference.rpartition("::")[0]


def rename_reference(reference: str, aliases: dict[str, str]) -> str:
    """A URN or provider reference, with the resource's new URN if it was renamed."""
    if reference in aliases:
        return aliases[reference]
    urn, _, id_ = reference.rpartition("::")
    return f"{aliases[urn]}::{id_}" if urn in aliases else reference
