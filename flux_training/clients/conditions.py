"""Whether a storage heeds If-None-Match and If-Match: who may post a job rests on both (docs/decisions/0003-one-job-for-a-run.md)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from flux_training.clients.errors import Conflict, Invalid, RateLimited, ServiceError, Unavailable
from flux_training.clients.storage import Storage

# R2 takes one write a second and key, and each of ours is written twice.
WAIT_SECONDS = 1.1
TRIES = 5
ANOTHER_ETAG = "0" * 32
# What storages say to a header that they do not know.
NOT_IMPLEMENTED = (400, 501)


def unheeded_conditions(
    storage: Storage, folder: str, sleep: Callable[[float], None] = time.sleep
) -> list[str]:
    """The headers that do not keep the storage from overwriting. Tried on two objects below `folder`, which go again.

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
        # A key that may not delete is no reason not to train; what stays goes with the stack.
        with suppress(ServiceError):
            storage.delete_many([once, read])


def _is_refused(write: Callable[[], str], sleep: Callable[[float], None]) -> bool:
    for attempt in range(TRIES):
        try:
            write()
        except Conflict:
            return True
        except RateLimited:
            if attempt == TRIES - 1:
                raise
            sleep(WAIT_SECONDS)
        except (Invalid, Unavailable) as error:
            if error.status not in NOT_IMPLEMENTED:
                raise
            return False
        else:
            return False
    raise AssertionError("unreachable")
