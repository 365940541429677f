"""Tests whether a storage honours If-None-Match and If-Match.

Queueing depends on both (docs/decisions/0003-one-job-for-a-run.md).
"""

import uuid
from collections.abc import Callable
from contextlib import suppress

import tenacity

from flux_training.clients.errors import Conflict, Invalid, RateLimited, ServiceError, Unavailable
from flux_training.clients.storage import Storage
from flux_training.clients.waiting import pause

# R2 accepts one write per second for each key, and this test writes each key twice.
WAIT_SECONDS = 1.1
MAX_WRITES = 5
ANOTHER_ETAG = "0" * 32
# The status codes with which a storage that does not know conditional headers may refuse the request.
NOT_IMPLEMENTED = (400, 501)


def ignored_conditions(storage: Storage, folder: str, sleep: Callable[[float], None] = pause) -> list[str]:
    """The headers in spite of which the storage overwrites objects. Writes two objects below `folder` and deletes them.

    Raises ServiceError.
    """
    once, read = (f"{folder}probe-{uuid.uuid4().hex}" for _ in range(2))
    tries: dict[str, tuple[str, Callable[[], str]]] = {
        "If-None-Match": (once, lambda: storage.put_bytes(once, b"2", if_none_match=True)),
        "If-Match": (read, lambda: storage.put_bytes(read, b"2", if_match=ANOTHER_ETAG)),
    }
    try:
        for key, _ in tries.values():
            storage.put_bytes(key, b"1")
        return [name for name, (_, write) in tries.items() if not _is_refused(write, sleep)]
    finally:
        # A key may lack the right to delete, which training does not need. Destroying the stack deletes what is left.
        with suppress(ServiceError):
            storage.delete_many([once, read])


def _is_refused(write: Callable[[], str], sleep: Callable[[float], None]) -> bool:
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RateLimited),
        stop=tenacity.stop_after_attempt(MAX_WRITES),
        wait=tenacity.wait_fixed(WAIT_SECONDS),
        sleep=sleep,
        reraise=True,
    )
    try:
        retrying(write)
    except Conflict:
        return True
    except (Invalid, Unavailable) as error:
        if error.status not in NOT_IMPLEMENTED:
            raise
    return False
