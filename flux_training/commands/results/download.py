"""One object to one file: goes on where it was interrupted, and the file appears only when it is whole and right."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from flux_training.clients.errors import ServiceError
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.training.errors import FluxError

# What one request brings. A file no larger than this is fetched at once, with nothing to go on from.
CHUNK = 8 * 1024 * 1024

Told = Callable[[int], None]


def download(storage: Storage, info: ObjectInfo, path: Path, sha256: str | None, told: Told) -> None:
    """Fetch the object into `path`; `told` hears how many bytes came.

    What an interrupted fetch has brought lies beside it as `.<name>.<etag>.part`. Raises ServiceError, also when the bytes
    are not those of `sha256` (64 hex); FluxError when another fetch is at it; OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if info.size <= CHUNK:
        storage.download(info.key, path, sha256)
        told(info.size)
        return
    part = part_path(path, info)
    _drop_parts_of_older_objects(path, part)
    with part.open("ab") as file:
        _lock(file, path)
        _append(storage, info, file, told)
    _check(storage, info, part, sha256)
    part.chmod(0o644)
    part.replace(path)


def part_path(path: Path, info: ObjectInfo) -> Path:
    """Of this object as it is now: another one under the same key has another ETag."""
    mark = hashlib.sha256(info.etag.encode()).hexdigest()[:8]
    return path.with_name(f".{path.name}.{mark}.part")


def sha256_of(path: Path) -> str:
    """64 hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _append(storage: Storage, info: ObjectInfo, file: BinaryIO, told: Told) -> None:
    at = file.tell()
    told(min(at, info.size))
    while at < info.size:
        chunk = storage.get_range(info.key, at, min(CHUNK, info.size - at))
        if not chunk:
            return
        file.write(chunk)
        file.flush()
        at += len(chunk)
        told(len(chunk))


def _check(storage: Storage, info: ObjectInfo, part: Path, sha256: str | None) -> None:
    """Raises ServiceError and throws the part away when it is not the object."""
    now = storage.head(info.key)
    whole = part.stat().st_size == info.size
    changed = now is None or now.etag != info.etag
    if whole and not changed and (sha256 is None or sha256_of(part) == sha256):
        return
    part.unlink()
    if changed:
        raise ServiceError(f"{info.key} changed while it was fetched", "", "fetch it again")
    raise ServiceError(
        f"{info.key} in bucket {storage.bucket} is not what was written there",
        f"it should have SHA-256 {sha256[:12]}…" if sha256 else f"it should be {info.size} bytes long",
        "fetch it again; if that does not help, the object is damaged",
    )


def _drop_parts_of_older_objects(path: Path, part: Path) -> None:
    for other in path.parent.iterdir():
        is_part = other.name.startswith(f".{path.name}.") and other.name.endswith(".part")
        if is_part and other != part:
            other.unlink(missing_ok=True)


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise FluxError(f"{path} is being fetched by another `flux fetch`", "", "wait for it") from None
    file.seek(0, 2)
