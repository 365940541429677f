"""Two operators of one stack, each with an R2 token of their own: the nodes keep their keys for as long as these work."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from clients.cloudflare import Keys
from clients.connection import Connection, connect
from components.node_keys import NodeKeysProvider
from components.preparation import parent_mark
from components.provider import Props, home
from tests.support.cloud import running_cloud
from training.node_rights import show_time

BUCKET = "two-operators"


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    place = tmp_path_factory.mktemp("cloud")
    with running_cloud(place, nodes=0):
        made = connect("local", {}, {"FLUX_LOCAL_CLOUD": str(place / "connection.json")})
        made.storage(BUCKET).ensure()
        yield made


def operator(connection: Connection, token: Keys) -> NodeKeysProvider:
    """The provider as it runs with this R2 token."""
    keys = {"s3_access_key_id": token.access_key_id, "s3_secret_access_key": token.secret_access_key}
    provider = NodeKeysProvider()
    provider.connection = connection.model_copy(update=keys)
    return provider


def props(provider: NodeKeysProvider, credentials: str = "temporary", rotate: float = 1.0) -> Props:
    return {
        "home": home(provider.connection),
        "bucket": BUCKET,
        "prefixes": "p/datasets/, p/runs/",
        "credentials": credentials,
        "end": show_time(datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)),
        "rotate": rotate,
        "parent": parent_mark(provider.connection),
        "owner": "flux-training/dev",
    }


def test_the_nodes_keep_their_keys_while_the_token_behind_them_is_there(
    connection: Connection,
) -> None:
    tokens = [connection.cloudflare().create_token(name, BUCKET) for name in ("first", "second")]
    first, second = (operator(connection, token) for token in tokens)
    wanted = props(first)
    made = first.create(wanted)
    of_second = {**wanted, "parent": parent_mark(second.connection)}
    assert of_second["parent"] != wanted["parent"]

    assert second.diff("id", made.outs, of_second).replaces == []
    changed = second.update("id", made.outs, of_second).outs
    assert changed["keys"] == made.outs["keys"]
    # Whose they are is not forgotten: back at the first operator nothing is to be asked.
    assert changed["parent"] == wanted["parent"]
    assert first.diff("id", changed, wanted).replaces == []

    assert second.diff("id", changed, {**of_second, "rotate": 2.0}).replaces == ["rotate"]
    connection.cloudflare().delete_token(tokens[0].access_key_id)
    assert second.diff("id", changed, of_second).replaces == ["parent"]


def test_a_token_of_the_nodes_own_is_nobodys_child(connection: Connection) -> None:
    tokens = [connection.cloudflare().create_token(name, BUCKET) for name in ("third", "fourth")]
    third, fourth = (operator(connection, token) for token in tokens)
    wanted = props(third, "token")
    made = third.create(wanted)
    connection.cloudflare().delete_token(tokens[0].access_key_id)
    of_fourth = {**wanted, "parent": parent_mark(fourth.connection)}
    assert fourth.diff("id", made.outs, of_fourth).replaces == []
