"""Reads objects of the bucket that someone else may have written. Every read has a limit; see flux_training/training/untrusted.py."""

from typing import TypeVar

from flux_training.clients.errors import NotFound
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.training.untrusted import MAX_RECORD_BYTES, Parsed, UntrustedRecord, parse_record

R = TypeVar("R", bound=UntrustedRecord)


def read_record(storage: Storage, key: str, kind: type[R]) -> Parsed[R]:
    """The object as a record, with what was wrong with it; no value and no faults if it does not exist. Raises ServiceError."""
    raw = read_bounded(storage, key, MAX_RECORD_BYTES + 1)
    if raw is None:
        return Parsed()
    found = parse_record(raw, kind)
    return Parsed(found.value, tuple(f"{key}: {fault}" for fault in found.faults))


def listed(storage: Storage, key: str) -> ObjectInfo | None:
    """The object, found by a listing; None if it does not exist. Works for one that its writer made unreadable. Raises ServiceError."""
    first = next(iter(storage.list(key)), None)
    return first if first and first.key == key else None


def read_bounded(storage: Storage, key: str, limit: int) -> bytes | None:
    """At most `limit` bytes of the object; None if it does not exist. Raises ServiceError, NotFound if there is no bucket."""
    try:
        return storage.get_range(key, 0, limit)
    except NotFound as error:
        if error.code == "NoSuchBucket":
            raise
        return None
