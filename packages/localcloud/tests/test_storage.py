"""Object storage through boto3, and its recovery after a kill."""

import asyncio
import hashlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from localcloud.storage.listing import page_of
from localcloud.storage.objects import ObjectStorage
from localcloud.storage.refusals import TooManyRequestsError, WriteRate
from localcloud.testing import (
    is_alive,
    logged_requests,
    run_localcloud,
    running_cloud,
    s3_client,
    start_cloud,
    wait_until,
    write_settings,
)

MIB = 1024 * 1024
# Without the limit on writes, because many tests write one key repeatedly.
CLOUD_SETTINGS = {"key_write_seconds": 0}


@pytest.fixture(scope="module")
def s3(connection: dict[str, Any]) -> Any:
    return s3_client(connection)


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    name = f"bucket-{abs(hash(request.node.name))}"
    s3.create_bucket(Bucket=name)
    return name


def refused(call: Any, **arguments: Any) -> tuple[int, str]:
    """The HTTP status and the S3 error code of a refused call."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_an_object_comes_back_as_it_was_put(s3: Any, bucket: str) -> None:
    body = os.urandom(3000)
    put = s3.put_object(
        Bucket=bucket, Key="a/b c+é.jpg", Body=body, Metadata={"m": "1"}, ContentType="image/jpeg"
    )
    assert put["ETag"] == f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
    got = s3.get_object(Bucket=bucket, Key="a/b c+é.jpg")
    assert got["Body"].read() == body
    assert (got["ETag"], got["ContentType"], got["Metadata"]) == (put["ETag"], "image/jpeg", {"m": "1"})
    head = s3.head_object(Bucket=bucket, Key="a/b c+é.jpg")
    assert (head["ContentLength"], head["ETag"]) == (3000, put["ETag"])


@pytest.mark.parametrize("key", ["50%20off.jpg", "%41/%2F", 'a"b', "a#b?c=d&e", "a\\b", "100%"])
def test_a_key_may_contain_what_addresses_encode(s3: Any, bucket: str, key: str) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=b"1")
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"1"
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert [entry["Key"] for entry in listed] == [key]


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=90-", 90, 99),
        ("bytes=90-900", 90, 99),
        ("bytes=-7", 93, 99),
        ("bytes=-900", 0, 99),
    ],
)
def test_ranges(s3: Any, bucket: str, asked: str, first: int, last: int) -> None:
    body = bytes(range(100))
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    got = s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert got["ContentRange"] == f"bytes {first}-{last}/100"
    assert got["Body"].read() == body[first : last + 1]


def test_errors_for_missing_and_existing_objects_and_buckets(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"12345")
    assert refused(s3.get_object, Bucket=bucket, Key="k", Range="bytes=5-6") == (416, "InvalidRange")
    assert refused(s3.get_object, Bucket=bucket, Key="none") == (404, "NoSuchKey")
    assert refused(s3.get_object, Bucket="no-such-bucket", Key="k") == (404, "NoSuchBucket")
    assert refused(s3.head_object, Bucket=bucket, Key="none")[0] == 404
    assert refused(s3.create_bucket, Bucket=bucket) == (409, "BucketAlreadyOwnedByYou")
    assert refused(s3.delete_bucket, Bucket=bucket) == (409, "BucketNotEmpty")


def test_put_with_if_none_match_creates_but_never_replaces(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="claim", Body=b"first", IfNoneMatch="*")
    again = {"Bucket": bucket, "Key": "claim", "Body": b"second", "IfNoneMatch": "*"}
    assert refused(s3.put_object, **again) == (412, "PreconditionFailed")
    # The refused body was never sent; the connection must still be usable.
    assert s3.get_object(Bucket=bucket, Key="claim")["Body"].read() == b"first"
    s3.delete_object(Bucket=bucket, Key="claim")
    s3.put_object(**again)


def test_put_with_if_match_replaces_only_that_version(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    changed = s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=etag)["ETag"]
    stale = {"Bucket": bucket, "Key": "k", "Body": b"3", "IfMatch": etag}
    assert refused(s3.put_object, **stale) == (412, "PreconditionFailed")
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"] == changed
    missing = {"Bucket": bucket, "Key": "none", "Body": b"3", "IfMatch": etag}
    assert refused(s3.put_object, **missing) == (404, "NoSuchKey")


@pytest.mark.parametrize("size", [10, 2 * MIB])
def test_exactly_one_of_16_concurrent_puts_creates_the_object(s3: Any, bucket: str, size: int) -> None:
    def claim(number: int) -> bool:
        try:
            s3.put_object(Bucket=bucket, Key="claim", Body=bytes([number]) * size, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":
                raise
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(claim, range(16)))
    assert sum(won) == 1
    body = s3.get_object(Bucket=bucket, Key="claim")["Body"].read()
    assert body == bytes([won.index(True)]) * size


@pytest.mark.parametrize("delimiter", ["", "/"])
@pytest.mark.parametrize("page_size", [1, 2, 3, 1000])
def test_listing_is_complete_and_ordered_page_by_page(
    s3: Any, bucket: str, delimiter: str, page_size: int
) -> None:
    keys = ["a-b", "a/1", "a/2", "a/c/3", "a0", "b", "p/x", "p/y", "ü"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Delimiter=delimiter, PaginationConfig={"PageSize": page_size}
    )
    found, prefixes = [], []
    for page in pages:
        assert page["KeyCount"] <= page_size
        found += [entry["Key"] for entry in page.get("Contents", [])]
        prefixes += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
    if delimiter:
        assert (found, prefixes) == (["a-b", "a0", "b", "ü"], ["a/", "p/"])
    else:
        assert (found, prefixes) == (sorted(keys, key=str.encode), [])
    below = s3.list_objects_v2(Bucket=bucket, Prefix="a/", Delimiter="/")
    assert [entry["Key"] for entry in below["Contents"]] == ["a/1", "a/2"]
    assert [entry["Prefix"] for entry in below["CommonPrefixes"]] == ["a/c/"]
    after = s3.list_objects_v2(Bucket=bucket, StartAfter="a/2")
    assert after["Contents"][0]["Key"] == "a/c/3"


@given(
    st.sets(st.text("ab/-.", min_size=1, max_size=6)),
    st.sampled_from(["", "a", "a/"]),
    st.sampled_from([None, "/"]),
)
def test_pages_together_list_the_same_as_one_large_page(
    keys: set[str], prefix: str, delimiter: str | None
) -> None:
    ordered = sorted((key for key in keys if key.startswith(prefix)), key=str.encode)
    whole = page_of(ordered, prefix, delimiter, 1000, None, None)
    got, token = [], None
    for _ in range(2 * len(keys) + 1):
        page = page_of(ordered, prefix, delimiter, 1, token, None)
        got += page.keys + page.prefixes
        token = page.token
        if token is None:
            break
    assert got == sorted(whole.keys + whole.prefixes, key=str.encode)


TAGS = {"TagSet": [{"Key": "a", "Value": "b"}]}
POLICY = {"Policy": "{}"}
VERSIONS = {"VersioningConfiguration": {"Status": "Enabled"}}


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("put_object_tagging", {"Key": "k", "Tagging": TAGS}),
        ("get_object_tagging", {"Key": "k"}),
        ("delete_object_tagging", {"Key": "k"}),
        ("put_object_acl", {"Key": "k", "ACL": "private"}),
        ("get_object_acl", {"Key": "k"}),
        ("put_object_retention", {"Key": "k", "Retention": {"Mode": "COMPLIANCE"}}),
        ("put_bucket_policy", POLICY),
        ("delete_bucket_policy", {}),
        ("put_bucket_versioning", VERSIONS),
        ("list_object_versions", {}),
        ("put_object", {"Key": "k", "Body": b"new", "Tagging": "a=b"}),
        ("put_object", {"Key": "k", "Body": b"new", "ACL": "public-read"}),
        ("put_object", {"Key": "k", "Body": b"new", "GrantRead": 'uri="x"'}),
        ("put_object", {"Key": "k", "Body": b"new", "ObjectLockLegalHoldStatus": "ON"}),
        ("create_multipart_upload", {"Key": "k", "Tagging": "a=b"}),
    ],
)
def test_features_that_r2_lacks_are_refused_and_change_nothing(
    s3: Any, bucket: str, operation: str, arguments: dict[str, Any]
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    assert refused(getattr(s3, operation), Bucket=bucket, **arguments) == (501, "NotImplemented")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"


def test_setting_a_policy_does_not_create_a_bucket(s3: Any) -> None:
    assert refused(s3.put_bucket_policy, Bucket="made-by-a-policy", **POLICY) == (501, "NotImplemented")
    assert refused(s3.head_bucket, Bucket="made-by-a-policy")[0] == 404


def test_the_default_acl_is_accepted(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", ACL="private")


def test_upload_part_copy_is_refused(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="from", Body=b"1")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="to")["UploadId"]
    source = {"Bucket": bucket, "Key": "from"}
    part = {"Bucket": bucket, "Key": "to", "PartNumber": 1, "UploadId": upload, "CopySource": source}
    assert refused(s3.upload_part_copy, **part) == (501, "NotImplemented")


def test_copies_and_deletions(s3: Any, bucket: str) -> None:
    body = os.urandom(2 * MIB)
    etag = s3.put_object(Bucket=bucket, Key="from/x y", Body=body, Metadata={"m": "1"})["ETag"]
    copied = s3.copy_object(Bucket=bucket, Key="to/x", CopySource={"Bucket": bucket, "Key": "from/x y"})
    assert copied["CopyObjectResult"]["ETag"] == etag
    assert s3.get_object(Bucket=bucket, Key="to/x")["Body"].read() == body
    wanted = [{"Key": key} for key in ("from/x y", "to/x", "was/never/there")]
    done = s3.delete_objects(Bucket=bucket, Delete={"Objects": wanted})
    assert (len(done["Deleted"]), done.get("Errors")) == (3, None)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    s3.delete_bucket(Bucket=bucket)


def test_a_large_file_is_uploaded_and_downloaded_in_parts(s3: Any, bucket: str, tmp_path: Path) -> None:
    source, target = tmp_path / "up.bin", tmp_path / "down.bin"
    source.write_bytes(os.urandom(17 * MIB + 3))
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.upload_file(str(source), bucket, "big.bin", Config=config)
    assert s3.head_object(Bucket=bucket, Key="big.bin")["ETag"].endswith('-4"')
    s3.download_file(bucket, "big.bin", str(target), Config=config)
    assert target.read_bytes() == source.read_bytes()


def complete(s3: Any, bucket: str, sizes: list[int]) -> str:
    """Upload parts of these sizes; return the ETag of the object."""
    place = {"Bucket": bucket, "Key": "parts", "UploadId": ""}
    place["UploadId"] = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    parts = []
    for number, size in enumerate(sizes, 1):
        tag = s3.upload_part(**place, PartNumber=number, Body=bytes(size))["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    etag: str = s3.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})["ETag"]
    return etag


@pytest.mark.parametrize(
    ("sizes", "code"),
    [
        ([6 * MIB, 5 * MIB, 7], "InvalidPart"),
        ([5 * MIB, 5 * MIB + 1], "InvalidPart"),
        ([100, 100], "EntityTooSmall"),
        ([5 * MIB - 1, 5 * MIB - 1, 1], "EntityTooSmall"),
    ],
    ids=["of two sizes", "a bigger last one", "tiny", "a byte too small"],
)
def test_parts_that_r2_refuses(s3: Any, bucket: str, sizes: list[int], code: str) -> None:
    assert refused(complete, s3=s3, bucket=bucket, sizes=sizes) == (400, code)
    assert refused(s3.head_object, Bucket=bucket, Key="parts")[0] == 404


@pytest.mark.parametrize("sizes", [[3], [5 * MIB, 5 * MIB], [5 * MIB, 1]])
def test_parts_that_r2_accepts(s3: Any, bucket: str, sizes: list[int]) -> None:
    assert complete(s3, bucket, sizes).endswith(f'-{len(sizes)}"')


def test_readers_never_get_a_mixture_while_an_object_is_replaced(s3: Any, bucket: str) -> None:
    bodies = [bytes([number]) * (1000 + 700 * number) for number in range(8)]
    s3.put_object(Bucket=bucket, Key="progress.json", Body=bodies[0])

    def write(number: int) -> None:
        s3.put_object(Bucket=bucket, Key="progress.json", Body=bodies[number % 8])

    def read(_: int) -> bytes:
        body: bytes = s3.get_object(Bucket=bucket, Key="progress.json")["Body"].read()
        return body

    with ThreadPoolExecutor(8) as pool:
        written = pool.map(write, range(60))
        seen = list(pool.map(read, range(120)))
        list(written)
    assert set(seen) <= set(bodies)


def test_wrong_keys_are_refused_and_no_signature_is_logged(
    connection: dict[str, Any], s3: Any, bucket: str
) -> None:
    wrong = {**connection, "s3": {**connection["s3"], "secret_access_key": "wrong"}}
    assert refused(s3_client(wrong).list_objects_v2, Bucket=bucket) == (403, "SignatureDoesNotMatch")
    s3.put_object(Bucket=bucket, Key="k", Body=b"12345")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert httpx.get(url).content == b"12345"
    log = Path(connection["request_log"]).read_text()
    assert "Signature" not in log
    puts = [
        one for one in logged_requests(connection) if (one["method"], one["path"]) == ("PUT", f"/{bucket}/k")
    ]
    assert [(one["service"], one["status"], one["bytes_in"]) for one in puts] == [("s3", 200, 5)]


def test_objects_are_stored_as_files(connection: dict[str, Any], s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="runs/cat/x.txt", Body=b"hello")
    home = Path(connection["request_log"]).parent
    assert (home / "s3" / bucket / "runs" / "cat" / "x.txt").read_bytes() == b"hello"


def test_an_upload_interrupted_by_a_kill_is_discarded(tmp_path: Path) -> None:
    home = tmp_path / "cloud"
    write_settings(home, nodes=0)
    connection = start_cloud(home)
    s3 = s3_client(connection)
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="whole", Body=b"whole")
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "new/half"})
    parts = httpx.URL(url)
    with socket.create_connection((parts.host, parts.port)) as upload:
        head = f"PUT {parts.raw_path.decode()} HTTP/1.1\r\nHost: {parts.host}:{parts.port}\r\nContent-Length: {4 * MIB}\r\n\r\n"
        upload.sendall(head.encode() + b"x" * 2 * MIB)
        wait_until(lambda: list((home / "s3" / ".nanio").glob(".tmp.*")))
        os.kill(connection["pid"], signal.SIGKILL)
        wait_until(lambda: not is_alive(connection["pid"]))
    s3 = s3_client(start_cloud(home))
    try:
        assert [one["Key"] for one in s3.list_objects_v2(Bucket="bucket")["Contents"]] == ["whole"]
        assert s3.get_object(Bucket="bucket", Key="whole")["Body"].read() == b"whole"
        assert not list((home / "s3" / ".nanio").glob(".tmp.*"))
        s3.delete_object(Bucket="bucket", Key="whole")
        s3.delete_bucket(Bucket="bucket")
    finally:
        run_localcloud(home, "stop")


def test_metadata_older_than_its_object_is_rebuilt(tmp_path: Path) -> None:
    """As after a kill between the rename of an object and the writing of its metadata."""

    async def body(content: bytes) -> AsyncIterator[bytes]:
        yield content

    storage = ObjectStorage(tmp_path)
    storage.create_bucket("bucket")
    asyncio.run(storage.put_object("bucket", "k", body(b"old")))
    (tmp_path / "bucket" / "k").write_bytes(b"newer")
    (tmp_path / "bucket" / ".nanio-meta" / "k.json.tmp").write_text("half")
    storage.recover()
    info = storage.head_object("bucket", "k")
    assert (info.size, info.etag) == (5, f'"{hashlib.md5(b"newer", usedforsecurity=False).hexdigest()}"')
    asyncio.run(storage.put_object("bucket", "k", body(b"newest")))
    assert storage.head_object("bucket", "k").size == 6


def test_a_key_accepts_one_write_of_any_kind_in_a_second(tmp_path: Path) -> None:
    """R2's limit is the default."""
    with running_cloud(tmp_path / "cloud", nodes=0) as connection:
        s3 = s3_client(connection, attempts=1)
        s3.create_bucket(Bucket="bucket")
        source = {"Bucket": "bucket", "Key": "other"}
        upload = s3.create_multipart_upload(Bucket="bucket", Key="key")["UploadId"]
        part = {"Bucket": "bucket", "Key": "key", "UploadId": upload}
        tag = s3.upload_part(**part, PartNumber=1, Body=b"in parts")["ETag"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
        s3.put_object(Bucket="bucket", Key="other", Body=b"another key")

        def write(body: bytes = b"", **more: Any) -> None:
            s3.put_object(Bucket="bucket", Key="key", Body=body, **more)

        write(b"first")
        too_many = (429, "TooManyRequests")
        assert refused(write, body=b"second") == too_many
        assert refused(s3.copy_object, Bucket="bucket", Key="key", CopySource=source) == too_many
        assert refused(s3.complete_multipart_upload, **part, MultipartUpload=parts) == too_many
        assert refused(write, IfNoneMatch="*") == (412, "PreconditionFailed")
        assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == b"first"
        time.sleep(1)
        s3.complete_multipart_upload(**part, MultipartUpload=parts)
        assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == b"in parts"
        assert refused(write) == too_many
        s3.delete_object(Bucket="bucket", Key="key")  # no write


def test_the_write_rate_is_per_key_and_refused_writes_do_not_count() -> None:
    now = [100.0]
    rate = WriteRate(1.0, lambda: now[0])
    rate.count_write("a", "k")
    rate.count_write("a", "other")
    rate.count_write("b", "k")
    for now[0] in (100.5, 100.99):
        with pytest.raises(TooManyRequestsError):
            rate.count_write("a", "k")
    now[0] = 101.0
    rate.count_write("a", "k")
    with pytest.raises(TooManyRequestsError):
        rate.count_write("a", "k")
