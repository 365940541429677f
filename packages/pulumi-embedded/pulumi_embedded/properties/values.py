"""Property values, which the program, the providers and the state file exchange.

A value is None, a bool, an int or float, a str, a list, a dict with str keys, or one of the classes below. On the wire,
values are protobuf Structs; in the state file they are JSON (see `state/serialization.py`).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import struct_pb2  # type: ignore[import-untyped]  # ships no types

from pulumi_embedded.errors import NeedsCliError

Value = Any
Properties = dict[str, Value]

# The keys by which Pulumi marks special values such as secrets; the same
# in every SDK (pulumi/runtime/rpc.py).
SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - a signature, not a password
RESOURCE: Final = "5cf8f73096256a8f31e491e813e4eb8e"
OUTPUT: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
ASSET: Final = "c44067f5952c0a294b673a41bacd8c17"
ARCHIVE: Final = "0def7320c3a5731c473e5ecbe6d01bc7"
UNKNOWN_TEXT: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

# Go writes floats from this value on with an exponent.
_MAX_PLAIN: Final = 1e21


class Unknown:
    """In a preview: a value that is only known after its resource has been created or updated."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()
# Represents a key or list index that only one of two compared values has.
MISSING: Final = object()


@dataclass(eq=False)
class Secret:
    """A value that the state stores encrypted. `ciphertext` is how the state file has it already, encrypted with `salt`."""

    value: Value
    ciphertext: str | None = None
    salt: str | None = None


@dataclass(frozen=True)
class ResourceRef:
    """A resource passed as a value."""

    urn: str
    id: Value = None
    version: str = ""
    custom: bool = True


def int_if_whole(value: float) -> int | float:
    """An int if the number is whole: the state file has no `.0`."""
    return int(value) if value.is_integer() and abs(value) < _MAX_PLAIN else value


def from_struct(struct: struct_pb2.Struct) -> Properties:
    """The properties in a message from the SDK or a provider."""
    return {key: from_proto(value) for key, value in struct.fields.items()}


def from_proto(value: struct_pb2.Value) -> Value:
    """One value from a message."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _from_object(from_struct(value.struct_value))
    if kind == "list_value":
        return [from_proto(item) for item in value.list_value.values]
    if kind == "number_value":
        return int_if_whole(value.number_value)
    if kind == "string_value":
        return UNKNOWN if value.string_value == UNKNOWN_TEXT else value.string_value
    return value.bool_value if kind == "bool_value" else None


def _from_object(found: dict[str, Value]) -> Value:
    signature = found.get(SIGNATURE)
    if signature is None:
        return found
    if signature == SECRET:
        return Secret(found.get("value"))
    if signature == OUTPUT:
        value = found.get("value", UNKNOWN)
        return Secret(value) if found.get("secret") else value
    if signature == RESOURCE:
        return ResourceRef(found["urn"], found.get("id"), found.get("packageVersion", ""), "id" in found)
    if signature in (ASSET, ARCHIVE):
        raise NeedsCliError("an asset or archive as a property")
    raise NeedsCliError(f"a property value with the unknown signature {signature}")


def to_struct(properties: Mapping[str, Value], *, secrets: bool, refs: bool = True) -> struct_pb2.Struct:
    """The properties as a message. Without `secrets`, secrets become plain values; without `refs`, resource references
    become the resource's id, or a component's URN."""
    struct = struct_pb2.Struct()
    struct.update(_message(properties, secrets, refs))
    return struct


def _message(value: Value, secrets: bool, refs: bool) -> Any:
    """The value as `Struct.update` accepts it."""
    if isinstance(value, Unknown):
        return UNKNOWN_TEXT
    if isinstance(value, Secret):
        inside = _message(value.value, secrets, refs)
        return {SIGNATURE: SECRET, "value": inside} if secrets else inside
    if isinstance(value, ResourceRef):
        return _message(_reference_with_id(value) if refs else _reference_as_text(value), secrets, refs)
    return convert_items(value, lambda item: _message(item, secrets, refs))


def convert_items(value: Value, convert: Callable[[Value], Any]) -> Any:
    """A list or dict with all its items converted; other values as they are."""
    if isinstance(value, list):
        return [convert(item) for item in value]
    if isinstance(value, dict):
        return {key: convert(item) for key, item in value.items()}
    return value


def _reference_with_id(ref: ResourceRef) -> Properties:
    found: Properties = {SIGNATURE: RESOURCE, "urn": ref.urn}
    if ref.custom:
        found["id"] = ref.id if ref.id is not None else ""
    if ref.version:
        found["packageVersion"] = ref.version
    return found


def _reference_as_text(ref: ResourceRef) -> Value:
    if not ref.custom:
        return ref.urn
    return ref.id if ref.id not in (None, "") else UNKNOWN


def reveal_secrets(value: Value) -> Value:
    """The value with all secrets replaced by their plain values."""
    if isinstance(value, Secret):
        return reveal_secrets(value.value)
    return convert_items(value, reveal_secrets)


def mask_secrets(value: Value) -> Value:
    """The value as it may be shown, with `[secret]` and `[unknown]`."""
    if isinstance(value, Secret):
        return "[secret]"
    if isinstance(value, Unknown):
        return "[unknown]"
    if isinstance(value, ResourceRef):
        return value.urn
    return convert_items(value, mask_secrets)


def has_secret(value: Value) -> bool:
    """Whether any part of the value is secret."""
    return any(isinstance(part, Secret) for part in _parts(value))


def has_unknown(value: Value) -> bool:
    """Whether any part of the value is unknown."""
    return any(isinstance(part, Unknown) for part in _parts(value))


def _parts(value: Value) -> Iterator[Value]:
    """The value and everything inside it."""
    yield value
    if isinstance(value, Secret):
        yield from _parts(value.value)
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _parts(item)


def is_same(a: Value, b: Value) -> bool:
    """Whether Pulumi considers the values equal: True is not 1, a secret is not its plain value, unknown equals unknown."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(is_same(item, b[key]) for key, item in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(is_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Secret) and isinstance(b, Secret):
        return is_same(a.value, b.value)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b
    return type(a) is type(b) and (a is b or bool(a == b))


def mark_secrets(outputs: Properties, inputs: Mapping[str, Value]) -> Properties:
    """Mark outputs as secret that have the same keys as secret inputs: providers answer in plain text."""
    marked = dict(outputs)
    for key, value in inputs.items():
        if key not in marked:
            continue
        if isinstance(marked[key], dict) and isinstance(value, dict):
            marked[key] = mark_secrets(marked[key], value)
        elif not isinstance(marked[key], Secret) and has_secret(value):
            marked[key] = Secret(marked[key])
    return marked


def keep_ciphertexts(new: Value, old: Value) -> None:
    """Let unchanged secrets keep their ciphertext, so that a diff of two state files shows only changes."""
    if isinstance(new, Secret) and isinstance(old, Secret):
        if new.ciphertext is None and is_same(new.value, old.value):
            new.ciphertext, new.salt = old.ciphertext, old.salt
    elif isinstance(new, dict) and isinstance(old, dict):
        for key in new.keys() & old.keys():
            keep_ciphertexts(new[key], old[key])
    elif isinstance(new, list) and isinstance(old, list):
        for a, b in zip(new, old, strict=False):
            keep_ciphertexts(a, b)


def make_secret(properties: Properties, keys: list[str]) -> Properties:
    """Mark the properties with these keys as secret (additionalSecretOutputs)."""
    return {
        key: Secret(value) if key in keys and not isinstance(value, (Secret, Unknown)) else value
        for key, value in properties.items()
    }


def compact_json(value: Value) -> str:
    """JSON as Pulumi writes it inside strings: without spaces, keys sorted."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
