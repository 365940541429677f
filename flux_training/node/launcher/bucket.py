"""A small S3 client: GET from any byte, LIST and DELETE.

It reads the same environment as the Kelpie worker: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,
AWS_ENDPOINT_URL. Buckets are addressed by path (https://endpoint/bucket/key). Every request has a connection of its own.
Nothing here is retried; see retries.py.
"""

import contextlib
import hashlib
import http.client
import importlib
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, unquote_plus, urlsplit
from xml.etree import ElementTree

from flux_training.node.launcher.errors import ExitCode, RunEndedError
from flux_training.node.launcher.signing import SigningKeys, quote_path, quote_query, signed_headers

CHUNK_BYTES = 1 << 17
# A page of a listing has 1,000 keys, each of up to 1,024 bytes before they are URL-encoded.
MAX_LISTING_BYTES = 8 << 20
MAX_ERROR_BYTES = 1 << 16
MIN_BYTES_PER_SECOND = 1024  # A download that is slower than this counts as stalled.
CLOCK_TOLERANCE = timedelta(minutes=4)  # S3 refuses requests if the clock is wrong by 15 minutes.
# Statuses after which a request is tried again, besides 5xx. R2 answers 403 while it cannot check a key, and a network with a
# login page redirects.
RETRYABLE_STATUS = (302, 303, 307, 308, 403, 408, 416, 425, 429)
NETWORK_ERRORS = (OSError, http.client.HTTPException)
# Values of Content-Encoding that mean an uncompressed answer. Some services return the header of the upload, or part of it.
NOT_COMPRESSED = ("", "identity", "aws-chunked")


class BucketError(Exception):
    """The bucket gave no usable answer. `retryable`: another try may help."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class ObjectMissingError(BucketError):
    """There is no such object."""


class WrongContentError(BucketError):
    """The object is not the expected one. Another try helps only if it was damaged on the way."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


@dataclass(frozen=True)
class Timeouts:
    """Seconds to connect, and without enough bytes of an answer."""

    connect_seconds: float = 10
    read_seconds: float = 30


@dataclass(frozen=True)
class ListedObject:
    """An object as a listing shows it."""

    key: str
    size: int


@dataclass(frozen=True)
class SmallObject:
    """The whole content of an object, with its ETag."""

    data: bytes
    etag: str

    @property
    def has_other_md5(self) -> bool:
        """The ETag is no MD5 of the content: it was cut or changed on the way, or is encrypted with a key of KMS."""
        match = re.fullmatch('(?:W/)?"?([0-9a-f]{32})"?', self.etag.lower())
        return match is not None and hashlib.md5(self.data, usedforsecurity=False).hexdigest() != match[1]


class ObjectBody:
    """The bytes of an object from `start` on; iterate once. Raises BucketError for an answer that is not S3's.

    `size`: of the whole object; None if the answer comes in chunks, which say themselves where they end.
    """

    def __init__(self, response: http.client.HTTPResponse, start: int, read_seconds: float) -> None:
        headers = response.headers
        # A login page or an empty answer has no ETag, and would otherwise be taken for a small object.
        if "ETag" not in headers:
            raise BucketError("the answer has no ETag, so it is not the bucket's", retryable=True)
        encoding = headers.get("Content-Encoding", "")
        if any(one.strip().lower() not in NOT_COMPRESSED for one in encoding.split(",")):
            raise BucketError(f"the answer is compressed ({encoding:.40})", retryable=True)
        self.start = _range_start(response, start) if response.status == 206 else 0
        self.etag = headers["ETag"]
        self.version = f"{self.etag} {headers.get('Last-Modified', '')}"
        self._response, self._read_seconds = response, read_seconds
        self._expected = _content_length(response)
        self.size = None if self._expected is None else self.start + self._expected

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        for chunk in read_chunks(self._response, self._read_seconds):
            received += len(chunk)
            yield chunk
        if self._expected is not None and received < self._expected:
            raise BucketError(f"the answer ended after {received} of {self._expected} bytes", retryable=True)


def read_chunks(response: http.client.HTTPResponse, read_seconds: float) -> Iterator[bytes]:
    """Raises BucketError when the answer breaks, stalls or is too slow."""
    window = 2 * read_seconds
    window_bytes, window_end = 0, time.monotonic() + window
    while True:
        with network_errors():
            # read1 calls recv at most once, so the socket's time-out applies to each call.
            chunk = response.read1(CHUNK_BYTES)
        if not chunk:
            return
        window_bytes += len(chunk)
        yield chunk
        if time.monotonic() > window_end:
            if window_bytes < window * MIN_BYTES_PER_SECOND:
                raise BucketError(f"only {window_bytes} bytes in {window:g} s", retryable=True)
            window_bytes, window_end = 0, time.monotonic() + window


class BucketClient:
    """One bucket. Usable from several threads."""

    def __init__(
        self, endpoint: str, bucket: str, region: str, keys: SigningKeys, timeouts: Timeouts
    ) -> None:
        self._endpoint, self._bucket, self._region = urlsplit(endpoint), bucket, region
        self._keys, self._timeouts = keys, timeouts
        self._clock_offset = timedelta(0)
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = threading.Lock()

    @contextlib.contextmanager
    def get(self, key: str, start: int = 0) -> Iterator[ObjectBody]:
        """Raises BucketError. The body begins at 0 when the server ignores the range."""
        headers = {"range": f"bytes={start}-"} if start else {}
        with self._request("GET", key, headers=headers) as response:
            yield ObjectBody(response, start, self._timeouts.read_seconds)

    def get_bytes(self, key: str, max_bytes: int) -> SmallObject:
        """Raises BucketError, also for an object that is larger."""
        data = bytearray()
        with self.get(key) as body:
            for chunk in body:
                data += chunk
                if max(len(data), body.size or 0) > max_bytes:
                    size = body.size or "too many"
                    raise BucketError(f"{key} has {size} bytes, more than {max_bytes}", retryable=False)
            return SmallObject(bytes(data), body.etag)

    def list_page(self, prefix: str, token: str = "") -> tuple[list[ListedObject], str]:
        """One page, and the token of the next page; empty: there is none."""
        query = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
        if token:
            query["continuation-token"] = token
        with self._request("GET", "", query) as response:
            data = self._read(response, MAX_LISTING_BYTES)
        return parse_listing(data)

    def delete(self, key: str) -> None:
        with self._request("DELETE", key):
            pass

    @contextlib.contextmanager
    def _request(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, once it is known to be a success."""
        place = f"{self._bucket}/{key}" if key else self._bucket
        path = quote_path(f"{self._endpoint.path.rstrip('/')}/{place}")
        encoded = quote_query(query or {})
        host, now = self._endpoint.netloc.rpartition("@")[2], datetime.now(timezone.utc) + self._clock_offset
        signed = signed_headers(self._keys, self._region, method, host, path, encoded, now)
        connection = self._connection()
        try:
            with network_errors():
                connection.connect()
                connection.sock.settimeout(self._timeouts.read_seconds)
                with deadline(connection.sock, 2 * self._timeouts.read_seconds):
                    connection.request(
                        method, f"{path}?{encoded}" if encoded else path, headers=signed | dict(headers or {})
                    )
                    response = connection.getresponse()
            self._raise_for_status(response, key or self._bucket)
            yield response
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse, max_bytes: int) -> bytes:
        """A body of unknown length, up to about `max_bytes`."""
        data = b""
        for chunk in read_chunks(response, self._timeouts.read_seconds):
            data += chunk
            if len(data) > max_bytes:
                break
        return data

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._endpoint.hostname or "", self._endpoint.port
        timeout = self._timeouts.connect_seconds
        if self._endpoint.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout)
        with self._tls_lock:
            self._tls = self._tls or tls_context()
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)

    def _raise_for_status(self, response: http.client.HTTPResponse, key: str) -> None:
        status = response.status
        if status in (200, 204, 206):
            return
        text = self._read(response, MAX_ERROR_BYTES).decode("utf-8", "replace")
        if status == 404 and "<Code>NoSuchKey</Code>" in text:
            raise ObjectMissingError(f"there is no object {key}", retryable=False)
        if status == 403:
            self._correct_clock(response.headers.get("Date", ""))
        codes = re.findall(r"<(?:Code|Message)>([^<]{1,300})<", text)
        reason = " ".join(codes) or response.reason
        if location := response.headers.get("Location"):
            reason = f"{reason:.100}, a redirect to {location}"
        # Only the bucket itself is believed when it answers that an object does not exist.
        is_foreign = status == 404 and not codes
        is_retryable = status >= 500 or status in RETRYABLE_STATUS or is_foreign
        raise BucketError(f"{status} {reason:.300}", retryable=is_retryable)

    def _correct_clock(self, date: str) -> None:
        """A signature is refused if the clock of this node is far off; the next one uses the server's clock."""
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            offset = parsedate_to_datetime(date) - datetime.now(timezone.utc)
            if abs(offset - self._clock_offset) > CLOCK_TOLERANCE:
                self._clock_offset = offset


@contextlib.contextmanager
def deadline(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Ends the connection after `seconds`: its own time-out counts from the last byte, and headers may come byte by byte."""
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    # If the connection ends, http.client takes that for the end of the headers.
    if is_over.is_set():
        raise BucketError(f"no headers within {seconds:g} s", retryable=True)


@contextlib.contextmanager
def network_errors() -> Iterator[None]:
    """Turns errors of the network into BucketError."""
    try:
        yield
    except NETWORK_ERRORS as error:
        text = str(error) or type(error).__name__
        raise BucketError(f"no answer: {text:.200}", retryable=True) from None


def _range_start(response: http.client.HTTPResponse, start: int) -> int:
    text = response.headers.get("Content-Range", "")
    if not re.match(f"bytes {start}-", text):
        message = f"the answer's Content-Range is {text!r:.60} instead of one from byte {start}"
        raise BucketError(message, retryable=True)
    return start


def _content_length(response: http.client.HTTPResponse) -> int | None:
    """None: the answer comes in chunks."""
    chunks, length = response.headers.get("Transfer-Encoding", ""), response.headers.get("Content-Length", "")
    if chunks.lower() == "chunked" and not length:
        return None
    # If an answer has both headers, they contradict each other, and this text does not match.
    text = chunks or length
    if not re.fullmatch("[0-9]{1,15}", text):
        raise BucketError(f"the answer has no usable Content-Length ({text!r:.40})", retryable=True)
    return int(text)


def parse_listing(data: bytes) -> tuple[list[ListedObject], str]:
    """Raises BucketError."""
    if len(data) > MAX_LISTING_BYTES or b"<!DOCTYPE" in data or b"<ListBucketResult" not in data:
        raise BucketError("the listing is too large or no listing of S3", retryable=True)
    try:
        root = ElementTree.fromstring(data)  # noqa: S314 - entities need a DOCTYPE, which is refused above
        objects = [
            ListedObject(unquote_plus(item.findtext("{*}Key", "")), int(item.findtext("{*}Size", "")))
            for item in root.iterfind("{*}Contents")
        ]
    except (ElementTree.ParseError, ValueError):
        raise BucketError("the listing cannot be read", retryable=True) from None
    return objects, root.findtext("{*}NextContinuationToken", "")


def tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)
    if not context.cert_store_stats()["x509_ca"]:  # Some container images have no system certificates.
        with contextlib.suppress(ImportError):
            context.load_verify_locations(importlib.import_module("certifi").where())
    return context


def bucket_from_environment(
    bucket: str, timeouts: Timeouts, environ: Mapping[str, str] = os.environ
) -> BucketClient:
    """Raises RunEndedError when the node has no keys of the bucket, or no usable address."""
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "auto"
    endpoint = environ.get("AWS_ENDPOINT_URL") or f"https://s3.{region}.amazonaws.com"
    keys = SigningKeys(
        environ.get("AWS_ACCESS_KEY_ID", ""),
        environ.get("AWS_SECRET_ACCESS_KEY", ""),
        environ.get("AWS_SESSION_TOKEN", ""),
    )
    if not keys.access_key_id or not keys.secret_access_key:
        message = "AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set in the container group's environment"
        raise RunEndedError(ExitCode.CONFIG_UNUSABLE, message)
    if not _is_endpoint(urlsplit(endpoint)):
        raise RunEndedError(
            ExitCode.CONFIG_UNUSABLE, f"AWS_ENDPOINT_URL is {endpoint!r:.200}; it must be an http(s) address"
        )
    return BucketClient(endpoint, bucket, region, keys, timeouts)


def _is_endpoint(endpoint: SplitResult) -> bool:
    try:
        return endpoint.scheme in ("http", "https") and bool(endpoint.hostname) and endpoint.port != 0
    except ValueError:  # Reading `port` raises ValueError if the port is not a number.
        return False
