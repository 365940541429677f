"""A stack's resources, and how they are stored in the checkpoint file.

The order of keys is the CLI's, so that a diff of two files shows only what changed. Unknown keys are kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from time import time_ns
from typing import Any, Final

from pulumi_embedded.errors import EngineError
from pulumi_embedded.project.secrets import Crypter
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import STACK_TYPE, is_provider, rename_reference
from pulumi_embedded.properties.values import Properties, Value

Json = dict[str, Any]

_ALWAYS: Final = ("urn", "custom", "type")
# These fields are not stored. Aliases are only needed until the resource has its new URN. Stack traces
# would double the size of the state, and nothing reads them.
_DROPPED: Final = ("aliases", "stackTrace")


@dataclass
class Resource:
    """One resource of the state. `uid`: its row in the snapshot, or -1."""

    urn: str
    type: str
    custom: bool = False
    delete: bool = False
    id: str = ""
    inputs: Properties = field(default_factory=dict)
    outputs: Properties = field(default_factory=dict)
    parent: str = ""
    protect: bool = False
    external: bool = False
    dependencies: list[str] = field(default_factory=list)
    init_errors: list[str] = field(default_factory=list)
    provider: str = ""
    property_dependencies: dict[str, list[str]] = field(default_factory=dict)
    pending_replacement: bool = False
    additional_secret_outputs: list[str] = field(default_factory=list)
    custom_timeouts: Json = field(default_factory=dict)
    retain_on_delete: bool = False
    deleted_with: str = ""
    created: str = ""
    modified: str = ""
    source_position: str = ""
    ignore_changes: list[str] = field(default_factory=list)
    replace_on_changes: list[str] = field(default_factory=list)
    extra: Json = field(default_factory=dict)
    uid: int = field(default=-1, compare=False)

    def copy(self, **changes: Any) -> Resource:
        """A changed copy, which has no row in the snapshot yet."""
        return replace(self, **{"uid": -1, **changes})

    def depends_on(self) -> set[str]:
        """The URNs of everything that must exist as long as this resource does."""
        found = {self.parent, self.deleted_with, *self.dependencies}
        found.update(urn for urns in self.property_dependencies.values() for urn in urns or ())
        found.add(self.provider.rpartition("::")[0])
        found.discard("")
        return found


def _key(attribute: str) -> str:
    """The key in the file: `init_errors` is `initErrors`."""
    first, *rest = attribute.split("_")
    return first + "".join(word.capitalize() for word in rest)


_FIRST: Final = ("urn", "custom", "delete", "id", "type")
_NOT_STORED: Final = ("extra", "uid")
# Maps each attribute of Resource to its key in the state file, in the order of the file.
_KEYS: Final = {
    name: _key(name)
    for name in (*_FIRST, *(field.name for field in fields(Resource)))
    if name not in _NOT_STORED
}
_ATTRIBUTES: Final = {key: attribute for attribute, key in _KEYS.items()}


@dataclass
class PendingOperation:
    """An operation that was started and whose outcome is unknown."""

    resource: Resource
    type: str


@dataclass
class StackState:
    """The content of a checkpoint."""

    resources: list[Resource] = field(default_factory=list)
    pending: list[PendingOperation] = field(default_factory=list)

    @property
    def outputs(self) -> Properties:
        """The stack's outputs."""
        return next((resource.outputs for resource in self.resources if resource.type == STACK_TYPE), {})


def current_time() -> str:
    """The current time as the state stores it: RFC 3339, UTC, nanoseconds."""
    ns = time_ns()
    moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    fraction = f"{ns % 1_000_000_000:09d}".rstrip("0")
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"


def encode_json(content: Any) -> bytes:
    """JSON without spaces, as the newest CLI writes it."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def load_state(deployment: Json, crypter: Crypter | None) -> StackState:
    """The state in a deployment. Raises EngineError if it has secrets and there is no crypter for them."""
    resources = [resource_from_json(item, crypter) for item in deployment.get("resources") or []]
    pending = [
        PendingOperation(resource_from_json(item["resource"], crypter), item["type"])
        for item in deployment.get("pending_operations") or []
    ]
    return StackState(resources, pending)


def resource_from_json(item: Json, crypter: Crypter | None) -> Resource:
    """One resource from the file."""
    known: Json = {}
    extra: Json = {}
    for key, value in item.items():
        if key in _ATTRIBUTES:
            known[_ATTRIBUTES[key]] = value
        elif key not in _DROPPED:
            extra[key] = value
    for name in ("inputs", "outputs"):
        if name in known:
            known[name] = {key: value_from_json(value, crypter) for key, value in known[name].items()}
    try:
        return Resource(**known, extra=extra)
    except TypeError as error:
        raise EngineError(
            f"the state has a resource that cannot be read ({error}): {item.get('urn')}"
        ) from None


def resource_to_json(resource: Resource, crypter: Crypter | None) -> Json:
    """One resource for the file. Raises EngineError if it has secrets and there is no crypter."""
    item: Json = {}
    for attribute, key in _KEYS.items():
        value = getattr(resource, attribute)
        if not value and attribute not in _ALWAYS:
            continue
        if attribute in ("inputs", "outputs"):
            value = {name: value_to_json(part, crypter) for name, part in sorted(value.items())}
        elif attribute == "property_dependencies":
            value = dict(sorted(value.items()))
        item[key] = value
    return {**item, **resource.extra}


def value_from_json(value: Any, crypter: Crypter | None) -> Value:
    """One property value from the file."""
    if isinstance(value, float):
        return values.int_if_whole(value)
    signature = value.get(values.SIGNATURE) if isinstance(value, dict) else None
    if signature == values.SECRET:
        return _secret(value, crypter)
    if signature == values.RESOURCE:
        return values.ResourceRef(
            value["urn"], value.get("id"), value.get("packageVersion", ""), "id" in value
        )
    return values.convert_items(value, lambda item: value_from_json(item, crypter))


def _secret(value: Json, crypter: Crypter | None) -> values.Secret:
    if "plaintext" in value:  # the form in which `stack export --show-secrets` writes secrets
        return values.Secret(value_from_json(json.loads(value["plaintext"]), crypter))
    if crypter is None:
        raise EngineError("the state has secrets, but its secrets provider is not of type `passphrase`")
    text = crypter.decrypt(value["ciphertext"])
    return values.Secret(value_from_json(json.loads(text), crypter), value["ciphertext"], crypter.salt)


def reencrypt_secrets(stored: Any, old: Crypter | None, new: Crypter | None) -> Any:
    """A part of the file with its secrets encrypted with another key. Raises EngineError if a needed key is missing."""
    return _convert_secrets(stored, old, lambda secret: value_to_json(secret, new))


def decrypt_secrets(stored: Any, crypter: Crypter | None) -> Any:
    """A part of the file with its secrets in plain text. Raises EngineError if it has secrets and there is no crypter."""
    return _convert_secrets(stored, crypter, _plain_secret)


def _plain_secret(secret: values.Secret) -> Json:
    return {
        values.SIGNATURE: values.SECRET,
        "plaintext": values.compact_json(_json_inside_secret(secret.value)),
    }


def _convert_secrets(stored: Any, crypter: Crypter | None, convert: Callable[[values.Secret], Json]) -> Any:
    if isinstance(stored, dict) and stored.get(values.SIGNATURE) == values.SECRET:
        return convert(_secret(stored, crypter))
    return values.convert_items(stored, lambda item: _convert_secrets(item, crypter, convert))


def value_to_json(value: Value, crypter: Crypter | None) -> Any:
    """One property value for the file. Raises EngineError for secrets if there is no crypter."""
    if isinstance(value, values.Secret):
        if crypter is None:
            raise EngineError("a secret cannot be stored: this stack has no secrets provider")
        if value.ciphertext is None or value.salt != crypter.salt:
            value.ciphertext = crypter.encrypt(values.compact_json(_json_inside_secret(value.value)))
            value.salt = crypter.salt
        return {values.SIGNATURE: values.SECRET, "ciphertext": value.ciphertext}
    return _walk(value, lambda part: value_to_json(part, crypter))


def _json_inside_secret(value: Value) -> Any:
    """Secrets inside a secret are not encrypted separately."""
    if isinstance(value, values.Secret):
        return {values.SIGNATURE: values.SECRET, "value": _json_inside_secret(value.value)}
    return _walk(value, _json_inside_secret)


def _walk(value: Value, convert: Callable[[Value], Any]) -> Any:
    if isinstance(value, dict):
        value = dict(sorted(value.items()))
    if isinstance(value, values.ResourceRef):
        return {
            values.SIGNATURE: values.RESOURCE,
            "urn": value.urn,
            **({"id": convert(value.id)} if value.custom else {}),
            **({"packageVersion": value.version} if value.version else {}),
        }
    if isinstance(value, values.Unknown):
        return values.UNKNOWN_TEXT
    return values.convert_items(value, convert)


def rename_references(item: Json, aliases: dict[str, str]) -> None:
    """Change the references of a resource in the file to the new URNs, but not its own URN."""
    for key in ("parent", "provider", "deletedWith"):
        if item.get(key):
            item[key] = rename_reference(item[key], aliases)
    if item.get("dependencies"):
        item["dependencies"] = [rename_reference(urn, aliases) for urn in item["dependencies"]]
    # Replace the dict instead of modifying it, because the loaded Resource shares it.
    if item.get("propertyDependencies"):
        item["propertyDependencies"] = {
            key: [rename_reference(urn, aliases) for urn in urns]
            for key, urns in item["propertyDependencies"].items()
        }


def find_state_error(items: list[Json]) -> str:
    """Why the CLI would reject the state, in its words. Empty if it would not."""
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    providers: set[str] = set()
    for i, item in enumerate(items):
        urn = item.get("urn")
        if not urn:
            return f"resource at index {i} missing required 'urn' field"
        if not item.get("type"):
            return f"resource '{urn}' missing required 'type' field"
        if not item.get("custom") and item.get("id"):
            return f"resource '{urn}' has 'custom false but non-empty ID"
        if is_provider(item["type"]):
            providers.add(f"{urn}::{item.get('id', '')}")
        provider = item.get("provider")
        if provider and provider not in providers and not item.get("pendingReplacement"):
            return f"resource {urn} refers to unknown provider {provider}"
        for other, missing, late in _references(item):
            if other not in seen:
                return late if any(found.get("urn") == other for found in items[i + 1 :]) else missing
        seen.add(urn)
        counts[urn] += not item.get("delete")
    twice = next((urn for urn, count in counts.items() if count > 1), None)
    return f"duplicate resource {twice} (not marked for deletion)" if twice else ""


def _references(item: Json) -> Iterator[tuple[str, str, str]]:
    """The URNs a resource refers to, each with the errors for when it is missing and when it comes later."""
    own, parent, deleted_with = item["urn"], item.get("parent"), item.get("deletedWith")
    if parent:
        yield (
            parent,
            f"child resource {own} refers to missing parent {parent}",
            f"child resource {own}'s parent {parent} comes after it",
        )
    on = [(urn, f"dependency {urn}") for urn in item.get("dependencies") or []]
    for key, found in (item.get("propertyDependencies") or {}).items():
        on += [(urn, f"property dependency {urn} (from property {key})") for urn in found or []]
    for urn, what in on:
        text = f"resource {own}'s {what}"
        yield urn, f"{text} refers to missing resource", f"{text} comes after it"
    if deleted_with:
        text = f"resource {own} is specified as being deleted with {deleted_with}, which"
        yield deleted_with, f"{text} is missing", f"{text} comes after it"


def with_new_references(resource: Resource, aliases: dict[str, str]) -> Resource:
    """A copy whose references use the new URNs."""
    item = resource_to_json(resource.copy(inputs={}, outputs={}), None)
    rename_references(item, aliases)
    return replace(resource_from_json(item, None), inputs=resource.inputs, outputs=resource.outputs)


def prune_references(resources: Iterable[Resource], gone: Iterable[Resource]) -> list[Resource]:
    """Drop references to resources that no longer exist, and return the resources that changed.

    A resource whose parent is gone gets the parent's parent.
    """
    kept = list(resources)
    urns = {resource.urn for resource in kept}
    parents = {resource.urn: resource.parent for resource in gone}
    changed = []
    for resource in kept:
        parent = resource.parent
        while parent in parents and parent not in urns:
            parent = parents[parent]
        pruned = resource.copy(
            parent=parent,
            dependencies=[urn for urn in resource.dependencies if urn in urns],
            property_dependencies={
                key: [urn for urn in found if urn in urns]
                for key, found in resource.property_dependencies.items()
            },
            deleted_with=resource.deleted_with if resource.deleted_with in urns else "",
        )
        if pruned != resource:
            vars(resource).update(vars(pruned), uid=resource.uid)
            changed.append(resource)
    return changed
