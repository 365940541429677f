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
    changed_keys,
    copy_shared_fields,
    from_props,
    is_known,
    property_names,
    to_props,
)
from flux_training.clients.connection import (
    CONNECTION_SETTINGS,
    Connection,
    parse_storage_kind,
    with_node_access_to_records,
)
from flux_training.clients.local_cloud import connect_and_start_local_cloud
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
    # A change of one of these fields replaces the resource.
    replaced_by: tuple[str, ...] = ()
    # Delete the old resource before creating its replacement: names must be unique, and an unwanted resource should stop
    # costing money first.
    deletes_before_replacing = True
    # Whether `read` also updates the inputs. Then the next preview shows drift, and `up` repairs it.
    reads_inputs = True
    connection: Connection
    cluster_environments: dict[str, dict[str, str]]

    def __getstate__(self) -> None:
        return None

    def configure(self, req: ConfigureRequest) -> None:
        # Users need no traceback for our errors. With this limit the SDK shows only `Type: message`.
        sys.tracebacklimit = 0
        settings = {key: req.config.get(key) for key in CONNECTION_SETTINGS}
        storage = req.config.get("storage")
        found = connect_and_start_local_cloud(
            req.config.get("cloud"), settings, os.environ, parse_storage_kind(storage)
        )
        self.connection = with_node_access_to_records(found, storage)
        # The environment is read from the configuration, not from the inputs: its values may be secrets, and the state keeps
        # inputs in plain text.
        clusters = json.loads(req.config.get("clusters") or "{}")
        clusters = clusters or {SINGLE_CLUSTER: json.loads(req.config.get("cluster") or "{}")}
        self.cluster_environments = {
            name: dict(cluster.get("environment") or {}) for name, cluster in clusters.items()
        }

    def diff(self, id_: str, olds: Props, news: Props) -> DiffResult:
        old, new = from_props(self.state_class, olds), from_props(self.args_class, news)
        self.check_same_place(old)
        replaces = self.changed(id_, old, new)
        self.check_change(old, new, replaces)
        # `changes` stays None, so that the engine itself finds and shows the changed fields (docs/pulumi.md).
        return DiffResult(replaces=replaces, delete_before_replace=self.deletes_before_replacing)

    def create(self, props: Props) -> CreateResult:
        id_, state = self.create_or_adopt(from_props(self.args_class, props))
        return CreateResult(id_, to_props(state))

    def read(self, id_: str, props: Props) -> ReadResult:
        state = from_props(self.state_class, props)
        self.check_same_place(state)
        found = self.find(id_, state)
        if found is None:
            return ReadResult("", {})
        inputs = to_props(copy_shared_fields(self.args_class, found)) if self.reads_inputs else None
        return ReadResult(id_, to_props(found), inputs)

    def update(self, id_: str, olds: Props, news: Props) -> UpdateResult:
        old, new = from_props(self.state_class, olds), from_props(self.args_class, news)
        return UpdateResult(to_props(self.change(id_, old, new)))

    def delete(self, id_: str, props: Props) -> None:
        state = from_props(self.state_class, props)
        self.check_same_place(state)
        self.remove(id_, state)

    def changed(self, _id: str, old: S, new: A) -> list[str]:
        """The properties whose change replaces the resource."""
        return changed_keys(self.replaced_by, old, new)

    def check_change(self, old: S, new: A, replaces: list[str]) -> None:
        """Raise FluxError for a change that must not be made. Runs in the preview too."""

    def create_or_adopt(self, args: A) -> tuple[str, S]:
        """Create the resource, or adopt our own existing one: its id and state."""
        raise NotImplementedError

    def find(self, _id: str, state: S) -> S | None:
        """The resource as it is now; None if it does not exist any more."""
        return state

    def change(self, _id: str, _old: S, new: A) -> S:
        """Update the resource in place."""
        return copy_shared_fields(self.state_class, new)

    def remove(self, _id: str, state: S) -> None:
        """Delete the resource."""

    def check_same_place(self, properties: Properties) -> None:
        """Raise FluxError if the given keys reach another organization, project or storage than the resource lives in.

        Otherwise the resource would not be found there, would be dropped from the state, created again and paid for again.
        """
        here = home(self.connection)
        if is_known(properties.home) and properties.home != here:
            raise FluxError(
                f"this stack lives in {properties.home}, but the given keys are for {here}",
                "a stack cannot move to another cloud, organization, project or storage",
                f"use the keys for {properties.home}, or create another stack",
            )


class FluxResource(Resource, Generic[A]):
    """A resource declared by its args class. Its outputs are attributes with the property names of its state class."""

    provider_class: type[FluxProvider[A, Any]]

    def __init__(self, name: str, args: A, opts: pulumi.ResourceOptions | None = None) -> None:
        provider = self.provider_class()
        # Pulumi creates outputs only for properties that are passed to the constructor, so each one is passed as None.
        declared = property_names(provider.args_class)
        outputs = {
            key: None for name, key in property_names(provider.state_class).items() if name not in declared
        }
        super().__init__(provider, name, {**outputs, **to_props(args)}, opts)


serialize_each_class_once()


def home(connection: Connection) -> str:
    """Identifies where a stack's resources live. The local cloud is one place, whatever its ports."""
    if connection.cloud == "local":
        return "the cloud on this machine"
    store = connection.s3_endpoint or f"S3 in {connection.s3_region}"
    return f"{connection.organization}/{connection.project} at {connection.salad_url}, {store}"
