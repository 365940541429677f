"""Many objects at once: what is sent, how often, and what is said when it goes wrong. Requests and bytes are counted, never time."""

from __future__ import annotations

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
from pathlib import Path

import pytest
from pydantic import SecretStr

from flux_training.clients import bulk
from flux_training.clients.bulk import Incoming, Outgoing
from flux_training.clients.errors import NotFound, ServiceError, Unauthorized, Unavailable
from flux_training.clients.pace import FIRST_WIDTH, Pace
from flux_training.clients.storage import Storage
from flux_training.training.errors import BadInput
from tests.support.s3_server import Reply, Server

SECRET, KEY_ID, TOKEN = "canary-s3-secret-0d2b", "canary-s3-id-a9c4", "canary-s3-token-44f1"


def storage(server: Server, retries: int = 4) -> Storage:
    made = Storage(server.url, "auto", KEY_ID, SecretStr(SECRET), SecretStr(TOKEN), "bucket", retries=retries)
    made._bulk._sleep = lambda _seconds: None
    return made


def files(folder: Path, count: int, size: int = 100) -> list[Outgoing]:
    made = []
    for number in range(count):
        data = bytes([number % 256]) * size
        path = folder / f"{number:05}.jpg"
        path.write_bytes(data)
        made.append(Outgoing(path, f"d/{path.name}", size, hashlib.sha256(data).hexdigest()))
    return made


def test_each_file_is_one_put_and_the_signature_covers_what_was_hashed(
    server: Server, tmp_path: Path
) -> None:
    sent = files(tmp_path, 50)
    told: Counter[str] = Counter()
    storage(server).send_files(sent, lambda count, size: told.update(files=count, bytes=size))
    assert Counter(server.seen) == Counter(("PUT", f"/bucket/{file.key}") for file in sent)
    assert {h["x-amz-content-sha256"] for h in server.headers} == {file.sha256 for file in sent}
    assert all(
        hashlib.sha256(body).hexdigest() == headers["x-amz-content-sha256"]
        for body, headers in zip(server.bodies, server.headers, strict=True)
    )
    assert told == {"files": 50, "bytes": 5000}


@pytest.mark.parametrize("status", [429, 503])
def test_a_storage_that_says_slow_down_gets_fewer_requests_and_every_file(
    server: Server, tmp_path: Path, status: int
) -> None:
    lock, tries = threading.Lock(), Counter[str]()

    def reply(_method: str, path: str, _body: bytes) -> Reply:
        with lock:
            tries[path] += 1
            return (status, b"<Error><Code>SlowDown</Code></Error>") if tries[path] == 1 else (200, b"")

    server.reply = reply
    made = storage(server)
    made.send_files(files(tmp_path, 40))
    assert set(tries.values()) == {2}
    assert made._bulk.pace.width < FIRST_WIDTH


def test_no_file_is_read_before_it_may_be_sent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, read = threading.Lock(), bulk._read
    in_hand, most = 0, 0

    def noted(file: Outgoing) -> bytes:
        nonlocal in_hand, most
        with lock:
            in_hand += 1
            most = max(most, in_hand)
        return read(file)

    def reply(_method: str, _path: str, _body: bytes) -> Reply:
        nonlocal in_hand
        time.sleep(0.02)
        with lock:
            in_hand -= 1
        return 200, b""

    server.reply = reply
    monkeypatch.setattr(bulk, "_read", noted)
    made = storage(server)
    made._bulk.pace = Pace(first=2, most=2)
    made.send_files(files(tmp_path, 40))
    assert most == 2


def test_all_files_that_changed_are_named_and_none_of_them_is_sent(server: Server, tmp_path: Path) -> None:
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
    """Have the server answer as S3 does to an upload in parts."""

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


def test_a_large_file_goes_in_parts_of_one_size(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PART_BYTES", 1000)
    multipart(server)
    data = os.urandom(3500)
    (tmp_path / "big").write_bytes(data)
    storage(server).put_file("big", tmp_path / "big", hashlib.sha256(data).hexdigest())
    parts = {
        path.split("partNumber=")[1].split("&")[0]: body
        for (method, path), body in zip(server.seen, server.bodies, strict=True)
        if method == "PUT"
    }
    assert [len(parts[number]) for number in sorted(parts)] == [1000, 1000, 1000, 500]
    assert b"".join(parts[number] for number in sorted(parts)) == data


def test_a_large_file_that_changed_is_taken_away_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PART_BYTES", 1000)
    multipart(server)
    (tmp_path / "big").write_bytes(os.urandom(3500))
    with pytest.raises(BadInput, match="has changed"):
        storage(server).put_file("big", tmp_path / "big", "0" * 64)
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
def test_refusals_have_their_errors_and_tell_no_secret(
    server: Server, tmp_path: Path, status: int, code: str, kind: type[ServiceError]
) -> None:
    echo = f"<AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId><Message>{KEY_ID} {SECRET} {TOKEN}</Message>"
    server.reply = lambda *_: (status, f"<Error><Code>{code}</Code>{echo}</Error>".encode())
    made = storage(server, retries=0)
    for act in (
        lambda: made.send_files(files(tmp_path, 3)),
        lambda: made.fetch_files([Incoming("k", tmp_path / "k")]),
        lambda: made.copy_many([("a", "b"), ("c", "d")]),
    ):
        with pytest.raises(kind) as caught:
            act()
        told = str(caught.value) + repr(caught.value) + repr(caught.value.__cause__)
        assert not any(canary in told for canary in (SECRET, KEY_ID, TOKEN))
        assert str(server.server_address[1]) in told


def test_what_the_storage_will_not_have_is_not_sent_again(server: Server, tmp_path: Path) -> None:
    server.reply = lambda *_: (400, b"<Error><Code>EntityTooLarge</Code></Error>")
    with pytest.raises(ServiceError):
        storage(server).send_files(files(tmp_path, 1))
    assert len(server.seen) == 1


def test_a_copy_whose_source_is_gone_is_told_and_the_others_are_made(server: Server) -> None:
    def reply(_method: str, path: str, _body: bytes) -> Reply:
        if path.endswith("/gone"):
            return 404, b"<Error><Code>NoSuchKey</Code></Error>"
        return 200, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>"

    server.reply = reply
    assert storage(server).copy_many([("a", "there"), ("b", "gone")]) == [("b", "gone")]


def test_many_are_fetched_and_one_that_is_not_what_was_written_leaves_no_file(
    server: Server, tmp_path: Path
) -> None:
    server.reply = lambda _method, path, _body: (200, path.encode())
    wanted = [Incoming(f"k{number}", tmp_path / f"{number}") for number in range(20)]
    storage(server).fetch_files(wanted)
    assert all(one.path.read_bytes() == f"/bucket/{one.key}".encode() for one in wanted)
    with pytest.raises(ServiceError, match="is not what was written there"):
        storage(server).fetch_files([Incoming("k1", tmp_path / "new", "0" * 64)])
    assert not (tmp_path / "new").exists()


def test_a_large_object_comes_in_pieces_and_is_checked_over_all_of_them(
    server: Server, tmp_path: Path
) -> None:
    body = os.urandom(3 * bulk.CHUNK + 7)
    server.reply = lambda *_: (200, body)
    right, path = hashlib.sha256(body).hexdigest(), tmp_path / "deep/new"
    storage(server).fetch_files([Incoming("k", path, right)])
    assert path.read_bytes() == body
    with pytest.raises(ServiceError, match="is not what was written there"):
        storage(server).fetch_files([Incoming("k", path, "0" * 64)])
    assert path.read_bytes() == body
    assert [one.name for one in path.parent.iterdir()] == ["new"]


def test_a_full_disk_is_no_silent_storage(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    server.reply = lambda *_: (200, b"x")
    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(OSError, match="No space left on device"):
        storage(server).fetch_files([Incoming("k", tmp_path / "k")])
    assert len(server.seen) == 1
    assert not list(tmp_path.iterdir())


def test_the_users_aws_settings_and_proxies_change_nothing(
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


def test_heavy_libraries_are_imported_only_where_they_are_used() -> None:
    heavy = ("boto3", "botocore", "obstore", "openai", "pulumi_aws", "pulumi_command")
    modules = "flux_training.clients.connection, flux_training.clients.results, components.pipeline, flux_training.commands.__main__, flux_training.commands.stack.command"
    code = f"import sys, {modules}\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_program_and_no_provider_loads_the_command_line_of_httpx() -> None:
    code = "import sys, flux_training.clients.connection, components.pipeline, httpx\nprint('pygments' in sys.modules, httpx.get.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False get"


def test_the_failure_of_a_thread_that_began_late_ends_it_too() -> None:
    """Whoever waits for the threads knows only those that there were when the waiting began."""
    width, done = 2, []
    first = threading.Barrier(2)

    def one(item: int) -> None:
        nonlocal width
        if item < 2:
            first.wait()
            width = 4
            time.sleep(0.05)
        elif threading.current_thread().name.endswith(("_2", "_3")):
            raise OSError(errno.ENOSPC, "disk full")
        else:
            time.sleep(0.01)
        done.append(item)

    with pytest.raises(OSError, match="disk full"):
        bulk._in_threads(range(2000), one, lambda: width)
    assert len(done) < 100


def slow(server: Server, seconds: float, times: int) -> Counter[str]:
    """Have the server think for so long before its first `times` answers for each path; the requests are counted."""
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


def test_a_file_may_take_longer_than_an_answer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow line nothing is answered while the body is still being sent."""
    monkeypatch.setattr(bulk, "SILENCE", timedelta(seconds=0.2))
    tries = slow(server, 0.8, times=99)
    made = storage(server, retries=0)
    made.send_files(files(tmp_path, 3))
    assert set(tries.values()) == {1}
    with pytest.raises(Unavailable, match="no answer"):
        made.copy_many([("a", "b")])


def test_what_times_out_together_is_sent_again_with_fewer_at_a_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LONGEST_REQUEST", timedelta(seconds=0.5))
    tries = slow(server, 1.5, times=1)
    made = storage(server)
    made.send_files(files(tmp_path, 8))
    assert set(tries.values()) == {2}
    assert made._bulk.pace.width < FIRST_WIDTH
