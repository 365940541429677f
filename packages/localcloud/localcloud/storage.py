"""Object storage: nanio's S3 server on HOME/s3, and around it what R2 does and nanio 0.1.7 does not.

nanio gives routes, XML, signatures and multipart uploads. Mended here, each seen to be wrong in nanio 0.1.7:
- PUT knows no `If-None-Match` and `If-Match`; here they are checked in the same step as the rename.
- A listing is walked folder by folder, so that a page break between `a/x` and `a-b` loses keys, shows the temporary files
  of running uploads and repeats common prefixes on every page.
- GET reads size and bytes at different times, so an object replaced meanwhile comes with a wrong length.
- A range past the end is an error, and `bytes=-N` is unknown.
- After a kill, an object can stand beside the metadata of the one it replaced, a left-over `.json.tmp` blocks its key
  for ever, and an empty folder makes its bucket undeletable.
- A body in chunks (STREAMING-…, as SDKs send it with a trailing checksum) is refused, as R2 does; nanio takes those that are
  signed and stores the others with their framing.
- There are no lifecycle rules (localcloud/retention.py).
- What hangs on an object or a bucket (tags, ACLs, policies) is taken for the object or the bucket itself (localcloud/r2_refusals.py).
- A multipart upload may have parts of any size (the same).
- A key may be written at any rate (the same).
- Keys are fixed; here those that the Cloudflare stand-in gives out count too, within their rights.

A key cannot be both an object and a folder (`a` and `a/b`), because objects are files. Bodies are never held in memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

# Neither ships type information.
from defusedxml.ElementTree import ParseError, fromstring  # type: ignore[import-untyped]
from nanio.app import build_app  # type: ignore[import-untyped]
from nanio.config import Settings as NanioSettings  # type: ignore[import-untyped]
from nanio.errors import (  # type: ignore[import-untyped]
    BadDigest,
    BucketNotEmpty,
    NoSuchKey,
    NotImplemented_,
    PreconditionFailed,
    S3Error,
)
from nanio.storage.backend import GetObjectResult, ListResult, ObjectInfo  # type: ignore[import-untyped]
from nanio.storage.filesystem import FilesystemStorage  # type: ignore[import-untyped]
from nanio.storage.metadata import write_metadata  # type: ignore[import-untyped]
from nanio.storage.multipart import MultipartManager  # type: ignore[import-untyped]
from nanio.storage.paths import metadata_path, object_path  # type: ignore[import-untyped]
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from localcloud.bodies import again, read_body
from localcloud.cloudflare.keys import Keys
from localcloud.cloudflare.rights import KeyResolver, RightsMiddleware
from localcloud.listing import Page, page_of, walk_keys
from localcloud.r2_refusals import WriteRate, check_features, check_parts
from localcloud.retention import RetentionMiddleware, forget_rules

CHUNK = 1024 * 1024
TEMPORARY = ".tmp."
MOST_COMPLETION_BYTES = 4 * 1024 * 1024  # nanio's own limit is less
STREAMING = (
    b"STREAMING-"  # how x-amz-content-sha256 begins for a body in signed chunks, or with a trailing checksum
)
_SUFFIX_RANGE = re.compile(r"^bytes=-(\d+)$")

# (If-None-Match, If-Match) of the PUT that is being served; tasks, so requests, have their own.
_conditions: ContextVar[tuple[str | None, str | None]] = ContextVar("conditions", default=(None, None))


class InvalidRangeError(S3Error):  # type: ignore[misc]  # nanio is untyped
    """A range that begins past the end."""

    code = "InvalidRange"
    message = "The requested range is not satisfiable"
    http_status = 416


class ObjectStorage(FilesystemStorage):  # type: ignore[misc]  # nanio is untyped
    """nanio's file storage with the mends of this module's docstring.

    Everything runs on one event loop, so what has no `await` in between is one step to all requests.
    """

    def __init__(
        self, data_dir: Path, *, chunk_size: int = CHUNK, write_rate: WriteRate | None = None
    ) -> None:
        super().__init__(data_dir, chunk_size=chunk_size)
        self._write_rate = write_rate or WriteRate(0)

    def begin_write(self, bucket: str, key: str) -> None:
        """What has to hold before a byte is taken: this request's conditions, then the rate. Raises nanio's S3 errors."""
        self.check_conditions(bucket, key)
        self._write_rate.take(bucket, key)

    async def put_object(
        self,
        bucket: str,
        key: str,
        body: AsyncIterator[bytes],
        *,
        content_type: str = "application/octet-stream",
        user_metadata: Mapping[str, str] | None = None,
        content_encoding: str | None = None,
        content_disposition: str | None = None,
        cache_control: str | None = None,
        expected_md5: str | None = None,
    ) -> Any:
        """Stream to a temporary file, check the conditions, rename. Raises nanio's S3 errors."""
        self.begin_write(bucket, key)
        staged = self._data_dir / ".nanio" / f"{TEMPORARY}{os.urandom(16).hex()}"
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
            content_type=content_type,
            user_metadata=dict(user_metadata or {}),
            content_encoding=content_encoding,
            content_disposition=content_disposition,
            cache_control=cache_control,
        )
        write_metadata(metadata_path(self._data_dir, bucket, key), info)
        return info

    def check_conditions(self, bucket: str, key: str) -> None:
        """Raise PreconditionFailed (412) unless this request's If-None-Match and If-Match hold."""
        none_match, match = _conditions.get()
        try:
            etag: str | None = self.head_object(bucket, key).etag
        except NoSuchKey:
            etag = None
        if none_match is not None and etag is not None and _matches(none_match, etag):
            raise PreconditionFailed()
        if match is not None and etag is None:
            # As S3 and R2: there is nothing that could match.
            raise NoSuchKey(resource=f"{bucket}/{key}")
        if match is not None and etag is not None and not _matches(match, etag):
            raise PreconditionFailed()

    async def get_object(
        self, bucket: str, key: str, *, range_start: int | None = None, range_end: int | None = None
    ) -> Any:
        """Open the file and read its metadata in one step; a range is cut at the end of the object."""
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
        """The sizes of those parts that CompleteMultipartUpload's body names. Raises NoSuchUpload.

        What is no XML, or names parts that are not there, is left to nanio to refuse.
        """
        present = {
            part.part_number: part.size for part in MultipartManager(self._data_dir).list_parts(upload)
        }
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
        """One page in the order of the keys' bytes; common prefixes count as entries, as in S3."""
        keys = walk_keys(self._require_bucket_dir(bucket), prefix)
        page: Page = page_of(keys, prefix, delimiter, min(max_keys, 1000), continuation_token, start_after)
        contents = []
        for key in page.keys:
            try:
                contents.append(self.head_object(bucket, key))
            except NoSuchKey:  # deleted since the walk
                continue
        return ListResult(contents, page.prefixes, page.token is not None, page.token)

    def delete_bucket(self, bucket: str) -> None:
        """Remove a bucket without objects; what uploads that broke off left behind does not count."""
        folder = self._require_bucket_dir(bucket)
        if walk_keys(folder, ""):
            raise BucketNotEmpty(resource=bucket)
        shutil.rmtree(folder)
        forget_rules(self._data_dir, bucket)

    def recover(self) -> None:
        """After a kill: drop half-written files, give objects whose metadata is older than their bytes new metadata."""
        for left in (self._data_dir / ".nanio").glob(f"{TEMPORARY}*"):
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


class StorageMiddleware:
    """Runs between nanio's signature check and its handlers: refuses what R2 refuses, hands on conditions, mends ranges."""

    def __init__(self, app: ASGIApp, storage: ObjectStorage) -> None:
        self._app, self._storage = app, storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        try:
            scope = self._prepared(scope, query, dict(scope["headers"]))
            if scope["method"] == "POST" and "uploadId" in query:
                body = await read_body(receive, MOST_COMPLETION_BYTES)
                check_parts(self._storage.sizes_of_parts(query["uploadId"], body))
                self._storage.begin_write(*_place(scope))
                receive = again(body)
        except S3Error as error:
            refusal = Response(error.to_xml(), error.http_status, media_type="application/xml")
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _prepared(self, scope: Scope, query: dict[str, str], headers: dict[bytes, bytes]) -> Scope:
        signed_as = headers.get(b"x-amz-content-sha256", b"")
        if signed_as.startswith(STREAMING):
            raise NotImplemented_(
                f"{_text(signed_as)} is not implemented: a body in chunks; set request_checksum_calculation=when_required"
            )
        check_features(scope["method"], query, headers)
        bucket, key = _place(scope)
        if scope["method"] in ("PUT", "POST") and key:
            _conditions.set((_text(headers.get(b"if-none-match")), _text(headers.get(b"if-match"))))
        if scope["method"] == "GET" and key:
            return self._with_plain_range(scope, headers, bucket, key)
        return scope

    def _with_plain_range(self, scope: Scope, headers: dict[bytes, bytes], bucket: str, key: str) -> Scope:
        """The last N bytes asked for by their place, which is all that nanio's handler understands."""
        found = _SUFFIX_RANGE.match(_text(headers.get(b"range")) or "")
        if not found:
            return scope
        size = self._storage.head_object(bucket, key).size
        first = max(0, size - int(found.group(1)))
        rest = [pair for pair in scope["headers"] if pair[0] != b"range"]
        return {**scope, "headers": [*rest, (b"range", f"bytes={first}-".encode())]}


def build_storage(
    folder: Path, access_key_id: str, secret_access_key: str, keys: Keys, key_write_seconds: float
) -> Starlette:
    """The S3 application on `folder`, after putting right what a kill may have left.

    The access key given may do everything; `keys` are those of R2's tokens. `key_write_seconds`: between two writes of a key.
    """
    settings = NanioSettings(
        data_dir=folder.resolve(),
        region="auto",
        credentials=KeyResolver(access_key_id, secret_access_key, keys),
    )
    app: Starlette = build_app(settings)
    storage = ObjectStorage(
        settings.data_dir, chunk_size=settings.chunk_size, write_rate=WriteRate(key_write_seconds)
    )
    storage.recover()
    app.state.storage = storage
    # The last of the list is the innermost: behind the signature check, inside nanio's error handling.
    app.user_middleware.append(Middleware(RightsMiddleware, keys=keys))
    app.user_middleware.append(Middleware(RetentionMiddleware, storage=storage))
    app.user_middleware.append(Middleware(StorageMiddleware, storage=storage))
    return app


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


async def _write_file(path: Path, body: AsyncIterator[bytes]) -> tuple[str, int]:
    """Write and sync a body. Gives its MD5 in hex and its size in bytes."""
    digest, size = _md5(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb", buffering=CHUNK) as file:
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
            chunk = await asyncio.to_thread(os.pread, handle, min(CHUNK, length), start)
            if not chunk:
                return
            yield chunk
            start, length = start + len(chunk), length - len(chunk)
    finally:
        os.close(handle)


def _matches(condition: str, etag: str) -> bool:
    wanted = [one.strip().removeprefix("W/").strip('"') for one in condition.split(",")]
    return "*" in wanted or etag.strip('"') in wanted


def _base64_of(hex_digest: str) -> str:
    return base64.b64encode(bytes.fromhex(hex_digest)).decode()


def _place(scope: Scope) -> tuple[str, str]:
    """(bucket, key) of a request; both may be empty."""
    bucket, _, key = scope["path"].lstrip("/").partition("/")
    return bucket, key


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
