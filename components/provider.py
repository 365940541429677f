"""What all our dynamic providers share: no state of their own, clients made from configuration and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from pulumi.dynamic import ConfigureRequest, DiffResult, ResourceProvider

from clients.connection import CONNECTION_SETTINGS, Connection, connect

Props = dict[str, Any]

# An input that a preview does not know yet. pulumi.output.Unknown is truthy and cannot be indexed (PULUMI.md).
UNKNOWN_TYPES = ("Unknown",)


class FluxProvider(ResourceProvider):
    """Pickled as a reference to its class alone, so that credentials never reach the state (PULUMI.md, rules 1 and 3)."""

    serialize_as_secret_always = False
    connection: Connection

    def __getstate__(self) -> None:
        return None

    def configure(self, req: ConfigureRequest) -> None:
        # What is left of a failure is `Type: message`: our errors are written to be read without a traceback.
        sys.tracebacklimit = 0
        settings = {key: req.config.get(key) for key in CONNECTION_SETTINGS}
        self.connection = connect(req.config.get("cloud"), settings, os.environ)


def is_known(value: object) -> bool:
    return type(value).__name__ not in UNKNOWN_TYPES


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
