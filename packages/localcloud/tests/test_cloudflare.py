"""Cloudflare's API: R2 buckets, tokens and temporary credentials, and what they allow in S3."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from localcloud.testing import s3_client, wait_until

ITEM_WRITE = "2efd5506f9c8494dacb1fa10a3e7d5b6"
ITEM_READ = "6a018a9f2fc74eb6b293b0c548f38b39"


@pytest.fixture
def api(connection: dict[str, Any]) -> Iterator[httpx.Client]:
    """A client whose paths are relative to the account."""
    cloudflare = connection["cloudflare"]
    base = f"{cloudflare['url']}/accounts/{cloudflare['account_id']}"
    headers = {"Authorization": f"Bearer {cloudflare['api_token']}"}
    with httpx.Client(base_url=base, headers=headers, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def owner(connection: dict[str, Any]) -> Any:
    """S3 with the local cloud's own key, and two buckets: `mine` has three objects, `other` one."""
    s3 = s3_client(connection)
    for bucket in ("mine", "other"):
        s3.create_bucket(Bucket=bucket)
    for key in ("runs/a/1", "runs/b/1", "datasets/1"):
        s3.put_object(Bucket="mine", Key=key, Body=b"x")
    s3.put_object(Bucket="other", Key="secret", Body=b"x")
    return s3


def result(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"success", "errors", "messages", "result"}
    assert body["success"] is (status == 200)
    return body["result"] if status == 200 else body["errors"][0]["code"]


def s3_with(connection: dict[str, Any], key_id: str, secret: str, session_token: str | None = None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=connection["s3"]["url"],
        region_name="auto",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        aws_session_token=session_token,
        config=Config(request_checksum_calculation="when_required", retries={"max_attempts": 1}),
    )


def code_of(call: Callable[[], Any]) -> str:
    """The code of the S3 error that the call raises, or `ok`."""
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "ok"


def make_token(api: httpx.Client, connection: dict[str, Any], bucket: str, group: str, **more: Any) -> Any:
    account = connection["cloudflare"]["account_id"]
    resource = f"com.cloudflare.edge.r2.bucket.{account}_default_{bucket}"
    policy = {"effect": "allow", "permission_groups": [{"id": group}], "resources": {resource: "*"}}
    return result(api.post("/tokens", json={"name": "t", "policies": [policy], **more}))


def s3_of_token(connection: dict[str, Any], token: Any) -> Any:
    return s3_with(connection, token["id"], hashlib.sha256(token["value"].encode()).hexdigest())


def temporary(api: httpx.Client, connection: dict[str, Any], **changes: Any) -> httpx.Response:
    body = {
        "bucket": "mine",
        "parentAccessKeyId": connection["s3"]["access_key_id"],
        "permission": "object-read-write",
        "ttlSeconds": 600,
    }
    return api.post("/r2/temp-access-credentials", json=body | changes)


def s3_of_temporary(connection: dict[str, Any], answer: httpx.Response) -> Any:
    made = result(answer)
    return s3_with(connection, made["accessKeyId"], made["secretAccessKey"], made["sessionToken"])


def test_create_read_and_delete_a_bucket(api: httpx.Client, owner: Any) -> None:
    made = result(api.post("/r2/buckets", json={"name": "made-here", "locationHint": "weur"}))
    assert made["name"] == "made-here"
    assert set(made) == {"name", "creation_date", "location", "storage_class", "jurisdiction"}
    assert result(api.post("/r2/buckets", json={"name": "made-here"}), 409) == 10004
    assert result(api.get("/r2/buckets/made-here")) == made
    assert made in result(api.get("/r2/buckets"))["buckets"]
    owner.put_object(Bucket="made-here", Key="k", Body=b"1")
    assert result(api.delete("/r2/buckets/made-here"), 409) == 10008
    owner.delete_object(Bucket="made-here", Key="k")
    result(api.delete("/r2/buckets/made-here"))
    assert result(api.get("/r2/buckets/made-here"), 404) == 10006
    assert code_of(lambda: owner.head_bucket(Bucket="made-here")) == "404"


@pytest.mark.parametrize("name", ["Upper", "a", "dots.are.none", "-x-", None])
def test_invalid_bucket_names_are_refused(api: httpx.Client, name: Any) -> None:
    assert result(api.post("/r2/buckets", json={"name": name}), 400) == 10005


def test_a_wrong_token_or_account_is_refused(connection: dict[str, Any], api: httpx.Client) -> None:
    assert result(api.get("/r2/buckets", headers={"Authorization": "Bearer no"}), 403) == 10000
    base = connection["cloudflare"]["url"]
    assert result(api.get(f"{base}/accounts/else/r2/buckets"), 403) == 10000


@pytest.mark.parametrize("query", ["per_page=51", "per_page=4", "per_page=x", "page=0"])
def test_a_list_of_tokens_has_5_to_50_on_a_page(api: httpx.Client, query: str) -> None:
    assert result(api.get(f"/tokens?{query}"), 400) == 1001


def test_a_token_is_valid_for_its_bucket_only(
    connection: dict[str, Any], api: httpx.Client, owner: Any
) -> None:
    token = make_token(api, connection, "mine", ITEM_WRITE)
    s3 = s3_of_token(connection, token)
    s3.put_object(Bucket="mine", Key="token/k", Body=b"1")
    assert s3.get_object(Bucket="mine", Key="token/k")["Body"].read() == b"1"
    assert s3.list_objects_v2(Bucket="mine", Prefix="token/")["KeyCount"] == 1
    s3.delete_objects(Bucket="mine", Delete={"Objects": [{"Key": "token/k"}]})
    refused = {
        "get": lambda: s3.get_object(Bucket="other", Key="secret"),
        "put": lambda: s3.put_object(Bucket="other", Key="k", Body=b"1"),
        "list": lambda: s3.list_objects_v2(Bucket="other"),
        "copy": lambda: s3.copy_object(
            Bucket="mine", Key="k", CopySource={"Bucket": "other", "Key": "secret"}
        ),
        "delete": lambda: s3.delete_objects(Bucket="other", Delete={"Objects": [{"Key": "secret"}]}),
        "make a bucket": lambda: s3.create_bucket(Bucket="third"),
        "delete a bucket": lambda: s3.delete_bucket(Bucket="mine"),
        "list buckets": lambda: s3.list_buckets(),
    }
    assert {what: code_of(call) for what, call in refused.items()} == dict.fromkeys(refused, "AccessDenied")
    assert owner.get_object(Bucket="other", Key="secret")["Body"].read() == b"x"
    shown = result(api.get(f"/tokens/{token['id']}"))
    assert "value" not in shown
    assert shown["status"] == "active"
    result(api.delete(f"/tokens/{token['id']}"))
    assert code_of(lambda: s3.head_object(Bucket="mine", Key="datasets/1")) == "403"
    assert result(api.get(f"/tokens/{token['id']}"), 404) == 1003


def test_a_read_only_token_cannot_write(connection: dict[str, Any], api: httpx.Client, owner: Any) -> None:
    s3 = s3_of_token(connection, make_token(api, connection, "mine", ITEM_READ))
    assert s3.get_object(Bucket="mine", Key="datasets/1")["Body"].read() == b"x"
    assert code_of(lambda: s3.put_object(Bucket="mine", Key="k", Body=b"1")) == "AccessDenied"
    assert code_of(lambda: s3.delete_object(Bucket="mine", Key="datasets/1")) == "AccessDenied"
    assert owner.head_object(Bucket="mine", Key="datasets/1")


def test_temporary_credentials_are_limited_to_their_prefixes(
    connection: dict[str, Any], api: httpx.Client, owner: Any
) -> None:
    s3 = s3_of_temporary(connection, temporary(api, connection, prefixes=["runs/a/", "datasets/"]))
    s3.put_object(Bucket="mine", Key="runs/a/2", Body=b"2")
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="mine", Prefix="runs/a/")["Contents"]]
    assert keys == ["runs/a/1", "runs/a/2"]
    both = {"Objects": [{"Key": "runs/a/2"}, {"Key": "runs/b/1"}]}
    refused = {
        "another prefix": lambda: s3.get_object(Bucket="mine", Key="runs/b/1"),
        "its parent": lambda: s3.list_objects_v2(Bucket="mine", Prefix="runs/"),
        "everything": lambda: s3.list_objects_v2(Bucket="mine"),
        "another bucket": lambda: s3.get_object(Bucket="other", Key="secret"),
        "copied out": lambda: s3.copy_object(
            Bucket="mine", Key="runs/a/3", CopySource={"Bucket": "mine", "Key": "runs/b/1"}
        ),
        "deleted beside": lambda: s3.delete_objects(Bucket="mine", Delete=both),
    }
    assert {what: code_of(call) for what, call in refused.items()} == dict.fromkeys(refused, "AccessDenied")
    assert owner.head_object(Bucket="mine", Key="runs/a/2")


def test_temporary_credentials_expire(connection: dict[str, Any], api: httpx.Client, owner: Any) -> None:
    assert owner
    s3 = s3_of_temporary(connection, temporary(api, connection, ttlSeconds=1))
    wait_until(lambda: code_of(lambda: s3.get_object(Bucket="mine", Key="datasets/1")) == "ExpiredToken")


def test_the_session_token_must_belong_to_the_key(
    connection: dict[str, Any], api: httpx.Client, owner: Any
) -> None:
    assert owner
    made = result(temporary(api, connection))

    def get(session_token: str | None) -> str:
        s3 = s3_with(connection, made["accessKeyId"], made["secretAccessKey"], session_token)
        return code_of(lambda: s3.get_object(Bucket="mine", Key="datasets/1"))

    assert get(made["sessionToken"]) == "ok"
    assert get("another") == "InvalidToken"
    assert get(None) == "InvalidAccessKeyId"


def test_temporary_credentials_end_with_their_token(
    connection: dict[str, Any], api: httpx.Client, owner: Any
) -> None:
    assert owner
    token = make_token(api, connection, "mine", ITEM_READ)
    asked = {"parentAccessKeyId": token["id"], "permission": "object-read-only"}
    s3 = s3_of_temporary(connection, temporary(api, connection, **asked))
    assert s3.get_object(Bucket="mine", Key="datasets/1")["Body"].read() == b"x"
    more = {"permission": "object-read-write"}, {"bucket": "other"}, {"parentAccessKeyId": "unknown"}
    for beyond in more:
        assert result(temporary(api, connection, **(asked | beyond)), 403) == 10003
    result(api.delete(f"/tokens/{token['id']}"))
    assert code_of(lambda: s3.get_object(Bucket="mine", Key="datasets/1")) == "InvalidAccessKeyId"


@pytest.mark.parametrize(
    "wrong",
    [{"ttlSeconds": 604801}, {"ttlSeconds": 0}, {"permission": "all"}, {"bucket": None}, {"prefixes": [1]}],
)
def test_invalid_temporary_credentials_are_refused(
    connection: dict[str, Any], api: httpx.Client, wrong: dict[str, Any]
) -> None:
    result(temporary(api, connection, **wrong), 400)
