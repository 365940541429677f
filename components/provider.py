"""The base of all our dynamic providers and resources: typed properties, and service clients made from the configuration."""

import json
import os
import pickle
import sys
from typing import Any, Generic, TypeVar

import pulumi
from pulumi.dynamic import (
    ConfigureRequest,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
    dynamic,
)

from components.properties import (
    Properties,
    Props,
    carry_over,
    changed_keys,
    from_props,
    is_known,
    keys_of,
    to_props,
)
from flux_training.clients.connection import CONNECTION_SETTINGS, Connection, storage_kind, with_node_rights
from flux_training.clients.local_cloud import connect_started
from flux_training.training.errors import FluxError
from flux_training.training.settings import SINGLE_CLUSTER

A = TypeVar("A", bound=Properties)
S = TypeVar("S", bound=Properties)


def serialize_each_class_once() -> None:
    """Work around a leak in the SDK's `serialize_provider` (seen in 3.260 and 3.272), with the Pulumi CLI and without it.

    Each call takes 4 ms and adds another wrapper to the pickler; at about the 319th dynamic resource Python raises
    RecursionError. Our providers have no state, so all resources of a class can share one text.
    """
    if getattr(dynamic.serialize_provider, "is_patched", False):
        return
    serialize = dynamic.serialize_provider
    pickler: Any = pickle._Pickler  # type: ignore[attr-defined,unused-ignore]  # the class that the SDK wraps
    known: dict[type, str] = {}

    def serialize_once(provider: ResourceProvider) -> str:
        kind = type(provider)
        if not isinstance(provider, FluxProvider) or kind not in known:
            unwrapped = pickler._batch_setitems
            try:
                known[kind] = serialize(provider)
            finally:
                pickler._batch_setitems = unwrapped
        return known[kind]

    serialize_once.is_patched = True  # type: ignore[attr-defined]  # a mark on our own function
    dynamic.serialize_provider = serialize_once


class FluxProvider(ResourceProvider, Generic[A, S]):
    """Converts Pulumi's property dicts, so that subclasses work with their args class `A` (declared) and state class `S` (stored).

    Pickled as a reference to its class alone, so that no credential gets into the state (docs/pulumi.md).
    """

    serialize_as_secret_always = False
    args_class: type[A]
    state_class: type[S]
    # Fields whose change replaces the resource.
    replaced_by: tuple[str, ...] = ()
    # Names are unique, and what is no longer wanted should stop costing money: the old resource is deleted first.
    deletes_before_replacing = True
    # Whether `read` also updates the inputs, so that the next preview shows drift and `up` repairs it.
    reads_inputs = True
    connection: Connection
    cluster_environments: dict[str, dict[str, str]]

    def __getstate__(self) -> None:
        return None

    def configure(self, req: ConfigureRequest) -> None:
        # Our errors need no traceback. With this limit the SDK shows only `Type: message`.
        sys.tracebacklimit = 0
        settings = {key: req.config.get(key) for key in CONNECTION_SETTINGS}
        storage = req.config.get("storage")
        found = connect_started(req.config.get("cloud"), settings, os.environ, storage_kind(storage))
        self.connection = with_node_rights(found, storage)
        # Not an input: the values may be secrets, and the state keeps inputs in plain text.
        clusters = json.loads(req.config.get("clusters") or "{}")
        clusters = clusters or {SINGLE_CLUSTER: json.loads(req.config.get("cluster") or "{}")}
        self.cluster_environments = {
            name: dict(cluster.get("environment") or {}) for name, cluster in clusters.items()
        }

    def diff(self, id_: str, olds: Props, news: Props) -> DiffResult:
        old, new = from_props(self.state_class, olds), from_props(self.args_class, news)
        self.check_home(old)
        replaces = self.changed(id_, old, new)
        self.check_change(old, new, replaces)
        # `changes` stays None, so that the engine finds and shows changed fields (docs/pulumi.md).
        return DiffResult(replaces=replaces, delete_before_replace=self.deletes_before_replacing)

    def create(self, props: Props) -> CreateResult:
        id_, state = self.create_or_adopt(from_props(self.args_class, props))
        return CreateResult(id_, to_props(state))

    def read(self, id_: str, props: Props) -> ReadResult:
        state = from_props(self.state_class, props)
        self.check_home(state)
        found = self.find(id_, state)
        if found is None:
            return ReadResult("", {})
        inputs = to_props(carry_over(self.args_class, found)) if self.reads_inputs else None
        return ReadResult(id_, to_props(found), inputs)

    def update(self, id_: str, olds: Props, news: Props) -> UpdateResult:
        old, new = from_props(self.state_class, olds), from_props(self.args_class, news)
        return UpdateResult(to_props(self.change(id_, old, new)))

    def delete(self, id_: str, props: Props) -> None:
        state = from_props(self.state_class, props)
        self.check_home(state)
        self.remove(id_, state)

    def changed(self, _id: str, old: S, new: A) -> list[str]:
        """The properties whose change replaces the resource."""
        return changed_keys(self.replaced_by, old, new)

    def check_change(self, old: S, new: A, replaces: list[str]) -> None:
        """Raise FluxError for a change that must not be made, already in the preview."""

    def create_or_adopt(self, args: A) -> tuple[str, S]:
        """Create the resource, or adopt our own existing one: its id and state."""
        raise NotImplementedError

    def find(self, _id: str, state: S) -> S | None:
        """The resource as it is now; None if it does not exist any more."""
        return state

    def change(self, _id: str, _old: S, new: A) -> S:
        """Update the resource in place."""
        return carry_over(self.state_class, new)

    def remove(self, _id: str, state: S) -> None:
        """Delete the resource."""

    def check_home(self, properties: Properties) -> None:
        """Raise FluxError if the resource lives with another organization, project or store than the given keys reach.

        Otherwise it would be "not found" there, dropped from the state, created again and paid for again.
        """
        here = home(self.connection)
        if is_known(properties.home) and properties.home != here:
            raise FluxError(
                f"this stack lives in {properties.home}, but the given keys are for {here}",
                "a stack cannot move",
                "use the keys of the first place, or another stack for the second",
            )


class FluxResource(Resource, Generic[A]):
    """A resource declared by its args class. Its outputs are attributes with the property names of its state class."""

    provider_class: type[FluxProvider[A, Any]]

    def __init__(self, name: str, args: A, opts: pulumi.ResourceOptions | None = None) -> None:
        provider = self.provider_class()
        # Pulumi creates outputs only for properties passed to the constructor; None is enough.
        declared = keys_of(provider.args_class)
        outputs = {key: None for name, key in keys_of(provider.state_class).items() if name not in declared}
        super().__init__(provider, name, {**outputs, **to_props(args)}, opts)


serialize_each_class_once()


def home(connection: Connection) -> str:
    """Where a stack's resources live. The local cloud is one place, whatever its ports."""
    if connection.cloud == "local":
        return "the cloud on this machine"
    store = connection.s3_endpoint or f"S3 in {connection.s3_region}"
    return f"{connection.organization}/{connection.project} at {connection.salad_url}, {store}"
