"""Dataclasses for what a resource declares and what its state stores, and their conversion to and from Pulumi's property dicts.

A field `group_id` is the property `groupId`. Property names are part of every stack's state: a field is never renamed.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from functools import cache
from typing import Any, TypeVar, cast, get_type_hints

import pulumi
from pulumi.output import Unknown

T = TypeVar("T")
Props = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Properties:
    """The base of all arguments and states. `home` says where the resource lives (components/provider.py)."""

    home: str


P = TypeVar("P", bound=Properties)
# pulumi ships no type for the constructor of Unknown.
UNKNOWN: Any = Unknown()  # type: ignore[no-untyped-call,unused-ignore]  # see above


def output_as_field(value: pulumi.Output[T]) -> T:
    """Type an output as the value of a field. The provider receives the resolved value."""
    return cast(T, value)


def known_or_none(value: pulumi.Output[T]) -> pulumi.Output[T | None]:
    """An output with None instead of an unknown value.

    A preview does not know properties that are missing in states of older versions.
    """

    async def always() -> bool:
        return True

    return pulumi.Output(value.resources(), value.future(), always())


def is_known(value: object) -> bool:
    """Whether the value is known.

    In a preview, outputs of resources to be created are unknown, and so are properties that an older state lacks.
    """
    return not isinstance(value, Unknown)


def to_props(properties: Properties) -> Props:
    """The property dict of a dataclass, without None values, which Pulumi does not store."""
    found = {key: getattr(properties, name) for name, key in property_names(type(properties)).items()}
    return {
        key: value.value if isinstance(value, Enum) else value
        for key, value in found.items()
        if value is not None
    }


def from_props(kind: type[P], props: Mapping[str, Any]) -> P:
    """The dataclass made from a property dict.

    Properties without a field are ignored. A field that an older state lacks gets its default, or else Unknown.
    """
    values: dict[str, Any] = {}
    for name, key, convert, has_default in _fields_of(cast(Any, kind)):
        value = props.get(key)
        if value is not None:
            values[name] = convert(value) if is_known(value) else value
        elif not has_default:
            values[name] = UNKNOWN
    return kind(**values)


def copy_shared_fields(kind: type[P], source: Properties, **values: Any) -> P:
    """A new object of `kind`, with the fields that it shares with `source`, and with `values` for other fields."""
    shared = property_names(kind).keys() & property_names(type(source)).keys() - values.keys()
    return kind(**{name: getattr(source, name) for name in shared}, **values)


def property_names(kind: type[Properties]) -> dict[str, str]:
    """Property names by field name."""
    return {name: key for name, key, _, _ in _fields_of(cast(Any, kind))}


def changed_keys(names: tuple[str, ...], old: Properties, new: Properties) -> list[str]:
    """The names of the properties, among the fields `names`, whose value changed. Unknown values do not count as changed."""
    pairs = {name: (getattr(old, name), getattr(new, name)) for name in names}
    return [
        _camel_case(name)
        for name, (before, after) in pairs.items()
        if is_known(before) and is_known(after) and before != after
    ]


@cache
def _fields_of(kind: Any) -> tuple[tuple[str, str, Callable[[Any], Any], bool], ...]:
    """(name, property name, conversion, whether it has a default) of each field."""
    hints = get_type_hints(kind)
    return tuple(
        (
            one.name,
            _camel_case(one.name),
            _converter(hints[one.name]),
            not (one.default is MISSING and one.default_factory is MISSING),
        )
        for one in fields(kind)
    )


def _converter(hint: Any) -> Callable[[Any], Any]:
    """The function that converts a property's value to the field's type:

    Pulumi passes numbers as floats and enums as their values.
    """
    if hint in (int, int | None):
        return int
    if hint == Mapping[str, int] | None:
        return lambda days: {key: int(value) for key, value in days.items()}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    return lambda value: value


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)
