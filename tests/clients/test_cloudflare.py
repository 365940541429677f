"""The Cloudflare client against the local cloud or the real Cloudflare, and with lost answers."""

import json
from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr

from flux_training.clients.cloudflare import Cloudflare, Keys
from flux_training.clients.connection import Connection
from flux_training.clients.errors import Conflict, NotFound, Unauthorized, UncertainOutcome
from flux_training.clients.http import RetryPolicy
from flux_training.clients.storage import Storage

TOKEN = "canary-cloudflare-77ab"


@pytest.fixture
def cloudflare(connection: Connection) -> Cloudflare:
    if connection.cloudflare_api_token is None:
        pytest.skip("the real Cloudflare is only tested with FLUX_TEST_CLOUDFLARE_API_TOKEN and …_ACCOUNT_ID")
    return connection.cloudflare()


def storage_with(connection: Connection, keys: Keys, bucket: str) -> Storage:
    return Storage(
        connection.s3_endpoint,
        connection.s3_region,
        keys.access_key_id,
        keys.secret_access_key,
        keys.session_token,
        bucket,
        retries=0,
    )


def test_a_bucket_is_created_once(cloudflare: Cloudflare, storage: Storage) -> None:
    name = f"{storage.bucket}-made"
    assert cloudflare.get_bucket(name) is None
    assert cloudflare.create_bucket(name, "weur").location == "WEUR"
    with pytest.raises(Conflict):
        cloudflare.create_bucket(name)
    found = cloudflare.get_bucket(name)
    assert found is not None
    assert found.name == name
    cloudflare.delete_bucket(name)
    cloudflare.delete_bucket(name)
    assert cloudflare.get_bucket(name) is None


def test_a_bucket_with_objects_is_not_deleted(cloudflare: Cloudflare, storage: Storage) -> None:
    storage.put_bytes("a", b"1")
    with pytest.raises(Conflict, match="not empty"):
        cloudflare.delete_bucket(storage.bucket)


def test_temporary_keys_only_reach_their_prefixes(
    cloudflare: Cloudflare, connection: Connection, storage: Storage
) -> None:
    storage.put_bytes("other/secret", b"x")
    keys = cloudflare.temporary_keys(connection.s3_access_key_id, storage.bucket, ["mine/"], 600)
    node = storage_with(connection, keys, storage.bucket)
    node.put_bytes("mine/a", b"1")
    assert [item.key for item in node.list("mine/")] == ["mine/a"]
    for act in (
        lambda: node.get_bytes("other/secret"),
        lambda: node.put_bytes("other/b", b"1"),
        lambda: list(node.list("")),
        node.lifecycle_rules,
        node.delete_bucket,
    ):
        with pytest.raises(Unauthorized):
            act()


def test_a_token_works_until_it_is_revoked(
    cloudflare: Cloudflare, connection: Connection, storage: Storage
) -> None:
    first = cloudflare.replace_tokens("tests/clients nodes", storage.bucket)
    keys = cloudflare.replace_tokens("tests/clients nodes", storage.bucket)
    assert [token.id for token in cloudflare.tokens_with_name("tests/clients nodes")] == [keys.access_key_id]
    node = storage_with(connection, keys, storage.bucket)
    node.put_bytes("a", b"1")
    with pytest.raises(Unauthorized):
        storage_with(connection, first, storage.bucket).put_bytes("a", b"1")
    cloudflare.delete_token(keys.access_key_id)
    cloudflare.delete_token(keys.access_key_id)
    assert not cloudflare.has_token(keys.access_key_id)
    with pytest.raises(Unauthorized):
        node.put_bytes("a", b"2")
    assert keys.secret_access_key.get_secret_value() not in repr(keys)


def test_a_token_is_found_among_more_than_a_page(cloudflare: Cloudflare, storage: Storage) -> None:
    beside = [cloudflare.create_token("tests/clients beside", storage.bucket) for _ in range(51)]
    keys = cloudflare.create_token("tests/clients last", storage.bucket)
    try:
        assert [t.id for t in cloudflare.tokens_with_name("tests/clients last")] == [keys.access_key_id]
        assert len(cloudflare.tokens_with_name("tests/clients beside")) == len(beside)
    finally:
        for made in [keys, *beside]:
            cloudflare.delete_token(made.access_key_id)


def test_a_wrong_token_is_reported_and_not_shown(connection: Connection) -> None:
    if connection.cloudflare_account_id is None:
        pytest.skip("the real Cloudflare is only tested with FLUX_TEST_CLOUDFLARE_ACCOUNT_ID")
    wrong = Cloudflare(connection.cloudflare_url, connection.cloudflare_account_id, SecretStr(TOKEN))
    with pytest.raises(Unauthorized, match="check the Cloudflare API token") as caught:
        wrong.get_bucket("b")
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(wrong)


def offline(handler: Callable[[httpx.Request], httpx.Response]) -> Cloudflare:
    return Cloudflare(
        "http://cloudflare.test/v4",
        "acc",
        SecretStr(TOKEN),
        httpx.MockTransport(handler),
        retry_policy=RetryPolicy(attempts=2, sleep=lambda _: None),
    )


def test_a_token_whose_answer_was_lost_is_revoked() -> None:
    tokens: dict[str, str] = {}

    def handler(request: httpx.Request) -> httpx.Response:
        kind = request.url.path.rsplit("/", 1)[-1]
        if request.method == "POST":
            tokens["t1"] = json.loads(request.content)["name"]
            raise httpx.ReadError("reset")
        if request.method == "DELETE":
            del tokens[kind]
        groups = [{"id": "g", "name": "Workers R2 Storage Bucket Item Write"}]
        listed = [{"id": token, "name": name} for token, name in tokens.items()]
        return httpx.Response(200, json={"result": groups if kind == "permission_groups" else listed})

    with pytest.raises(UncertainOutcome):
        offline(handler).replace_tokens("n", "b")
    assert tokens == {}


def test_a_failed_request_for_temporary_keys_is_repeated() -> None:
    asked: list[object] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        if len(asked) == 1:
            return httpx.Response(502)
        made = {"accessKeyId": "i", "secretAccessKey": "s", "sessionToken": "t"}
        return httpx.Response(200, json={"success": True, "errors": [], "result": made})

    assert offline(handler).temporary_keys("p", "b", ["x/"], 60.9).access_key_id == "i"
    assert asked[0] == asked[1]
    assert asked[0] == {
        "bucket": "b",
        "parentAccessKeyId": "p",
        "permission": "object-read-write",
        "ttlSeconds": 60,
        "prefixes": ["x/"],
    }


def test_a_missing_permission_group_is_named() -> None:
    def handler(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"result": []})

    with pytest.raises(NotFound, match="Workers R2 Storage Bucket Item Write"):
        offline(handler).create_token("n", "b")
