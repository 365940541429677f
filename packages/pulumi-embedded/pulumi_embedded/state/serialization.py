"""A stack's state: its resources, and their form in the checkpoint file.

The order of keys is the CLI's, so that a diff of two files shows what changed and nothing else.  Keys that this
engine does not know are kept as they were found.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import time_ns
from typing import Any, Final

from pulumi_embedded.errors import EngineError
from pulumi_embedded.project.secrets import Crypter
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import is_provider, rename
from pulumi_embedded.properties.values import Properties, Value

Json = dict[str, Any]

# attribute -> key in the file, in the file's order.
_KEYS: Final = {
    "urn": "urn",
    "custom": "custom",
    "delete": "delete",
    "id": "id",
    "type": "type",
    "inputs": "inputs",
    "outputs": "outputs",
    "parent": "parent",
    "protect": "protect",
    "external": "external",
    "dependencies": "dependencies",
    "init_errors": "initErrors",
    "provider": "provider",
    "property_dependencies": "propertyDependencies",
    "pending_replacement": "pendingReplacement",
    "additional_secret_outputs": "additionalSecretOutputs",
    "custom_timeouts": "customTimeouts",
    "retain_on_delete": "retainOnDelete",
    "deleted_with": "deletedWith",
    "created": "created",
    "modified": "modified",
    "source_position": "sourcePosition",
    "ignore_changes": "ignoreChanges",
    "replace_on_changes": "replaceOnChanges",
}
_ATTRIBUTES: Final = {key: attribute for attribute, key in _KEYS.items()}
_ALWAYS: Final = ("urn", "custom", "type")
# `aliases` are folded into the URN; `stackTrace` is half of a resource's size and nothing reads it.
_DROPPED: Final = ("aliases", "stackTrace")


@dataclass
class Resource:
    """One resource as the state file has it."""

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
        """A copy with some attributes changed; it has no place in the snapshot yet."""
        return replace(self, **{"uid": -1, **changes})

    def depends_on(self) -> set[str]:
        """URNs of everything that has to exist as long as this resource does."""
        found = {self.parent, self.deleted_with, *self.dependencies}
        found.update(urn for urns in self.property_dependencies.values() for urn in urns)
        found.add(self.provider.rpartition("::")[0])
        found.discard("")
        return found


@dataclass
class Pending:
    """An operation that had begun and whose outcome nobody wrote down."""

    resource: Resource
    type: str


@dataclass
class StackState:
    """What a checkpoint says."""

    resources: list[Resource] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)


def now() -> str:
    """The time as the state has it: RFC 3339, UTC, nanoseconds."""
    ns = time_ns()
    moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    fraction = f"{ns % 1_000_000_000:09d}".rstrip("0")
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"


def encoded(content: Any) -> bytes:
    """JSON as the files have it: without spaces, as the newest CLI writes it, half as long and ten times as fast."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def load(deployment: Json, crypter: Crypter | None) -> StackState:
    """The state in a checkpoint's `latest` part.

    Raises EngineError where it holds secrets and there is no crypter for them, or is of another version's form.
    """
    resources = [from_json(item, crypter) for item in deployment.get("resources") or []]
    pending = [
        Pending(from_json(item["resource"], crypter), item["type"])
        for item in deployment.get("pending_operations") or []
    ]
    return StackState(resources, pending)


def from_json(item: Json, crypter: Crypter | None) -> Resource:
    """One resource of the file."""
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


def to_json(resource: Resource, crypter: Crypter | None) -> Json:
    """One resource for the file.  Raises EngineError where it holds secrets and there is no crypter."""
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
    """One property value of the file."""
    if isinstance(value, float):
        return values.number(value)
    if isinstance(value, list):
        return [value_from_json(item, crypter) for item in value]
    if not isinstance(value, dict):
        return value
    signature = value.get(values.SIGNATURE)
    if signature == values.SECRET:
        return _secret(value, crypter)
    if signature == values.RESOURCE:
        return values.ResourceRef(
            value["urn"], value.get("id"), value.get("packageVersion", ""), "id" in value
        )
    return {key: value_from_json(item, crypter) for key, item in value.items()}


def _secret(value: Json, crypter: Crypter | None) -> values.Secret:
    if "plaintext" in value:  # as `stack export --show-secrets` writes it
        return values.Secret(value_from_json(json.loads(value["plaintext"]), crypter))
    if crypter is None:
        raise EngineError("the state holds secrets, but its secrets provider is not of the type `passphrase`")
    text = crypter.decrypt(value["ciphertext"])
    return values.Secret(value_from_json(json.loads(text), crypter), value["ciphertext"], crypter.salt)


def encrypted_anew(stored: Any, old: Crypter | None, new: Crypter | None) -> Any:
    """A part of the file with its secrets under another key.  Raises EngineError where it has some and lacks a key."""
    if isinstance(stored, list):
        return [encrypted_anew(item, old, new) for item in stored]
    if not isinstance(stored, dict):
        return stored
    if stored.get(values.SIGNATURE) == values.SECRET:
        return value_to_json(_secret(stored, old), new)
    return {key: encrypted_anew(item, old, new) for key, item in stored.items()}


def value_to_json(value: Value, crypter: Crypter | None) -> Any:
    """One property value for the file; with `crypter` None, secrets are an error."""
    if isinstance(value, values.Secret):
        if crypter is None:
            raise EngineError("a secret cannot be stored: this stack has no secrets provider")
        if value.ciphertext is None or value.salt != crypter.salt:
            value.ciphertext = crypter.encrypt(values.compact(_inside_secret(value.value)))
            value.salt = crypter.salt
        return {values.SIGNATURE: values.SECRET, "ciphertext": value.ciphertext}
    return _walk(value, lambda part: value_to_json(part, crypter))


def shown(value: Value) -> Any:
    """One property value as JSON for people and scripts who may see secrets."""
    if isinstance(value, values.Secret):
        return {values.SIGNATURE: values.SECRET, "plaintext": values.compact(_inside_secret(value.value))}
    return _walk(value, shown)


def _inside_secret(value: Value) -> Any:
    """Secrets in a secret are not encrypted again."""
    if isinstance(value, values.Secret):
        return {values.SIGNATURE: values.SECRET, "value": _inside_secret(value.value)}
    return _walk(value, _inside_secret)


def _walk(value: Value, convert: Any) -> Any:
    if isinstance(value, list):
        return [convert(item) for item in value]
    if isinstance(value, dict):
        return {key: convert(item) for key, item in sorted(value.items())}
    if isinstance(value, values.ResourceRef):
        return {
            values.SIGNATURE: values.RESOURCE,
            "urn": value.urn,
            **({"id": convert(value.id)} if value.custom else {}),
            **({"packageVersion": value.version} if value.version else {}),
        }
    if isinstance(value, values.Unknown):
        return values.UNKNOWN_TEXT
    return value


def rename_references(item: Json, aliases: dict[str, str]) -> None:
    """Let one resource of the file refer to others by their new URNs (its own URN is not touched)."""
    for key in ("parent", "provider", "deletedWith"):
        if item.get(key):
            item[key] = rename(item[key], aliases)
    if item.get("dependencies"):
        item["dependencies"] = [rename(urn, aliases) for urn in item["dependencies"]]
    if item.get("propertyDependencies"):  # a new one: the resource that was loaded from it has its own
        item["propertyDependencies"] = {
            key: [rename(urn, aliases) for urn in urns] for key, urns in item["propertyDependencies"].items()
        }


def flaw(items: list[Json]) -> str:
    """What the CLI would refuse the state for, in its words; empty where nothing is wrong."""
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
    """What a resource refers to, and what is said where that is missing and where it comes after it."""
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


def renamed(resource: Resource, aliases: dict[str, str]) -> Resource:
    """A copy that refers to others by their new URNs."""
    return resource.copy(
        parent=rename(resource.parent, aliases),
        provider=rename(resource.provider, aliases),
        deleted_with=rename(resource.deleted_with, aliases),
        dependencies=[rename(urn, aliases) for urn in resource.dependencies],
        property_dependencies={
            key: [rename(urn, aliases) for urn in found]
            for key, found in resource.property_dependencies.items()
        },
    )


def prune_references(resources: Iterable[Resource], gone: Iterable[Resource]) -> list[Resource]:
    """Drop references to resources that no longer exist (after a refresh); the changed ones are returned.

    Whose parent is gone gets the parent's own.
    """
    kept = list(resources)
    urns = {resource.urn for resource in kept}
    parents = {resource.urn: resource.parent for resource in gone}
    changed = []
    for resource in kept:
        parent = resource.parent
        while parent in parents and parent not in urns:
            parent = parents[parent]
        dependencies = [urn for urn in resource.dependencies if urn in urns]
        of_properties = {
            key: [urn for urn in found if urn in urns]
            for key, found in resource.property_dependencies.items()
        }
        deleted_with = resource.deleted_with if resource.deleted_with in urns else ""
        if (parent, dependencies, of_properties, deleted_with) != (
            resource.parent,
            resource.dependencies,
            resource.property_dependencies,
            resource.deleted_with,
        ):
            resource.parent = parent
            resource.dependencies = dependencies
            resource.property_dependencies = of_properties
            resource.deleted_with = deleted_with
            changed.append(resource)
    return changed
