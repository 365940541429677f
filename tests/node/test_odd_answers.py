"""Answers and connections that no bucket gives: each is tried again, and an error names what lasts."""

import contextlib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self
from unittest import mock
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nanio.storage.backend import ObjectInfo
from nanio.storage.metadata import write_metadata
from nanio.storage.paths import metadata_path

from flux_training.node.launcher import retries
from flux_training.node.launcher.bucket import BucketClient, BucketError, Timeouts
from flux_training.node.launcher.downloads import Download, DownloadBatch
from flux_training.node.launcher.errors import RunEndedError
from flux_training.node.launcher.retries import RetryingBucket
from flux_training.node.launcher.signing import SigningKeys
from tests.node import fault_proxy
from tests.node.fault_proxy import DownloadFault, FaultProxy, ProxiedRequest, in_chunks, without_length
from tests.node.storage import ACCESS_KEY_ID, SECRET_ACCESS_KEY, folder_storage

CONTENT = b"0123456789" * 300
KEYS = SigningKeys(ACCESS_KEY_ID, SECRET_ACCESS_KEY)
# How the error begins when the fault lasts.
ODD_ANSWERS = {
    DownloadFault.WRONG_RANGE: "the answer's Content-Range is 'bytes 7-3006/3007' instead of one from byte 0",
    DownloadFault.LONGER: "it has 3001 bytes instead of 3000",
    DownloadFault.SHORTER: "it has 2999 bytes instead of 3000",
    DownloadFault.CHUNKED: "the answer has no usable Content-Length ('chunked')",
    DownloadFault.LONGER_CHUNKS: "it has more than 3000 bytes",
    DownloadFault.SHORTER_CHUNKS: "it has 2999 bytes instead of 3000",
    DownloadFault.EMPTY: "the answer has no ETag, so it is not the bucket's",
    DownloadFault.COMPRESSED: "the answer is compressed (gzip)",
    DownloadFault.LOGIN_PAGE: "the answer has no ETag, so it is not the bucket's",
    DownloadFault.FOREIGN_404: "404 Not Found",
    DownloadFault.REDIRECT: "302 Found, a redirect to http://127.0.0.1:",
    DownloadFault.NOT_SATISFIABLE: "416 InvalidRange The requested range is not satisfiable",
    DownloadFault.RETRY_TOMORROW: "503 ServiceUnavailable Please try again.",
}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bucket with one object, and no pauses between tries."""
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.0)
    path = folder_storage().root / f"odd-{time.monotonic_ns()}"
    path.mkdir()
    (path / "object").write_bytes(CONTENT)
    return path


def store_md5(bucket: Path) -> None:
    """As an upload does: the object gets its MD5 as ETag. Files that are put into the server's folder get another one."""
    etag = f'"{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"'
    info = ObjectInfo(key="object", size=len(CONTENT), etag=etag, last_modified=datetime.now(UTC))
    write_metadata(metadata_path(bucket.parent, bucket.name, "object"), info)


def client(bucket: Path, url: str, connect_seconds: float = 5) -> BucketClient:
    return BucketClient(url, bucket.name, "auto", KEYS, Timeouts(connect_seconds, 5))


def download(client: BucketClient, path: Path, digest: str = "") -> bytes:
    batch = DownloadBatch(client, [Download("object", path, len(CONTENT), digest)], attempts=4)
    batch.run(time.monotonic() + 20, lambda _progress: None)
    return path.read_bytes()


@pytest.mark.parametrize("fault", ODD_ANSWERS, ids=lambda fault: fault.name)
def test_an_odd_answer_is_asked_for_again_and_named_if_it_lasts(
    fault: DownloadFault, bucket: Path, tmp_path: Path
) -> None:
    """Without a digest, as it is for checkpoints that no launcher has recorded."""

    def first_two(request: ProxiedRequest) -> DownloadFault | None:
        return fault if request.number < 3 else None

    with FaultProxy(folder_storage().url, first_two) as proxy:
        assert download(client(bucket, proxy.url), tmp_path / "object") == CONTENT
        assert len(proxy.requests) == 3
    with FaultProxy(folder_storage().url, lambda _request: fault) as proxy:
        with pytest.raises(RunEndedError) as caught:
            download(client(bucket, proxy.url), tmp_path / "never")
        assert f"never: {ODD_ANSWERS[fault]}" in str(caught.value)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("fault", ODD_ANSWERS, ids=lambda fault: fault.name)
def test_an_odd_answer_hides_neither_reports_nor_checkpoints(fault: DownloadFault, bucket: Path) -> None:
    """Otherwise the hours that were used, or the steps that were trained, would count as none."""

    store_md5(bucket)

    def first(request: ProxiedRequest) -> DownloadFault | None:
        return fault if request.number == 1 else None

    with FaultProxy(folder_storage().url, first) as proxy:
        store = RetryingBucket(client(bucket, proxy.url), 3)
        assert store.get_bytes("object", 10_000) == CONTENT
        assert [item.key for item in store.list_objects("")] == ["object"]
        assert store.get_bytes("missing", 10) is None


@pytest.mark.parametrize("fault", [DownloadFault.WRONG_RANGE, DownloadFault.NOT_SATISFIABLE])
def test_an_odd_answer_to_the_request_for_the_rest_spoils_nothing(
    fault: DownloadFault, bucket: Path, tmp_path: Path
) -> None:
    faults = {1: DownloadFault.CUT, 2: fault}
    with FaultProxy(folder_storage().url, lambda request: faults.get(request.number)) as proxy:
        assert download(client(bucket, proxy.url), tmp_path / "object") == CONTENT
        assert [request.range for request in proxy.requests] == ["", "bytes=1500-", "bytes=1500-"]


Answer = tuple[int, dict[str, str], bytes]
OTHER_ETAG = {"etag": f'"{"0" * 32}"'}
# What sound services and ways to them may change of an answer.
SOUND_CHANGES: dict[str, Callable[[dict[str, str], bytes], tuple[dict[str, str], bytes]]] = {
    "in chunks": lambda headers, body: (without_length(headers), in_chunks(body)),
    "in empty chunks": lambda headers, body: (
        without_length(headers),
        in_chunks(body) if body else b"0\r\n\r\n",
    ),
    "no encoding": lambda headers, body: (headers | {"content-encoding": ""}, body),
    "identity": lambda headers, body: (headers | {"content-encoding": "Identity"}, body),
    "the upload's": lambda headers, body: (headers | {"content-encoding": "aws-chunked"}, body),
    "the rest of the upload's": lambda headers, body: (headers | {"content-encoding": "aws-chunked,"}, body),
    "encrypted with a key of KMS": lambda headers, body: (headers | OTHER_ETAG, body),
    "uploaded in parts": lambda headers, body: (headers | {"etag": f'"{"0" * 32}-2"'}, body),
    "weak ETag": lambda headers, body: (headers | {"etag": f"W/{headers.get('etag', '')}"}, body),
    "ETag without quotes": lambda headers, body: (
        headers | {"etag": headers.get("etag", "x").strip('"')},
        body,
    ),
}


@pytest.mark.parametrize("change", SOUND_CHANGES)
def test_a_sound_answer_of_another_service_is_believed(
    change: str, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(_fault: object, status: int, headers: dict[str, str], body: bytes) -> Answer:
        return (status, *SOUND_CHANGES[change](headers, body))

    monkeypatch.setattr(fault_proxy, "changed", changed)
    (bucket / "empty").touch()
    with FaultProxy(folder_storage().url, lambda _request: None) as proxy:
        store = client(bucket, proxy.url)
        assert download(store, tmp_path / "object") == CONTENT
        assert len(proxy.requests) == 1
        reading = RetryingBucket(store, 1)
        assert [reading.get_bytes(key, 3000) for key in ("object", "empty", "missing")] == [
            CONTENT,
            b"",
            None,
        ]
        assert [item.key for item in reading.list_objects("")] == ["empty", "object"]
        with pytest.raises(BucketError, match="more than 2999"):
            reading.get_bytes("object", 2999)


def test_a_small_object_that_is_cut_the_same_way_twice_is_believed(bucket: Path) -> None:
    """Nothing tells it from one that is encrypted with a key of KMS."""
    store_md5(bucket)
    with FaultProxy(folder_storage().url, lambda _request: DownloadFault.SHORTER) as proxy:
        assert RetryingBucket(client(bucket, proxy.url), 1).get_bytes("object", 3000) == CONTENT[:-1]
        assert len(proxy.requests) == 2


def test_a_cut_answer_in_chunks_is_resumed_where_it_broke(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(fault: object, status: int, headers: dict[str, str], body: bytes) -> Answer:
        data = in_chunks(body)
        return status, without_length(headers), data[: len(data) // 2] if fault else data

    monkeypatch.setattr(fault_proxy, "changed", changed)
    cut = {1: DownloadFault.CUT}
    with FaultProxy(folder_storage().url, lambda request: cut.get(request.number)) as proxy:
        assert download(client(bucket, proxy.url), tmp_path / "object") == CONTENT
        first, second = [request.range for request in proxy.requests]
        assert (first, second[:8]) == ("", "bytes=74")


@pytest.mark.parametrize("tokens", [["a", "a"], ["a", "b", "a"]])
def test_a_listing_without_an_end_is_ended(
    tokens: list[str], bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client(bucket, "")
    monkeypatch.setattr(store, "list_page", mock.Mock(side_effect=[([], token) for token in tokens]))
    with pytest.raises(BucketError, match=f"the listing of output/ has no end: {len(tokens)} pages"):
        RetryingBucket(store, 1).list_objects("output/")


def test_an_image_of_another_size_is_asked_for_three_times(bucket: Path, tmp_path: Path) -> None:
    """It may have been replaced in the bucket: more tries would only cost GPU seconds."""
    (bucket / "object").write_bytes(b"another image")
    with FaultProxy(folder_storage().url, lambda _request: None) as proxy:
        with pytest.raises(RunEndedError, match="it has 13 bytes instead of 3000"):
            download(client(bucket, proxy.url), tmp_path / "object", hashlib.sha256(CONTENT).hexdigest())
        assert len(proxy.requests) == 3


# ---- connections


def certificate(folder: Path, days: int) -> Path:
    """A file with a key and its certificate for 127.0.0.1, valid until so many days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem, path = serialization.Encoding.PEM, folder / "server.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + signed.public_bytes(pem))
    return path


@dataclass
class TlsServer:
    """The S3 server behind TLS. Of the first `slow` connections, the handshake comes byte by byte, without an end."""

    certificate: Path
    slow: int = 0
    connections: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                serve = self._drip if self.connections <= self.slow else self._forward
                threading.Thread(target=serve, args=[connection], daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        """The start of a record of 16 KB. The client waits for its end."""
        with contextlib.suppress(OSError), connection:
            connection.sendall(b"\x16\x03\x03\x3f\xff")
            while not self.closing.wait(0.02):
                connection.sendall(b"\x00")

    def _forward(self, connection: socket.socket) -> None:
        address = urlsplit(folder_storage().url)
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(connection, server_side=True) as client,
            socket.create_connection((address.hostname, address.port)) as server,
        ):
            # The launcher's requests have no bodies.
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += client.recv(4096)
            server.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            while data := server.recv(65536):
                client.sendall(data)


def test_a_handshake_without_an_end_is_ended_and_tried_again(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, but Python's time-out is one for the whole handshake."""
    path = certificate(tmp_path, days=30)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    with TlsServer(path, slow=1) as server:
        assert download(client(bucket, server.url, connect_seconds=0.5), tmp_path / "object") == CONTENT
        assert server.connections == 2
    with (
        TlsServer(path, slow=100) as server,
        pytest.raises(RunEndedError, match=r"never: no answer: .*handshake operation timed out"),
    ):
        download(client(bucket, server.url, connect_seconds=0.1), tmp_path / "never")


def test_an_expired_certificate_is_named(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path, days=-1)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    with TlsServer(path) as server, pytest.raises(RunEndedError, match="certificate has expired"):
        download(client(bucket, server.url), tmp_path / "object")
    assert server.connections == 4


def test_a_name_is_looked_up_again_for_each_try(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address that a name had may belong to nobody any more."""
    port, look_up, asked = urlsplit(folder_storage().url).port, socket.getaddrinfo, list[str]()

    def changing(host: str, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        return look_up("::1" if len(asked) == 1 else "127.0.0.1", *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    url = f"http://bucket.example:{port}"
    assert download(client(bucket, url), tmp_path / "object") == CONTENT
    assert asked == ["bucket.example", "bucket.example"]
