"""R2 keys for the nodes of one stack: for its prefix and a limited time, or for the whole bucket until they are revoked.

New keys are created before the container group changes, and old keys are revoked after it, because the engine deletes replaced
resources last.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pulumi

from components.properties import Properties, copy_shared_fields
from components.provider import FluxProvider, FluxResource
from flux_training.clients.cloudflare import MAX_KEY_SECONDS, Keys
from flux_training.clients.salad import MAX_VALUE_LENGTH
from flux_training.training.errors import FluxError
from flux_training.training.runs.node_rights import parse_time

MIN_SECONDS = 60.0
TOKEN = "token"  # noqa: S105 - the name of a kind of credentials, not a secret


@dataclass(frozen=True, kw_only=True)
class NodeKeysArgs(Properties):
    """`credentials` is `token` or `temporary`; `end` is empty for keys without an end. `parent` identifies the keys that these are made from."""

    bucket: str
    prefixes: str
    credentials: str
    end: str
    rotate: int
    parent: str
    owner: str


@dataclass(frozen=True, kw_only=True)
class NodeKeysState(NodeKeysArgs):
    """`keys` is secret, with the keys of components/container_group.py's `issued_keys`."""

    keys: Mapping[str, str]


class NodeKeysProvider(FluxProvider[NodeKeysArgs, NodeKeysState]):
    args_class = NodeKeysArgs
    state_class = NodeKeysState
    replaced_by = ("bucket", "prefixes", "credentials", "end", "rotate", "parent")
    deletes_before_replacing = False

    def create_or_adopt(self, args: NodeKeysArgs) -> tuple[str, NodeKeysState]:
        if args.credentials == TOKEN:
            keys = self.connection.cloudflare().replace_tokens(token_name(args), args.bucket)
            return keys.access_key_id, _state(args, keys)
        return args.end, _state(args, self._create_temporary_keys(args))

    def find(self, id_: str, state: NodeKeysState) -> NodeKeysState | None:
        # Cloudflare has no request to look up temporary keys, but their expiry time is in the state.
        if state.credentials == TOKEN and not self.connection.cloudflare().has_token(id_):
            return None
        return state

    def change(self, _id: str, old: NodeKeysState, new: NodeKeysArgs) -> NodeKeysState:
        return copy_shared_fields(NodeKeysState, new, keys=old.keys)

    def remove(self, id_: str, state: NodeKeysState) -> None:
        if state.credentials == TOKEN:
            self.connection.cloudflare().delete_token(id_)

    def _create_temporary_keys(self, args: NodeKeysArgs) -> Keys:
        end = parse_time(args.end)
        # A time in the past means that no run is left to train, but the container group needs keys anyway.
        seconds = max(MIN_SECONDS, (end - datetime.now(UTC)).total_seconds() if end else 0.0)
        keys = self.connection.cloudflare().temporary_keys(
            self.connection.s3_access_key_id,
            args.bucket,
            args.prefixes.split(", "),
            min(seconds, MAX_KEY_SECONDS),
        )
        length = len(keys.session_token.get_secret_value()) if keys.session_token else 0
        if length > MAX_VALUE_LENGTH:
            raise FluxError(
                f"the session token from Cloudflare has {length} characters",
                f"SaladCloud accepts environment values of at most {MAX_VALUE_LENGTH}",
                "set `storage.credentials: token`",
            )
        return keys


def token_name(args: NodeKeysArgs) -> str:
    """The name of an issued token.

    It depends on the inputs, so that a retry after a lost answer finds the token, but never one that nodes still use.
    """
    what = f"{args.bucket} {args.prefixes} {args.credentials} {args.parent} {args.rotate}"
    return f"{args.owner} nodes {hashlib.sha256(what.encode()).hexdigest()[:8]}"


def _state(args: NodeKeysArgs, keys: Keys) -> NodeKeysState:
    values = {
        "accessKeyId": keys.access_key_id,
        "secretAccessKey": keys.secret_access_key.get_secret_value(),
        "sessionToken": keys.session_token.get_secret_value() if keys.session_token else None,
    }
    given = {name: value for name, value in values.items() if value is not None}
    return copy_shared_fields(NodeKeysState, args, keys=given)


class NodeKeys(FluxResource[NodeKeysArgs], module="flux", name="NodeKeys"):
    provider_class = NodeKeysProvider
    keys: pulumi.Output[dict[str, str]]

    def __init__(self, name: str, args: NodeKeysArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        secret = pulumi.ResourceOptions(additional_secret_outputs=["keys"])
        super().__init__(name, args, pulumi.ResourceOptions.merge(opts, secret))
