"""Transfers of many objects at once, with obstore (Rust), called from a fixed number of threads.

docs/decisions/0011-upload.md compares it with boto3, s5cmd and asyncio. Each file is hashed again while it is read for sending,
and the signature of each request covers the SHA-256 of its body, so the storage refuses bytes that changed on the way.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import httpx
from pydantic import SecretStr

from flux_training.clients.errors import Conflict, NotFound, Service, ServiceError, WrongContent
from flux_training.clients.http import LOOPBACK
from flux_training.clients.s3_errors import UNREADABLE, error_from_obstore
from flux_training.training.errors import BadInput

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Store

# Files larger than this are sent in parts of exactly this size, because R2 requires all parts of an upload to have the same
# size.
PART_BYTES = 16 * 1024 * 1024
PARTS_AT_ONCE = 4
CHUNK_BYTES = 1024 * 1024
# The maximum number of parallel transfers, and of file bytes in flight. docs/decisions/0025-reorganisation.md has the
# measurements.
MAX_WIDTH = 40
MAX_BYTES_IN_FLIGHT = 128 * 1024 * 1024
FIRST_WAIT = timedelta(seconds=0.2)
LONGEST_WAIT = timedelta(seconds=10)
# The time-out allows sending MAX_BYTES_IN_FLIGHT at 0.6 Mbit/s.
REQUEST_TIMEOUT = timedelta(minutes=30)
# A request is signed once, including its retries, and S3 accepts a signature for 15 minutes.
RETRY_TIMEOUT = timedelta(minutes=10)
# This read time-out is only for requests without a body: no byte is received while a body is being sent.
READ_TIMEOUT = timedelta(seconds=60)

T = TypeVar("T")
OnProgress = Callable[[int, int], None]


def ignore_progress(_files: int, _bytes: int) -> None:
    """The default for callers that do not show progress."""


@dataclass(frozen=True)
class FileToUpload:
    """A file to upload. `sha256`: 64 hex digits that its bytes must have when they are sent."""

    path: Path
    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ObjectToDownload:
    """An object to download. `sha256`: what its bytes must have, if known; `size`: in bytes, as listed."""

    key: str
    path: Path
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class BucketAccess:
    """How a bucket is reached."""

    service: Service
    bucket: str
    endpoint_url: str | None
    region: str
    key_id: str
    secret: SecretStr
    token: SecretStr | None
    retries: int


class Bulk:
    """Transfers to and from one bucket. Thread-safe. obstore repeats failed requests; all of them may be sent twice."""

    def __init__(self, access: BucketAccess) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._stores: dict[bool, S3Store] = {}
        self._room = threading.Condition()
        self._bytes_in_flight = 0

    def send(
        self, files: Sequence[FileToUpload], on_progress: OnProgress = ignore_progress
    ) -> dict[str, str]:
        """Upload; `on_progress(1, bytes)` after each file. Returns the ETag of each key, empty if the storage gave none.

        Raises ServiceError, and BadInput naming all files that are no longer what was hashed.
        """
        etags: dict[str, str] = {}

        def send_one(file: FileToUpload) -> int:
            etags[file.key] = self._send_one(file)
            return file.size

        self._each(files, send_one, on_progress)
        return etags

    def fetch(self, objects: Sequence[ObjectToDownload], on_progress: OnProgress = ignore_progress) -> None:
        """Download each object into its file, which appears only when complete. Raises NotFound, ServiceError, and OSError for a file."""
        for folder in {one.path.parent for one in objects}:
            folder.mkdir(parents=True, exist_ok=True)
        self._each(objects, self._fetch_one, on_progress)

    def copy(
        self, pairs: Sequence[tuple[str, str]], on_progress: OnProgress = ignore_progress
    ) -> list[tuple[str, str]]:
        """Copy objects of up to 5 GB inside the bucket, from key to key. Returns the pairs whose source does not exist or cannot be read.

        Raises ServiceError.
        """
        missing: list[tuple[str, str]] = []

        def copy_one(pair: tuple[str, str]) -> int:
            import obstore

            try:
                with self._translate_obstore_errors("copy_object", pair[0]):
                    obstore.copy(self._store(), *pair)
            except ServiceError as error:
                is_missing = isinstance(error, NotFound) and error.code != "NoSuchBucket"
                if not is_missing and error.code not in UNREADABLE:
                    raise
                missing.append(pair)
            return 0

        self._each(pairs, copy_one, on_progress)
        return missing

    def _each(self, items: Sequence[T], transfer: Callable[[T], int], on_progress: OnProgress) -> None:
        """Call `transfer` for each item, many at once.

        BadInput is collected and raised at the end; any other failure stops the remaining transfers.
        """
        findings: list[str] = []
        lock = threading.Lock()

        def guarded(item: T) -> None:
            try:
                size = transfer(item)
            except BadInput as bad:
                with lock:
                    findings.extend(bad.findings)
            else:
                with lock:
                    on_progress(1, size)

        with ThreadPoolExecutor(MAX_WIDTH, thread_name_prefix="transfer") as pool:
            try:
                for future in as_completed([pool.submit(guarded, item) for item in items]):
                    future.result()
            finally:
                # After an error or Ctrl-C, too: finish the running transfers and start no others.
                pool.shutdown(wait=False, cancel_futures=True)
        if findings:
            raise BadInput(sorted(findings))

    def _send_one(self, file: FileToUpload) -> str:
        import obstore

        store = self._store(sends=True)
        in_parts = file.size > PART_BYTES
        with (
            self._space(PART_BYTES * PARTS_AT_ONCE if in_parts else file.size),
            self._translate_obstore_errors("put_object", file.key),
        ):
            if in_parts:
                result = obstore.put(
                    store,
                    file.key,
                    _verified_parts(file),
                    use_multipart=True,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_ONCE,
                )
            else:
                result = obstore.put(store, file.key, _read(file), use_multipart=False)
        return (result["e_tag"] or "").strip('"')

    def _fetch_one(self, wanted: ObjectToDownload) -> int:
        part = wanted.path.with_name(f".{wanted.path.name}.{uuid4().hex[:8]}")
        expected = wanted.sha256
        try:
            with self._translate_obstore_errors("get_object", wanted.key):
                found, size = self._fetch_to(wanted, part)
            if expected is not None and found != expected:
                raise WrongContent(
                    f"{wanted.key} in bucket {self._access.bucket} is not what was written there (SHA-256 {found[:12]}…)",
                    f"it should be {expected[:12]}…",
                    "fetch it again; if that does not help, the object is damaged",
                )
            part.replace(wanted.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return size

    def _fetch_to(self, wanted: ObjectToDownload, part: Path) -> tuple[str, int]:
        """Write the object to `part`. Returns its SHA-256, if one is wanted, and its size."""
        import obstore

        digest, size = hashlib.sha256(), 0
        answer = obstore.get(self._store(), wanted.key)
        if wanted.size not in (None, answer.meta["size"]):
            # The object may have been replaced by one that would fill the disk, so check its size first.
            raise Conflict(
                f"{wanted.key} in bucket {self._access.bucket} changed: it had {wanted.size} bytes when it was listed and has {answer.meta['size']} now",
                "",
                "run the same command again",
            )
        # A small object is fetched in one piece: streaming it would take twice as long.
        small = answer.meta["size"] <= CHUNK_BYTES
        with part.open("wb") as file:
            for chunk in [answer.bytes()] if small else answer.stream(min_chunk_size=CHUNK_BYTES):
                if wanted.sha256 is not None:
                    digest.update(chunk)
                size += file.write(chunk)
        if size != answer.meta["size"]:
            raise OSError(f"{size} of {answer.meta['size']} bytes came")
        return digest.hexdigest(), size

    @contextmanager
    def _space(self, size: int) -> Iterator[None]:
        """Wait until `size` more bytes may be in flight.

        Bytes in flight are held in memory and share the network connection.
        """
        with self._room:
            self._room.wait_for(
                lambda: not self._bytes_in_flight or self._bytes_in_flight + size <= MAX_BYTES_IN_FLIGHT
            )
            self._bytes_in_flight += size
        try:
            yield
        finally:
            with self._room:
                self._bytes_in_flight -= size
                self._room.notify_all()

    @contextmanager
    def _translate_obstore_errors(self, operation: str, key: str) -> Iterator[None]:
        """Turn obstore's exceptions into ServiceErrors."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError, ValueError) as failure:
            # An OSError with an errno is about a local file, such as a full disk, and not about the storage.
            if isinstance(failure, OSError) and failure.errno is not None:
                raise
            raise error_from_obstore(
                self._access.service, self._access.bucket, operation, key, failure
            ) from None

    def _store(self, sends: bool = False) -> S3Store:
        """`sends`: for requests with a body."""
        with self._lock:
            if sends not in self._stores:
                self._stores[sends] = _make_store(self._access, sends)
            return self._stores[sends]


def _read(file: FileToUpload) -> bytes:
    try:
        with file.path.open("rb", buffering=0) as source:
            data = source.read()
    except OSError as error:
        raise _unreadable_file_message(file, error) from None
    _check(file, hashlib.sha256(data).hexdigest())
    return data


def _verified_parts(file: FileToUpload) -> Iterator[bytes]:
    """The file in parts of PART_BYTES.

    The last part is yielded only if the file still has its expected SHA-256; otherwise obstore aborts the upload.
    """
    digest = hashlib.sha256()
    try:
        with file.path.open("rb", buffering=0) as source:
            part = source.read(PART_BYTES)
            while part:
                following = source.read(PART_BYTES)
                digest.update(part)
                if not following:
                    _check(file, digest.hexdigest())
                yield part
                part = following
    except OSError as error:
        raise _unreadable_file_message(file, error) from None


def _check(file: FileToUpload, found: str) -> None:
    if found != file.sha256:
        change = f"SHA-256 {found[:12]}…, was {file.sha256[:12]}…"
        raise BadInput([f"{file.path} has changed since it was read ({change}); run again"])


def _unreadable_file_message(file: FileToUpload, error: OSError) -> BadInput:
    return BadInput([f"{file.path} cannot be read ({error.strerror}); restore it and run again"])


def _make_store(access: BucketAccess, sends: bool) -> S3Store:
    from obstore.store import S3Store

    url = httpx.URL(access.service.url)
    options: ClientConfig = {
        "allow_http": url.scheme == "http",
        "connect_timeout": timedelta(seconds=10),
        "timeout": REQUEST_TIMEOUT,
    }
    if not sends:
        options["read_timeout"] = READ_TIMEOUT
    # boto3 honours AWS_CA_BUNDLE too: a company's proxy may have its own certificates.
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and url.scheme == "https":
        options["root_certificate"] = Path(bundle).read_bytes()
    config: S3Config = {
        "region": access.region,
        "access_key_id": access.key_id,
        "secret_access_key": access.secret.get_secret_value(),
        "virtual_hosted_style_request": access.endpoint_url is None and "." not in access.bucket,
    }
    if access.endpoint_url:
        config["endpoint"] = access.endpoint_url
    if access.token:
        config["session_token"] = access.token.get_secret_value()
    retry: RetryConfig = {
        "max_retries": access.retries,
        "backoff": {"init_backoff": FIRST_WAIT, "max_backoff": LONGEST_WAIT},
        "retry_timeout": RETRY_TIMEOUT,
    }
    with _hide_s3_variables(keep_proxies=url.host not in LOOPBACK):
        return S3Store(access.bucket, config=config, client_options=options, retry_config=retry)


_environment = threading.Lock()


@contextmanager
def _hide_s3_variables(keep_proxies: bool) -> Iterator[None]:
    """Hide the user's AWS_* variables, which obstore would prefer to the settings given, and proxies from the local cloud.

    obstore reads both when a store is made.
    """
    with _environment:
        hidden: Mapping[str, str] = {
            name: value
            for name, value in os.environ.items()
            if name.upper().startswith("AWS_") or (not keep_proxies and name.upper().endswith("_PROXY"))
        }
        for name in hidden:
            del os.environ[name]
        try:
            yield
        finally:
            os.environ.update(hidden)
