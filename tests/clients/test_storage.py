"""The storage client with lost answers, broken bodies and wrong keys. With a working storage: test_with_storage.py."""

import base64
import hashlib
from pathlib import Path

import pytest
from pydantic import SecretStr

from flux_training.clients import storage as storage_module
from flux_training.clients.errors import Conflict, Invalid, NotFound, ServiceError, Unauthorized, Unavailable
from flux_training.clients.storage import Folders, Storage
from tests.support.s3_server import Reply, Server

SECRET = "canary-s3-secret-0d2b"
KEY_ID = "canary-s3-id-a9c4"
TOKEN = "canary-s3-token-44f1"


def storage(url: str | None, retries: int = 2, bucket: str = "bucket") -> Storage:
    return Storage(url, "auto", KEY_ID, SecretStr(SECRET), SecretStr(TOKEN), bucket, retries=retries)


def refusal(code: str, message: str = "no") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def claim(server: Server, there: bytes, *, lost: bool) -> Storage:
    """A storage whose PUT is answered 412, at first (if `lost`) not at all, and that holds `there`."""
    puts = []

    def reply(method: str, _path: str, _body: bytes) -> Reply:
        if method != "PUT":
            return 200, there
        puts.append(1)
        return None if lost and len(puts) == 1 else (412, refusal("PreconditionFailed"))

    server.reply = reply
    return storage(server.url)


def test_a_claim_whose_answer_was_lost_is_still_won(server: Server) -> None:
    etag = claim(server, b"mine", lost=True).put_bytes("claim.json", b"mine", if_none_match=True)
    assert etag == hashlib.md5(b"mine", usedforsecurity=False).hexdigest()


def test_a_claim_of_another_writer_is_a_conflict(server: Server) -> None:
    with pytest.raises(Conflict):
        claim(server, b"another's", lost=True).put_bytes("claim.json", b"mine", if_none_match=True)
    with pytest.raises(Conflict):
        claim(server, b"mine", lost=False).put_bytes("claim.json", b"mine", if_none_match=True)


@pytest.mark.parametrize(
    ("code", "ours"), [("BucketAlreadyOwnedByYou", True), ("BucketAlreadyExists", False)]
)
def test_a_bucket_created_meanwhile_is_accepted(server: Server, code: str, ours: bool) -> None:
    server.reply = lambda method, _path, _body: (404, b"") if method == "HEAD" else (409, refusal(code))
    if ours:
        assert storage(server.url).ensure() is False
    else:
        with pytest.raises(Conflict):
            storage(server.url).ensure()


@pytest.mark.parametrize("lost", [True, False])
def test_a_bucket_whose_answer_was_lost_is_created(server: Server, lost: bool) -> None:
    made = claim(server, b"", lost=lost)
    refused = server.reply

    def reply(method: str, path: str, body: bytes) -> Reply:
        return None if refused(method, path, body) is None else (409, refusal("BucketAlreadyOwnedByYou"))

    server.reply = reply
    if lost:
        made.create_bucket()
    else:
        with pytest.raises(Conflict):
            made.create_bucket()


def test_conditions_are_sent_as_headers(server: Server) -> None:
    made = storage(server.url)
    made.put_bytes("a", b"1", if_none_match=True)
    made.put_bytes("a", b"1", if_match="abc")
    made.put_bytes("a", b"1", if_match='"abc"')
    assert [h.get("If-None-Match") for h in server.headers] == ["*", None, None]
    assert [h.get("If-Match") for h in server.headers] == [None, '"abc"', '"abc"']
    assert all("Expect" not in headers for headers in server.headers)
    assert all(headers["Content-MD5"] for headers in server.headers)


def test_no_request_has_a_checksum_that_only_aws_knows(server: Server) -> None:
    """amd/gaia#3029, f2face/cloudflare-r2#12 (R2), io7m-com/exfilac#35 (Backblaze), CERT-Polska/karton#289 (deletions)"""
    made = storage(server.url)
    made.put_bytes("a", b"1")
    server.reply = lambda *_: (200, b"<DeleteResult/>")
    made.delete_many(["a", "b"])
    assert len(server.headers) == 2
    names = {name.lower() for headers in server.headers for name in headers}
    assert not [name for name in names if "checksum" in name or name == "x-amz-trailer"]
    assert "aws-chunked" not in str(server.headers)
    md5 = base64.b64encode(hashlib.md5(server.bodies[-1], usedforsecurity=False).digest()).decode()
    assert server.headers[-1]["Content-MD5"] == md5


def test_a_body_that_breaks_off_is_fetched_again(server: Server) -> None:
    replies: list[Reply] = [(200, b"ha", 4)]
    server.reply = lambda *_: replies.pop() if replies else (200, b"half")
    assert storage(server.url).get_bytes("a") == b"half"
    assert replies == []


def test_an_incomplete_download_leaves_no_file(server: Server, tmp_path: Path) -> None:
    server.reply = lambda *_: (200, b"ha", 4)
    with pytest.raises(Unavailable):
        storage(server.url).download("a", tmp_path / "new" / "a")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_wrong_download_keeps_the_old_file(server: Server, tmp_path: Path) -> None:
    server.reply = lambda *_: (200, b"other bytes")
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ServiceError, match="is not what was written there"):
        storage(server.url).download("a", tmp_path / "a", sha256="0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_an_object_that_grew_since_it_was_listed_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    server.reply = lambda *_: (200, b"x" * 1000)
    with pytest.raises(ServiceError, match="changed: it had 4 bytes when it was listed and has 1000"):
        storage(server.url).download("a", tmp_path / "a", size=4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("names", "pages"), [("abc", 1), ("", 3)], ids=["folders", "other objects"])
def test_folders_beyond_the_limit_are_not_read(
    server: Server, monkeypatch: pytest.MonkeyPatch, names: str, pages: int
) -> None:
    """A node can put any number of folders, and of objects beside them."""
    monkeypatch.setattr(storage_module, "MAX_FOLDERS", 2)
    monkeypatch.setattr(storage_module, "MAX_FOLDER_PAGES", 3)
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    folders = "".join(f"<CommonPrefixes><Prefix>x/{name}/</Prefix></CommonPrefixes>" for name in names)
    server.reply = lambda *_: (200, f"<ListBucketResult>{folders}{more}</ListBucketResult>".encode())
    assert storage(server.url).list_folders("x/") == Folders([*names[:2]], is_cut=True)
    assert len(server.seen) == pages


def test_a_key_that_xml_cannot_hold_is_deleted_alone(server: Server) -> None:
    server.reply = lambda method, *_: (204, b"") if method == "DELETE" else (200, b"<DeleteResult/>")
    storage(server.url).delete_many(["a", "b\x01", "c"])
    assert sorted(method for method, _ in server.seen) == ["DELETE", "POST"]
    assert [path for method, path in server.seen if method == "DELETE"] == ["/bucket/b%01"]
    assert [body.count(b"<Key>") for body in server.bodies if body] == [2]


def test_all_pages_of_a_listing_are_read(server: Server) -> None:
    def page(key: str, more: str) -> bytes:
        item = f'<Contents><Key>{key}</Key><Size>3</Size><ETag>"e"</ETag></Contents>'
        return f"<ListBucketResult>{item}{more}</ListBucketResult>".encode()

    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t/1</NextContinuationToken>"

    def reply(_method: str, path: str, _body: bytes) -> Reply:
        return 200, page("b", "") if "continuation-token=t%2F1" in path else page("a", more)

    server.reply = reply
    assert [item.key for item in storage(server.url).list("x/")] == ["a", "b"]


def test_keys_are_deleted_in_batches_and_failures_are_reported(server: Server) -> None:
    server.reply = lambda *_: (200, b"<DeleteResult/>")
    storage(server.url).delete_many([f"k{number}" for number in range(2001)])
    assert len(server.seen) == 3
    error = b"<Error><Key>k&#10;1</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    server.reply = lambda *_: (200, b"<DeleteResult>" + error + b"</DeleteResult>")
    with pytest.raises(ServiceError, match=r"1 objects .* not deleted; k 1: AccessDenied"):
        storage(server.url).delete_many(["k1", "k2"])


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "InvalidAccessKeyId", Unauthorized),
        (403, "SignatureDoesNotMatch", Unauthorized),
        (400, "ExpiredToken", Unauthorized),
        (403, "AccessDenied", Unauthorized),
        (404, "NoSuchBucket", NotFound),
        (409, "ConditionalRequestConflict", Conflict),
        (400, "EntityTooLarge", Invalid),
        (503, "SlowDown", Unavailable),
    ],
)
def test_refusals_become_typed_errors_without_secrets(
    server: Server, status: int, code: str, kind: type[ServiceError]
) -> None:
    echo = f"key {KEY_ID} signed with {SECRET} and {TOKEN}"
    server.reply = lambda *_: (status, refusal(code, echo))
    made = storage(server.url, retries=0)
    with pytest.raises(kind) as caught:
        made.put_bytes("k", b"data")
    assert type(caught.value) is kind
    for text in (str(caught.value), repr(caught.value), repr(made)):
        assert not any(canary in text for canary in (SECRET, KEY_ID, TOKEN))
    assert str(server.server_address[1]) in str(caught.value)


def test_a_missing_bucket_is_not_a_missing_object(server: Server) -> None:
    server.reply = lambda *_: (404, refusal("NoSuchKey"))
    assert storage(server.url).get_bytes("k") is None
    server.reply = lambda *_: (404, refusal("NoSuchBucket"))
    with pytest.raises(NotFound, match="there is no bucket"):
        storage(server.url).get_bytes("k")


def test_an_unreachable_endpoint_is_reported_with_a_fix() -> None:
    made = Storage(
        "http://127.0.0.1:1", "auto", KEY_ID, SecretStr(SECRET), None, "b-1", if_down="start it", retries=0
    )
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 .*start it"):
        made.head("k")


def test_an_invalid_bucket_name_is_reported(server: Server) -> None:
    with pytest.raises(Invalid, match="Bad_Bucket!"):
        storage(server.url, bucket="Bad_Bucket!").exists()


def test_the_users_aws_settings_and_proxies_are_ignored(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = virtual\n")
    for name, value in {
        "AWS_PROFILE": "nobody",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "another",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    assert storage(server.url).get_bytes("k") == b""
    assert server.seen == [("GET", "/bucket/k")]
    assert KEY_ID in server.headers[0]["Authorization"]


def test_aws_itself_needs_no_endpoint() -> None:
    made = Storage(None, "eu-west-1", KEY_ID, SecretStr(SECRET), None, "bucket")
    assert "s3.amazonaws.com" in repr(made)
    assert made._client().meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "InvalidObjectState"), (400, "InvalidRequest"), (403, "ObjectNotInActiveTierError")],
)
def test_an_object_that_its_writer_made_unreadable_is_empty(server: Server, status: int, code: str) -> None:
    """Archived, or encrypted with a key of its writer's own: a node can do both to any object that it may write."""
    server.reply = lambda *_: (status, refusal(code))
    assert storage(server.url).get_range("runs/a/b/output/progress.json", 0, 10) == b""
    assert storage(server.url).copy_many([("a", "b")]) == [("a", "b")]
