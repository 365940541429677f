"""Keys of R2 for the nodes of one stack: for its prefix and for a time, or for its bucket until they are taken away.

New ones are made before the container group changes and old ones revoked after it has: the engine deletes what was replaced last.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource

from components.provider import FluxProvider, Props, inputs_of, replace_on
from flux_training.clients.cloudflare import MAX_KEY_SECONDS, Keys
from flux_training.clients.salad import MAX_VALUE_LENGTH
from flux_training.training.errors import FluxError
from flux_training.training.runs.node_rights import parse_time

INPUTS = ("home", "bucket", "prefixes", "credentials", "end", "rotate", "parent", "owner")
SHORTEST_SECONDS = 60.0
TOKEN = "token"  # noqa: S105 - the name of a kind, no secret


class NodeKeysProvider(FluxProvider):
    def diff(self, _id: str, olds: Props, news: Props) -> DiffResult:
        self.check_home(olds)
        fields = ("bucket", "prefixes", "credentials", "end", "rotate", "parent")
        return replace_on(fields, olds, news, old_first=False)

    def create(self, props: Props) -> CreateResult:
        if props["credentials"] == TOKEN:
            keys = self.connection.cloudflare().replace_tokens(token_name(props), props["bucket"])
            return CreateResult(keys.access_key_id, _outputs(props, keys))
        keys = self._temporary(props)
        return CreateResult(props["end"], _outputs(props, keys))

    def read(self, id_: str, props: Props) -> ReadResult:
        self.check_home(props)
        # Temporary ones cannot be asked about; when they end is known.
        if props["credentials"] == TOKEN and not self.connection.cloudflare().has_token(id_):
            return ReadResult("", {})
        return ReadResult(id_, props, inputs_of(props, INPUTS))

    def delete(self, id_: str, props: Props) -> None:
        self.check_home(props)
        if props["credentials"] == TOKEN:
            self.connection.cloudflare().delete_token(id_)

    def _temporary(self, props: Props) -> Keys:
        end = parse_time(props["end"])
        # An end that is past: nothing is left to train, and the group gets some all the same.
        seconds = max(SHORTEST_SECONDS, (end - datetime.now(UTC)).total_seconds() if end else 0.0)
        keys = self.connection.cloudflare().temporary_keys(
            self.connection.s3_access_key_id,
            props["bucket"],
            props["prefixes"].split(", "),
            min(seconds, MAX_KEY_SECONDS),
        )
        length = len(keys.session_token.get_secret_value()) if keys.session_token else 0
        if length > MAX_VALUE_LENGTH:
            raise FluxError(
                f"Cloudflare's session token has {length} characters",
                f"SaladCloud takes values of at most {MAX_VALUE_LENGTH}",
                "set `storage.credentials: token`",
            )
        return keys


def token_name(props: Props) -> str:
    """One name for one issue: an attempt whose answer got lost is found by it, and never the token that nodes still hold."""
    fields = ("bucket", "prefixes", "credentials", "parent")
    what = " ".join([*(str(props[name]) for name in fields), f"{props['rotate']:.0f}"])
    return f"{props['owner']} nodes {hashlib.sha256(what.encode()).hexdigest()[:8]}"


def _outputs(props: Props, keys: Keys) -> Props:
    values = {
        "accessKeyId": keys.access_key_id,
        "secretAccessKey": keys.secret_access_key.get_secret_value(),
        "sessionToken": keys.session_token.get_secret_value() if keys.session_token else None,
    }
    return {
        **inputs_of(props, INPUTS),
        "keys": {name: value for name, value in values.items() if value is not None},
    }


class NodeKeys(Resource, module="flux", name="NodeKeys"):
    """`keys` is secret. `end` is empty for keys that have none."""

    keys: pulumi.Output[dict[str, str]]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        secret = pulumi.ResourceOptions(additional_secret_outputs=["keys"])
        options = pulumi.ResourceOptions.merge(opts, secret)
        super().__init__(NodeKeysProvider(), name, {**props, "keys": None}, options)
