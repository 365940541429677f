"""Many objects at once at the wire's speed: obstore (Rust), driven by threads, as many as the storage lets through.

Measured against boto3, s5cmd and asyncio in docs/decisions/0011-upload.md. What is sent is what was hashed: each file's bytes are
hashed as they are handed over, and the signature of each request covers their SHA-256 once more, so that the storage refuses
what changed on the way. boto3 stays for single small objects and for the bucket itself (flux_training/clients/storage.py).
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import httpx
from pydantic import SecretStr

from flux_training.clients.errors import NotFound, RateLimited, Service, ServiceError, Unavailable
from flux_training.clients.http import LOOPBACK
from flux_training.clients.pace import MOST_WIDTH, Pace
from flux_training.clients.s3_errors import TIMED_OUT, from_obstore
from flux_training.training.errors import BadInput

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, ClientConfig, RetryConfig, S3Config, S3Store

# A file up to this size is one PUT; a larger one goes in parts of exactly this size, as R2 wants them.
PART_BYTES = 16 * 1024 * 1024
PARTS_AT_ONCE = 4
CHUNK = 1024 * 1024
FIRST_WAIT = 0.2
LONGEST_WAIT = 10.0
# What a request may take: MOST_BYTES at 0.6 Mbit/s, since all that is under way shares one line.
LONGEST_REQUEST = timedelta(minutes=30)
# An answer that stays away for so long does not come. It would also run while a body is being sent: not for what sends one.
SILENCE = timedelta(seconds=60)

T = TypeVar("T")
R = TypeVar("R")
Told = Callable[[int, int], None]


def say_nothing(_files: int, _bytes: int) -> None:
    """For those who do not care how far a transfer is."""


@dataclass(frozen=True)
class Outgoing:
    """A file for the bucket. `sha256`: 64 hex digits that its bytes must have when they are sent."""

    path: Path
    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Incoming:
    """An object for a file. `sha256`: what its bytes must have, where that is known."""

    key: str
    path: Path
    sha256: str | None = None


@dataclass(frozen=True)
class Access:
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
    """Transfers to and from one bucket. Thread-safe: its calls share one pace."""

    def __init__(self, access: Access, sleep: Callable[[float], None] = time.sleep) -> None:
        self._access = access
        self._sleep = sleep
        self._lock = threading.Lock()
        self._stores: dict[tuple[bool, bool], S3Store] = {}
        self.pace = Pace()

    def send(self, files: Sequence[Outgoing], told: Told = say_nothing) -> None:
        """Upload; `told(1, bytes)` after each. Raises ServiceError, and BadInput with all files that are not what was hashed."""
        self._each(files, self._send_one, told)

    def fetch(self, objects: Sequence[Incoming], told: Told = say_nothing) -> None:
        """Download each into its file, which appears only when it is whole. Raises NotFound, ServiceError, and OSError for a file."""
        for folder in {one.path.parent for one in objects}:
            folder.mkdir(parents=True, exist_ok=True)
        self._each(objects, self._fetch_one, told)

    def copy(self, pairs: Sequence[tuple[str, str]], told: Told = say_nothing) -> list[tuple[str, str]]:
        """Copy objects (up to 5 GB) inside the bucket, from key to key; gives the pairs whose source is not there.

        Raises ServiceError.
        """
        gone: list[tuple[str, str]] = []

        def one(pair: tuple[str, str]) -> int:
            try:
                self._again("copy_object", pair[0], 0, lambda: self._obstore().copy(self._store(), *pair))
            except NotFound as error:
                if error.code == "NoSuchBucket":
                    raise
                gone.append(pair)
            return 0

        self._each(pairs, one, told)
        return gone

    def _each(self, items: Sequence[T], one: Callable[[T], int], told: Told) -> None:
        """`one` of each item, many at a time. What users can mend is gathered; any other failure ends it at once."""
        findings: list[str] = []
        lock = threading.Lock()

        def guarded(item: T) -> None:
            try:
                size = one(item)
            except BadInput as bad:
                with lock:
                    findings.extend(bad.findings)
            else:
                with lock:
                    told(1, size)

        if len(items) == 1:
            guarded(items[0])
        elif items:
            _in_threads(items, guarded, lambda: int(self.pace.width))
        if findings:
            raise BadInput(sorted(findings))

    def _send_one(self, file: Outgoing) -> int:
        if file.size > PART_BYTES:
            self._again("put_object", file.key, PART_BYTES * PARTS_AT_ONCE, lambda: self._send_parts(file))
            return file.size
        put = self._obstore().put
        # Read in the turn in which it is sent: bytes that wait for a turn of their own are counted by nobody.
        self._again(
            "put_object",
            file.key,
            file.size,
            lambda: put(self._store(sends=True), file.key, _read(file), use_multipart=False),
        )
        return file.size

    def _send_parts(self, file: Outgoing) -> None:
        """In parts of one size. obstore repeats a part that failed, and removes all of them when the file turns out changed."""
        parts = _verified_parts(file)
        store = self._store(patient=True, sends=True)
        self._obstore().put(
            store, file.key, parts, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )

    def _fetch_one(self, wanted: Incoming) -> int:
        part = wanted.path.with_name(f".{wanted.path.name}.{uuid4().hex[:8]}")
        right = wanted.sha256
        try:
            found, size = self._again(
                "get_object", wanted.key, 0, lambda: self._fetch_to(wanted.key, part, right is not None)
            )
            if right is not None and found != right:
                raise ServiceError(
                    f"{wanted.key} in bucket {self._access.bucket} is not what was written there (SHA-256 {found[:12]}…)",
                    f"it should be {right[:12]}…",
                    "fetch it again; if that does not help, the object is damaged",
                )
            part.replace(wanted.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return size

    def _fetch_to(self, key: str, part: Path, checked: bool) -> tuple[str, int]:
        """(SHA-256, bytes) of the object, written to `part`; of what is not `checked` the SHA-256 of nothing."""
        digest, size = hashlib.sha256(), 0
        answer = self._obstore().get(self._store(patient=True), key)
        # A stream of one chunk costs an image half of its time.
        small = answer.meta["size"] <= CHUNK
        with part.open("wb") as file:
            for chunk in [answer.bytes()] if small else answer.stream(min_chunk_size=CHUNK):
                if checked:
                    digest.update(chunk)
                size += file.write(chunk)
        if size != answer.meta["size"]:
            raise OSError(f"{size} of {answer.meta['size']} bytes came")
        return digest.hexdigest(), size

    def _again(self, operation: str, key: str, size: int, once: Callable[[], R]) -> R:
        """`once`, repeated while the storage is silent or asks for patience. All that we do here may be done twice."""
        from obstore.exceptions import BaseError

        for attempt in range(self._access.retries + 1):
            with self.pace.turn(size) as halvings:
                try:
                    done = once()
                except (BaseError, OSError, ValueError) as failure:
                    if isinstance(failure, OSError) and failure.errno is not None:
                        # This machine's, a full disk for one: the storage's have no number.
                        raise
                    error = from_obstore(self._access.service, self._access.bucket, operation, key, failure)
                    # At a timeout the line is full: fewer at a time, so that each gets through.
                    if error.status in (429, 503) or error.code == TIMED_OUT:
                        self.pace.slow_down(halvings)
                else:
                    self.pace.went_well()
                    return done
            if attempt == self._access.retries or not isinstance(error, RateLimited | Unavailable):
                raise error from None
            # Jitter: those that were refused together must not come again together.
            longest = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
            self._sleep(random.uniform(longest / 2, longest))  # noqa: S311 - jitter is no cryptography
        raise AssertionError("unreachable")

    @staticmethod
    def _obstore() -> Any:
        """Imported at the first use."""
        import obstore

        return obstore

    def _store(self, patient: bool = False, sends: bool = False) -> S3Store:
        """`patient` ones repeat a request themselves: in the midst of a long transfer, where starting over would cost too much.

        `sends`: requests with a body, which may take long without a byte of an answer.
        """
        with self._lock:
            if (patient, sends) not in self._stores:
                self._stores[patient, sends] = _make_store(self._access, patient, sends)
            return self._stores[patient, sends]


def _in_threads(items: Sequence[T], one: Callable[[T], None], width: Callable[[], int]) -> None:
    """`one` of each item in `width` threads, more as it grows: threads that only wait for a turn would take time from those that have one.

    Raises a failure, after what was under way has ended; what had not begun then never does.
    """
    lock, left, busy = threading.Lock(), deque(items), 0

    def work() -> None:
        while True:
            with lock:
                if not left:
                    return
                item = left.popleft()
                begin()
            try:
                one(item)
            except BaseException:
                # Here, since whoever waits may be waiting for another thread.
                with lock:
                    left.clear()
                raise

    def begin() -> None:
        """As many more threads as there is width and work for. Under the lock."""
        nonlocal busy
        for _ in range(min(width() - busy, len(left))):
            busy += 1
            futures.append(pool.submit(work))

    futures: list[Future[None]] = []
    with ThreadPoolExecutor(MOST_WIDTH, thread_name_prefix="transfer") as pool:
        try:
            with lock:
                begin()
            # The list grows while it is gone through; who adds to it is in it.
            for future in futures:
                future.result()
        finally:
            # Also at Ctrl-C: what is under way ends, nothing new begins.
            with lock:
                left.clear()


def _read(file: Outgoing) -> bytes:
    try:
        with file.path.open("rb", buffering=0) as source:
            data = source.read()
    except OSError as error:
        raise _unreadable(file, error) from None
    _check(file, hashlib.sha256(data).hexdigest())
    return data


def _verified_parts(file: Outgoing) -> Iterator[bytes]:
    """The file in pieces of PART_BYTES; the last one only once all of them are seen to be what was hashed."""
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
        raise _unreadable(file, error) from None


def _check(file: Outgoing, found: str) -> None:
    if found != file.sha256:
        change = f"SHA-256 {found[:12]}…, was {file.sha256[:12]}…"
        raise BadInput([f"{file.path} has changed since it was read ({change}); run again"])


def _unreadable(file: Outgoing, error: OSError) -> BadInput:
    return BadInput([f"{file.path} cannot be read ({error.strerror}); restore it and run again"])


def _make_store(access: Access, patient: bool, sends: bool) -> S3Store:
    from obstore.store import S3Store

    url = httpx.URL(access.service.url)
    options: ClientConfig = {
        "allow_http": url.scheme == "http",
        "connect_timeout": timedelta(seconds=10),
        "timeout": LONGEST_REQUEST,
    }
    if not sends:
        options["read_timeout"] = SILENCE
    # As boto3 does: where a company's proxy signs what comes from outside, its certificates are named there.
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
    backoff: BackoffConfig = {
        "init_backoff": timedelta(seconds=FIRST_WAIT),
        "max_backoff": timedelta(seconds=LONGEST_WAIT),
    }
    retry: RetryConfig = {"max_retries": access.retries if patient else 0, "backoff": backoff}
    with _alone_with_what_is_given(keep_proxies=url.host not in LOOPBACK):
        return S3Store(access.bucket, config=config, client_options=options, retry_config=retry)


_environment = threading.Lock()


@contextmanager
def _alone_with_what_is_given(keep_proxies: bool) -> Iterator[None]:
    """Without the environment variables of the user's AWS CLI, which obstore would heed: an endpoint, a token, another checksum.

    Nor, for the local cloud, with a proxy of the user's, which does not lead there. Both are read once, when a store is made.
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
