"""Downloads one object to a file. The file appears only once it is complete; an interrupted download continues."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from flux_training.clients.errors import Conflict, ServiceError, WrongContent
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.training.errors import FluxError
from flux_training.training.files import try_lock

# The bytes per request. A smaller file is downloaded with one request, so its download cannot be continued.
CHUNK_BYTES = 8 * 1024 * 1024
# How often a small object may change while it is downloaded.
MAX_CHANGES = 5

OnBytes = Callable[[int], None]


def download(storage: Storage, info: ObjectInfo, path: Path, sha256: str | None, on_bytes: OnBytes) -> None:
    """Download the object to `path`; `on_bytes` is called with the size of each part.

    An interrupted download leaves `.<name>.<etag>.part` beside it. Raises ServiceError, also if the content does not
    match `sha256` (64 hex digits), FluxError if another process is downloading it, and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if info.size <= CHUNK_BYTES:
        _download_small(storage, info, path, sha256)
        on_bytes(info.size)
        return
    part = part_path(path, info)
    _delete_outdated_parts(path, part)
    with part.open("ab") as file:
        _lock(file, path)
        _append_parts(storage, info, file, on_bytes)
    _verify(storage, info, part, sha256)
    part.chmod(0o644)
    part.replace(path)


def _download_small(storage: Storage, info: ObjectInfo, path: Path, sha256: str | None) -> None:
    """In one request, and again if it has changed since it was listed: a running node writes its report every few seconds."""
    for _ in range(MAX_CHANGES):
        try:
            storage.download(info.key, path, sha256, size=info.size)
            return
        except Conflict:
            current = storage.head(info.key)
            if current is None or current.size > CHUNK_BYTES:
                raise
            info = current
    raise ServiceError(f"{info.key} changes again and again", "", "run the same command later")


def part_path(path: Path, info: ObjectInfo) -> Path:
    """Named after the ETag, which changes when the object is replaced."""
    etag = hashlib.sha256(info.etag.encode()).hexdigest()[:8]
    return path.with_name(f".{path.name}.{etag}.part")


def sha256_of_file(path: Path) -> str:
    """64 hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _append_parts(storage: Storage, info: ObjectInfo, file: BinaryIO, on_bytes: OnBytes) -> None:
    position = file.tell()
    on_bytes(min(position, info.size))
    while position < info.size:
        chunk = storage.get_range(info.key, position, min(CHUNK_BYTES, info.size - position))
        if not chunk:
            return
        file.write(chunk)
        file.flush()
        position += len(chunk)
        on_bytes(len(chunk))


def _verify(storage: Storage, info: ObjectInfo, part: Path, sha256: str | None) -> None:
    """Delete the part and raise ServiceError if it is not the object."""
    current = storage.head(info.key)
    has_changed = current is None or current.etag != info.etag
    is_complete = part.stat().st_size == info.size
    if is_complete and not has_changed and (sha256 is None or sha256_of_file(part) == sha256):
        return
    part.unlink()
    if has_changed:
        raise ServiceError(f"{info.key} changed while it was downloaded", "", "run the same command again")
    raise WrongContent(
        f"{info.key} in bucket {storage.bucket} is not what was written there",
        f"it should have SHA-256 {sha256[:12]}…" if sha256 else f"it should be {info.size} bytes long",
        "run the same command again; if the error stays, the object itself is damaged",
    )


def _delete_outdated_parts(path: Path, part: Path) -> None:
    for other in path.parent.iterdir():
        is_part = other.name.startswith(f".{path.name}.") and other.name.endswith(".part")
        if is_part and other != part:
            other.unlink(missing_ok=True)


def _lock(file: BinaryIO, path: Path) -> None:
    if not try_lock(file.fileno()):
        raise FluxError(f"another `flux fetch` is downloading {path}", "", "wait until it has ended")
    file.seek(0, 2)
