"""What all our dynamic providers share: no state of their own, clients made from configuration and environment."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

from pulumi.dynamic import ConfigureRequest, DiffResult, ResourceProvider, dynamic
from pulumi.output import Unknown

from flux_training.clients.connection import CONNECTION_SETTINGS, Connection, connect, storage_kind
from flux_training.training.errors import FluxError

Props = dict[str, Any]


def cure_the_sdk() -> None:
    """Serialise each provider class once, not once a resource.

    Each call of the SDK's `serialize_provider` (seen in 3.260 and 3.272) costs 4 ms and leaves one more wrapper on the pickler it
    sorts with, until at about the 319th dynamic resource of a program Python gives up with RecursionError (ENGINE.md, trap 1). Ours
    have no state (`__getstate__`), so one text stands for all the resources of a class.
    """
    if getattr(dynamic.serialize_provider, "cured", False):
        return
    serialize = dynamic.serialize_provider
    pickler: Any = pickle._Pickler  # type: ignore[attr-defined,unused-ignore]  # what the SDK itself patches
    known: dict[type, str] = {}

    def once(provider: ResourceProvider) -> str:
        kind = type(provider)
        if not isinstance(provider, FluxProvider) or kind not in known:
            unpatched = pickler._batch_setitems
            try:
                known[kind] = serialize(provider)
            finally:
                pickler._batch_setitems = unpatched
        return known[kind]

    once.cured = True  # type: ignore[attr-defined]
    dynamic.serialize_provider = once


class FluxProvider(ResourceProvider):
    """Pickled as a reference to its class alone, so that credentials never reach the state (PULUMI.md, rules 1 and 3)."""

    serialize_as_secret_always = False
    connection: Connection
    cluster_environment: dict[str, str]

    def __getstate__(self) -> None:
        return None

    def configure(self, req: ConfigureRequest) -> None:
        # What is left of a failure is `Type: message`: our errors are written to be read without a traceback.
        sys.tracebacklimit = 0
        settings = {key: req.config.get(key) for key in CONNECTION_SETTINGS}
        kind = storage_kind(req.config.get("storage"))
        self.connection = connect(req.config.get("cloud"), settings, os.environ, kind)
        # The values may be secrets, so they come this way and not as inputs, which lie in the state in plain text.
        cluster = json.loads(req.config.get("cluster") or "{}")
        self.cluster_environment = dict(cluster.get("environment") or {})

    def check_home(self, props: Props) -> None:
        """Raises FluxError when the resource lives with another organization, project or store than the keys given reach.

        Otherwise it would be "not found" there, dropped from the state, and made and paid for again.
        """
        here = home(self.connection)
        if is_known(props.get("home")) and props.get("home") != here:
            raise FluxError(
                f"this stack lives in {props.get('home')}, but the keys given are for {here}",
                "one stack stays in one place",
                "give the keys of the first, or use another stack",
            )


cure_the_sdk()


def home(connection: Connection) -> str:
    """Where a stack's resources live. The cloud on this machine is one place, whatever its ports."""
    if connection.cloud == "local":
        return "the cloud on this machine"
    store = connection.s3_endpoint or f"S3 in {connection.s3_region}"
    return f"{connection.organization}/{connection.project} at {connection.salad_url}, {store}"


def is_known(value: object) -> bool:
    """Whether a preview knows the value. Unknown is truthy and cannot be indexed (PULUMI.md)."""
    return not isinstance(value, Unknown)


def replace_on(
    fields: tuple[str, ...], olds: Mapping[str, Any], news: Mapping[str, Any], old_first: bool = True
) -> DiffResult:
    """A replacement when one of `fields` changed to a known value; whether anything else changed the engine finds itself.

    `changes` stays None so that the engine shows what changed field by field (PULUMI.md, rule 2). `old_first`: the old one is
    deleted before the new one is made, because names are unique, and what is no longer wanted must stop costing.
    """
    changed = [
        name
        for name in fields
        if name in olds and is_known(news.get(name)) and is_known(olds[name]) and olds[name] != news.get(name)
    ]
    return DiffResult(replaces=changed, delete_before_replace=old_first)


def inputs_of(outputs: Props, names: tuple[str, ...]) -> Props:
    """The inputs among a resource's outputs, for ReadResult.inputs."""
    return {name: outputs[name] for name in names if name in outputs}
