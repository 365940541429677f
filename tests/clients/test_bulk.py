"""Transfers of many objects: what is sent, how often, and which errors are raised. Requests are counted, never time."""

import errno
import hashlib
import io
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import SecretStr

from flux_training.clients import bulk
from flux_training.clients.bulk import FileToUpload, ObjectToDownload
from flux_training.clients.errors import NotFound, ServiceError, Unauthorized, Unavailable
from flux_training.clients.storage import Storage
from flux_training.training.errors import BadInput
from tests.support.s3_server import Reply, Server

SECRET, KEY_ID, TOKEN = "canary-s3-secret-0d2b", "canary-s3-id-a9c4", "canary-s3-token-44f1"


def storage(server: Server, retries: int = 4) -> Storage:
    return Storage(server.url, "auto", KEY_ID, SecretStr(SECRET), SecretStr(TOKEN), "bucket", retries=retries)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "FIRST_WAIT", timedelta(milliseconds=10))


def files(folder: Path, count: int, size: int = 100) -> list[FileToUpload]:
    made = []
    for number in range(count):
        data = bytes([number % 256]) * size
        path = folder / f"{number:05}.jpg"
        path.write_bytes(data)
        made.append(FileToUpload(path, f"d/{path.name}", size, hashlib.sha256(data).hexdigest()))
    return made


def test_each_file_is_one_put_whose_signature_covers_its_hash(server: Server, tmp_path: Path) -> None:
    sent = files(tmp_path, 50)
    progress: Counter[str] = Counter()
    storage(server).send_files(sent, lambda count, size: progress.update(files=count, bytes=size))
    assert Counter(server.seen) == Counter(("PUT", f"/bucket/{file.key}") for file in sent)
    assert {h["x-amz-content-sha256"] for h in server.headers} == {file.sha256 for file in sent}
    assert all(
        hashlib.sha256(body).hexdigest() == headers["x-amz-content-sha256"]
        for body, headers in zip(server.bodies, server.headers, strict=True)
    )
    assert progress == {"files": 50, "bytes": 5000}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_storage_gets_every_file(server: Server, tmp_path: Path, status: int) -> None:
    lock, tries = threading.Lock(), Counter[str]()

    def reply(_method: str, path: str, _body: bytes) -> Reply:
        with lock:
            tries[path] += 1
            return (status, b"<Error><Code>SlowDown</Code></Error>") if tries[path] == 1 else (200, b"")

    server.reply = reply
    storage(server).send_files(files(tmp_path, 40))
    assert set(tries.values()) == {2}


def test_the_bytes_in_flight_are_limited(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_BYTES_IN_FLIGHT", 250)
    lock = threading.Lock()
    in_flight, most = 0, 0

    def reply(_method: str, _path: str, _body: bytes) -> Reply:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        time.sleep(0.01)
        with lock:
            in_flight -= 1
        return 200, b""

    server.reply = reply
    (tmp_path / "large").mkdir()
    storage(server).send_files([*files(tmp_path, 20), *files(tmp_path / "large", 1, size=1000)])
    assert most == 2
    assert len(server.seen) == 21


def test_a_failure_stops_the_transfers_that_have_not_begun(server: Server, tmp_path: Path) -> None:
    server.reply = lambda *_: (400, b"<Error><Code>EntityTooLarge</Code></Error>")
    with pytest.raises(ServiceError, match="EntityTooLarge"):
        storage(server).send_files(files(tmp_path, 1000))
    assert len(server.seen) < 500
    assert len(set(server.seen)) == len(server.seen)


def test_all_changed_files_are_named_and_none_of_them_is_sent(server: Server, tmp_path: Path) -> None:
    sent = files(tmp_path, 4)
    sent[1].path.write_bytes(b"x" * 100)
    sent[2].path.unlink()
    with pytest.raises(BadInput) as caught:
        storage(server).send_files(sent)
    assert len(caught.value.findings) == 2
    assert "00001.jpg has changed" in caught.value.findings[0]
    assert "00002.jpg cannot be read" in caught.value.findings[1]
    assert sorted(path for _, path in server.seen) == ["/bucket/d/00000.jpg", "/bucket/d/00003.jpg"]


def multipart(server: Server) -> None:
    """Answer like S3 to a multipart upload."""

    def reply(method: str, path: str, _body: bytes) -> Reply:
        if method == "POST" and path.endswith("?uploads="):
            return (
                200,
                b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>",
            )
        if method == "POST":
            return 200, b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
        return 200, b""

    server.reply = reply


def test_a_large_file_is_sent_in_parts_of_one_size(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PART_BYTES", 1000)
    multipart(server)
    data = os.urandom(3500)
    (tmp_path / "big").write_bytes(data)
    storage(server).send_files(
        [FileToUpload(tmp_path / "big", "big", 3500, hashlib.sha256(data).hexdigest())]
    )
    parts = {
        path.split("partNumber=")[1].split("&")[0]: body
        for (method, path), body in zip(server.seen, server.bodies, strict=True)
        if method == "PUT"
    }
    assert [len(parts[number]) for number in sorted(parts)] == [1000, 1000, 1000, 500]
    assert b"".join(parts[number] for number in sorted(parts)) == data


def test_the_parts_of_a_changed_file_are_removed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PART_BYTES", 1000)
    multipart(server)
    (tmp_path / "big").write_bytes(os.urandom(3500))
    with pytest.raises(BadInput, match="has changed"):
        storage(server).send_files([FileToUpload(tmp_path / "big", "big", 3500, "0" * 64)])
    assert not [1 for method, path in server.seen if method == "POST" and "uploadId" in path]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "SignatureDoesNotMatch", Unauthorized),
        (403, "InvalidAccessKeyId", Unauthorized),
        (404, "NoSuchBucket", NotFound),
        (500, "InternalError", Unavailable),
    ],
)
def test_refusals_become_typed_errors_without_secrets(
    server: Server, tmp_path: Path, status: int, code: str, kind: type[ServiceError]
) -> None:
    echo = f"<AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId><Message>{KEY_ID} {SECRET} {TOKEN}</Message>"
    server.reply = lambda *_: (status, f"<Error><Code>{code}</Code>{echo}</Error>".encode())
    made = storage(server, retries=0)
    for act in (
        lambda: made.send_files(files(tmp_path, 3)),
        lambda: made.fetch_files([ObjectToDownload("k", tmp_path / "k")]),
        lambda: made.copy_many([("a", "b"), ("c", "d")]),
    ):
        with pytest.raises(kind) as caught:
            act()
        text = str(caught.value) + repr(caught.value) + repr(caught.value.__cause__)
        assert not any(canary in text for canary in (SECRET, KEY_ID, TOKEN))
        assert str(server.server_address[1]) in text


def test_copies_whose_source_is_missing_are_returned(server: Server) -> None:
    def reply(_method: str, path: str, _body: bytes) -> Reply:
        if path.endswith("/gone"):
            return 404, b"<Error><Code>NoSuchKey</Code></Error>"
        return 200, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>"

    server.reply = reply
    assert storage(server).copy_many([("a", "there"), ("b", "gone")]) == [("b", "gone")]


def test_a_damaged_object_leaves_no_file(server: Server, tmp_path: Path) -> None:
    server.reply = lambda _method, path, _body: (200, path.encode())
    wanted = [ObjectToDownload(f"k{number}", tmp_path / f"{number}") for number in range(20)]
    storage(server).fetch_files(wanted)
    assert all(one.path.read_bytes() == f"/bucket/{one.key}".encode() for one in wanted)
    with pytest.raises(ServiceError, match="is not what was written there"):
        storage(server).fetch_files([ObjectToDownload("k1", tmp_path / "new", "0" * 64)])
    assert not (tmp_path / "new").exists()


def test_a_large_object_is_streamed_and_checked(server: Server, tmp_path: Path) -> None:
    body = os.urandom(3 * bulk.CHUNK_BYTES + 7)
    server.reply = lambda *_: (200, body)
    right, path = hashlib.sha256(body).hexdigest(), tmp_path / "deep/new"
    storage(server).fetch_files([ObjectToDownload("k", path, right)])
    assert path.read_bytes() == body
    with pytest.raises(ServiceError, match="is not what was written there"):
        storage(server).fetch_files([ObjectToDownload("k", path, "0" * 64)])
    assert path.read_bytes() == body
    assert [one.name for one in path.parent.iterdir()] == ["new"]


class Cutting(BaseHTTPRequestHandler):
    """Sends half of what is left of BODY, then closes the connection; from the third request on, all of it."""

    BODY = os.urandom(1_000_000)
    ranges: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        given = self.headers.get("Range", "")
        self.ranges.append(given)
        start = int(given.removeprefix("bytes=").partition("-")[0] or 0)
        left = self.BODY[start:]
        self.send_response(206 if given else 200)
        self.send_header("Content-Length", str(len(left)))
        self.send_header("Content-Range", f"bytes {start}-{len(self.BODY) - 1}/{len(self.BODY)}")
        self.send_header("ETag", '"same"')
        self.end_headers()
        self.wfile.write(left if len(self.ranges) > 2 else left[: len(left) // 2])

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def test_a_download_that_breaks_off_is_resumed(server: Server, tmp_path: Path) -> None:
    server.RequestHandlerClass = Cutting
    storage(server).download("a", tmp_path / "a", hashlib.sha256(Cutting.BODY).hexdigest())
    assert (tmp_path / "a").read_bytes() == Cutting.BODY
    assert [text.split("-")[0] for text in Cutting.ranges] == ["", "bytes=500000", "bytes=750000"]


def test_a_full_disk_is_not_reported_as_a_storage_failure(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    server.reply = lambda *_: (200, b"x")
    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(OSError, match="No space left on device"):
        storage(server).fetch_files([ObjectToDownload("k", tmp_path / "k")])
    assert len(server.seen) == 1
    assert not list(tmp_path.iterdir())


def test_the_users_aws_settings_and_proxies_are_ignored(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_SESSION_TOKEN": "another",
        "AWS_SKIP_SIGNATURE": "true",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
    }
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    storage(server).send_files(files(tmp_path, 1))
    assert server.headers[0]["x-amz-security-token"] == TOKEN
    assert KEY_ID in server.headers[0]["authorization"]
    assert {name: os.environ[name] for name in foreign} == foreign


def test_heavy_libraries_are_imported_only_when_used() -> None:
    heavy = ("boto3", "botocore", "obstore", "openai", "pulumi_aws", "pulumi_command")
    modules = "flux_training.clients.connection, flux_training.clients.results, components.pipeline, flux_training.commands.main, flux_training.commands.stack.command"
    code = f"import sys, {modules}\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def slow(server: Server, seconds: float, times: int) -> Counter[str]:
    """Delay the first `times` answers for each path. Returns the number of requests by path."""
    lock, tries = threading.Lock(), Counter[str]()

    def reply(_method: str, path: str, _body: bytes) -> Reply:
        with lock:
            tries[path] += 1
            late = tries[path] <= times
        if late:
            time.sleep(seconds)
        return 200, b""

    server.reply = reply
    return tries


def test_an_upload_may_take_longer_than_the_read_timeout(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow line no byte is received while the body is being sent."""
    monkeypatch.setattr(bulk, "READ_TIMEOUT", timedelta(seconds=0.2))
    tries = slow(server, 0.6, times=99)
    made = storage(server, retries=0)
    made.send_files(files(tmp_path, 3))
    assert set(tries.values()) == {1}
    with pytest.raises(Unavailable, match="no answer"):
        made.copy_many([("a", "b")])


def test_an_upload_that_times_out_is_sent_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "REQUEST_TIMEOUT", timedelta(seconds=0.5))
    tries = slow(server, 1, times=1)
    storage(server).send_files(files(tmp_path, 8))
    assert set(tries.values()) == {2}
