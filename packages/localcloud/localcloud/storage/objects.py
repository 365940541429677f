"""Object storage in a folder: nanio's file storage, corrected where nanio 0.1.7 was seen to behave differently from R2.

nanio provides routes, XML, signatures and multipart uploads. Corrected here and in the modules beside it:
- PUT ignores `If-None-Match` and `If-Match`. Here they are checked in the same step as the rename.
- Listings are made folder by folder: a page break between `a/x` and `a-b` loses keys, temporary files of running uploads are listed,
  and common prefixes are repeated on each page.
- GET reads size and content at different times, so an object that is replaced meanwhile has a wrong length.
- A range past the end is an error, and `bytes=-N` is unknown.
- After a kill, an object can have the metadata of its predecessor, a left-over `.json.tmp` blocks its key for ever, and an empty
  folder prevents the deletion of its bucket.
- Chunked bodies (STREAMING-…, which SDKs send with a trailing checksum) are accepted, some of them stored with their framing.
- Lifecycle rules are missing (lifecycle_rules.py).
- Subresources such as tags and ACLs are treated as the object or bucket itself, parts can have any size, and keys can be written at any
  rate (refusals.py).
- There is only one access key. Here the keys that Cloudflare's API creates are valid too (access.py).

A key cannot be both an object and a folder (`a` and `a/b`), because objects are files. Bodies are never held in memory.
"""

import asyncio
import base64
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from defusedxml.ElementTree import ParseError, fromstring
from nanio.errors import BadDigest, BucketNotEmpty, NoSuchKey, PreconditionFailed, S3Error
from nanio.storage.backend import GetObjectResult, ListResult, ObjectInfo
from nanio.storage.filesystem import FilesystemStorage
from nanio.storage.metadata import write_metadata
from nanio.storage.multipart import MultipartManager
from nanio.storage.paths import metadata_path, object_path

from localcloud.storage.lifecycle_rules import delete_rules
from localcloud.storage.listing import page_of, walk_keys
from localcloud.storage.refusals import WriteRate

CHUNK_BYTES = 1024 * 1024
TEMPORARY_PREFIX = ".tmp."

# The If-None-Match and If-Match headers of the current PUT request. Each request is a task
# with its own context.
conditions: ContextVar[tuple[str | None, str | None]] = ContextVar("conditions", default=(None, None))


class InvalidRangeError(S3Error):  # type: ignore[misc]  # nanio is untyped
    code = "InvalidRange"
    message = "The requested range is not satisfiable"
    http_status = 416


class ObjectStorage(FilesystemStorage):  # type: ignore[misc]  # nanio is untyped
    """The corrected file storage. All requests run on one event loop, so code without `await` is atomic."""

    def __init__(
        self, data_dir: Path, *, chunk_size: int = CHUNK_BYTES, write_rate: WriteRate | None = None
    ) -> None:
        super().__init__(data_dir, chunk_size=chunk_size)
        self._write_rate = write_rate or WriteRate(0)

    def begin_write(self, bucket: str, key: str) -> None:
        """Check this request's conditions, then the write rate. Raises S3 errors."""
        self.check_conditions(bucket, key)
        self._write_rate.count_write(bucket, key)

    async def put_object(
        self,
        bucket: str,
        key: str,
        body: AsyncIterator[bytes],
        *,
        expected_md5: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        **headers: str | None,
    ) -> Any:
        """Stream to a temporary file, check the conditions, rename. `headers` are stored. Raises S3 errors."""
        self.begin_write(bucket, key)
        staged = self._data_dir / ".nanio" / f"{TEMPORARY_PREFIX}{os.urandom(16).hex()}"
        try:
            digest, size = await _write_file(staged, body)
            if expected_md5 is not None and expected_md5 != _base64_of(digest):
                raise BadDigest()
            self.check_conditions(bucket, key)
            final = object_path(self._data_dir, bucket, key)
            final.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(final)
        finally:
            staged.unlink(missing_ok=True)
        info = ObjectInfo(
            key=key,
            size=size,
            etag=f'"{digest}"',
            last_modified=datetime.now(tz=UTC),
            user_metadata=dict(user_metadata or {}),
            **headers,
        )
        write_metadata(metadata_path(self._data_dir, bucket, key), info)
        return info

    def check_conditions(self, bucket: str, key: str) -> None:
        """Raises PreconditionFailed (412) unless this request's If-None-Match and If-Match hold."""
        none_match, match = conditions.get()
        try:
            etag: str | None = self.head_object(bucket, key).etag
        except NoSuchKey:
            etag = None
        if none_match is not None and etag is not None and _matches(none_match, etag):
            raise PreconditionFailed()
        if match is not None and etag is None:
            # S3 and R2 also answer NoSuchKey here.
            raise NoSuchKey(resource=f"{bucket}/{key}")
        if match is not None and etag is not None and not _matches(match, etag):
            raise PreconditionFailed()

    async def get_object(
        self, bucket: str, key: str, *, range_start: int | None = None, range_end: int | None = None
    ) -> Any:
        """Open the file and read its metadata in one step. A range ends at the end of the object."""
        info = self.head_object(bucket, key)
        handle = os.open(object_path(self._data_dir, bucket, key), os.O_RDONLY | os.O_NOFOLLOW)
        if range_start is None:
            return GetObjectResult(info=info, body=_read_file(handle, 0, info.size))
        if range_start >= info.size:
            os.close(handle)
            raise InvalidRangeError()
        last = info.size - 1 if range_end is None else min(range_end, info.size - 1)
        return GetObjectResult(
            info=info,
            body=_read_file(handle, range_start, last - range_start + 1),
            range_start=range_start,
            range_end=last,
        )

    def sizes_of_parts(self, upload: str, body: bytes) -> list[int]:
        """The sizes of the parts that the body of CompleteMultipartUpload names. Raises NoSuchUpload.

        Invalid XML and missing parts are refused by nanio.
        """
        parts = MultipartManager(self._data_dir).list_parts(upload)
        present = {part.part_number: part.size for part in parts}
        try:
            named = [one.text or "" for one in fromstring(body).iter() if one.tag.endswith("PartNumber")]
        except ParseError:
            return []
        numbers = [int(text) for text in named if text.strip().isdigit()]
        return [present[number] for number in numbers if number in present]

    def list_objects(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str | None = None,
        max_keys: int = 1000,
        continuation_token: str | None = None,
        start_after: str | None = None,
    ) -> Any:
        """One page, ordered by the bytes of the keys. Common prefixes count as entries, as in S3."""
        keys = walk_keys(self._require_bucket_dir(bucket), prefix)
        page = page_of(keys, prefix, delimiter, min(max_keys, 1000), continuation_token, start_after)
        contents = []
        for key in page.keys:
            try:
                contents.append(self.head_object(bucket, key))
            except NoSuchKey:  # deleted meanwhile
                continue
        return ListResult(contents, page.prefixes, page.token is not None, page.token)

    def delete_bucket(self, bucket: str) -> None:
        """Remove a bucket without objects, along with the remains of unfinished uploads."""
        folder = self._require_bucket_dir(bucket)
        if walk_keys(folder, ""):
            raise BucketNotEmpty(resource=bucket)
        shutil.rmtree(folder)
        delete_rules(self._data_dir, bucket)

    def recover(self) -> None:
        """After a kill: delete half-written files, and renew metadata that is older than its object."""
        for left in (self._data_dir / ".nanio").glob(f"{TEMPORARY_PREFIX}*"):
            left.unlink()
        for bucket in self.list_buckets():
            folder = self._data_dir / bucket.name
            for left in (folder / ".nanio-meta").rglob("*.json.tmp"):
                left.unlink()
            for key in walk_keys(folder, ""):
                self._recover_object(bucket.name, key)

    def _recover_object(self, bucket: str, key: str) -> None:
        path = object_path(self._data_dir, bucket, key)
        side = metadata_path(self._data_dir, bucket, key)
        if side.exists() and side.stat().st_mtime_ns >= path.stat().st_mtime_ns:
            return
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, _md5).hexdigest()
        stat = path.stat()
        when = datetime.fromtimestamp(stat.st_mtime, tz=UTC)
        write_metadata(side, ObjectInfo(key=key, size=stat.st_size, etag=f'"{digest}"', last_modified=when))


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


async def _write_file(path: Path, body: AsyncIterator[bytes]) -> tuple[str, int]:
    """Write and sync a body. Returns its MD5 in hex, and its size."""
    digest, size = _md5(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb", buffering=CHUNK_BYTES) as file:
        async for chunk in body:
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    return digest.hexdigest(), size


async def _read_file(handle: int, start: int, length: int) -> AsyncIterator[bytes]:
    try:
        while length > 0:
            chunk = await asyncio.to_thread(os.pread, handle, min(CHUNK_BYTES, length), start)
            if not chunk:
                return
            yield chunk
            start, length = start + len(chunk), length - len(chunk)
    finally:
        os.close(handle)


def _matches(condition: str, etag: str) -> bool:
    etags = [one.strip().removeprefix("W/").strip('"') for one in condition.split(",")]
    return "*" in etags or etag.strip('"') in etags


def _base64_of(hex_digest: str) -> str:
    return base64.b64encode(bytes.fromhex(hex_digest)).decode()
