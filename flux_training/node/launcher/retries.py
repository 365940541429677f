"""Requests with small answers: tried again a bounded number of times, with growing pauses.

Each try has a deadline: a time-out of the socket counts from the last byte, so a server that sends one now and then could
hold a request for ever.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from flux_training.node.launcher.bucket import BucketClient, BucketError, ListedObject, ObjectMissingError
from flux_training.node.launcher.process import check_stopped, pause

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 20.0
MAX_LISTED = 10_000
# The maximum number of pages of a listing. It is high because S3 may return pages with few objects, or none.
MAX_PAGES = 1000
# The time limit in seconds for each try. At 140 kB/s, a loss curve of 16 MB arrives in that time.
MAX_SECONDS = 120.0

T = TypeVar("T")


def pause_seconds(failures: int) -> float:
    """After so many failures in a row; at random within 50 %, so that parallel downloads do not return together."""
    longest = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - no cryptography


class RetryingBucket:
    """Tries each request `attempts` times, for `max_seconds` each. Raises RunEndedError as soon as the job is stopped."""

    def __init__(self, client: BucketClient, attempts: int, max_seconds: float = MAX_SECONDS) -> None:
        self._client, self._attempts, self._max_seconds = client, attempts, max_seconds

    def get_bytes(self, key: str, max_bytes: int) -> bytes | None:
        """None when there is no such object. Raises BucketError."""
        try:
            return self._retry(lambda: self._read(key, max_bytes))
        except ObjectMissingError:
            return None

    def _read(self, key: str, max_bytes: int) -> bytes:
        """If the ETag is another MD5, the content is believed only when it comes twice."""
        found = self._client.get_bytes(key, max_bytes)
        if not found.has_other_md5:
            return found.data
        again = self._client.get_bytes(key, max_bytes)
        if again.has_other_md5 and again != found:
            raise BucketError(f"{key} came twice with different bytes", retryable=True)
        return again.data

    def delete(self, key: str) -> None:
        self._retry(lambda: self._client.delete(key))

    def list_objects(self, prefix: str) -> list[ListedObject]:
        """The first MAX_LISTED objects below a prefix: a node could have filled it. Raises BucketError."""
        found: list[ListedObject] = []
        for page in self._pages(prefix):
            found += page
            if len(found) >= MAX_LISTED:
                break
        return found[:MAX_LISTED]

    def _pages(self, prefix: str) -> Iterator[list[ListedObject]]:
        token, seen = "", set[str]()
        while token not in seen and len(seen) < MAX_PAGES:
            seen.add(token)
            page, token = self._retry(partial(self._client.list_page, prefix, token))
            yield page
            if not token:
                return
        raise BucketError(f"the listing of {prefix} has no end: {len(seen)} pages", retryable=False)

    def _retry(self, action: Callable[[], T]) -> T:
        errors: list[BucketError] = []
        while True:
            try:
                return _interruptible(action, self._max_seconds)
            except BucketError as error:
                if not error.retryable:
                    raise
                errors.append(error)
            if len(errors) >= self._attempts:
                raise _most_common(errors)
            pause(pause_seconds(len(errors)))


def _most_common(errors: list[BucketError]) -> BucketError:
    """The error of most tries: with wrong keys 403, even if the last try got 503."""
    texts = [str(error) for error in errors]
    return max(reversed(errors), key=lambda error: texts.count(str(error)))


def _interruptible(action: Callable[[], T], max_seconds: float) -> T:
    """Runs it in a thread, because a signal does not end a wait for the network. After `max_seconds` it is left behind there."""
    results: list[T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(action())
        except Exception as error:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    deadline = time.monotonic() + max_seconds
    while thread.is_alive():
        check_stopped()
        if time.monotonic() > deadline:
            raise BucketError(f"no whole answer within {max_seconds:g} s", retryable=True)
        thread.join(0.1)
    if errors:
        raise errors[0]
    return results[0]
