"""The S3 application: nanio's, with middleware between its signature check and its handlers."""

import re
from pathlib import Path
from urllib.parse import parse_qsl, quote

from nanio.app import build_app
from nanio.config import Settings as NanioSettings
from nanio.errors import NotImplemented_, S3Error
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from localcloud.cloudflare.access_keys import AccessKeys
from localcloud.home import HomeState
from localcloud.storage.access import AccessMiddleware, KeyResolver
from localcloud.storage.lifecycle_rules import LifecycleMiddleware
from localcloud.storage.objects import ObjectStorage, conditions
from localcloud.storage.refusals import WriteRate, check_features, check_parts, refusal_response
from localcloud.web.request_bodies import read_body, replay_body

MAX_COMPLETION_BYTES = 4 * 1024 * 1024  # nanio's own limit for this request is lower
# For a chunked body, the header x-amz-content-sha256 begins with this.
STREAMING = b"STREAMING-"
# While the request's path is percent-encoded, the decoded path is kept under this key of the ASGI scope.
DECODED_PATH = "localcloud.decoded_path"
SUFFIX_RANGE = re.compile(r"^bytes=-(\d+)$")


def build_storage(folder: Path, state: HomeState, keys: AccessKeys, key_write_seconds: float) -> Starlette:
    """The S3 application on `folder`, after repairing what a kill may have left.

    The access key of `state` allows everything; `keys` are R2's. A key can be written once in `key_write_seconds`.
    """
    settings = NanioSettings(
        data_dir=folder.resolve(),
        region="auto",
        credentials=KeyResolver(state.s3_access_key_id, state.s3_secret_access_key, keys),
    )
    app: Starlette = build_app(settings)
    rate = WriteRate(key_write_seconds)
    storage = ObjectStorage(settings.data_dir, chunk_size=settings.chunk_size, write_rate=rate)
    storage.recover()
    app.state.storage = storage
    # The last middleware in the list is the innermost. All but the first run after the signature check and
    # inside nanio's error handling.
    app.user_middleware.insert(0, Middleware(EncodedPath))
    app.user_middleware.append(Middleware(DecodedPath))
    app.user_middleware.append(Middleware(AccessMiddleware, keys=keys))
    app.user_middleware.append(Middleware(LifecycleMiddleware, storage=storage))
    app.user_middleware.append(Middleware(R2Middleware, storage=storage))
    return app


class EncodedPath:
    """Encodes the path for nanio's signature check, which decodes it although the server has: a key may contain `%20`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": quote(scope["path"]), DECODED_PATH: scope["path"]}
        await self._app(scope, receive, send)


class DecodedPath:
    """Restores the path after the signature check."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope[DECODED_PATH]}
        await self._app(scope, receive, send)


class R2Middleware:
    """Refuses what R2 refuses, passes conditions on to the storage, and rewrites ranges that nanio does not understand."""

    def __init__(self, app: ASGIApp, storage: ObjectStorage) -> None:
        self._app, self._storage = app, storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        try:
            scope = self._prepare(scope, query, dict(scope["headers"]))
            if scope["method"] == "POST" and "uploadId" in query:
                body = await read_body(receive, MAX_COMPLETION_BYTES)
                check_parts(self._storage.sizes_of_parts(query["uploadId"], body))
                self._storage.begin_write(*bucket_and_key(scope))
                receive = replay_body(body)
        except S3Error as error:
            await refusal_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _prepare(self, scope: Scope, query: dict[str, str], headers: dict[bytes, bytes]) -> Scope:
        signed_as = headers.get(b"x-amz-content-sha256", b"")
        if signed_as.startswith(STREAMING):
            raise NotImplemented_(
                f"{_text(signed_as)} (a chunked body) is not implemented; set request_checksum_calculation=when_required"
            )
        check_features(scope["method"], query, headers)
        bucket, key = bucket_and_key(scope)
        if scope["method"] in ("PUT", "POST") and key:
            conditions.set((_text(headers.get(b"if-none-match")), _text(headers.get(b"if-match"))))
        if scope["method"] == "GET" and key:
            return self._with_explicit_range(scope, headers, bucket, key)
        return scope

    def _with_explicit_range(self, scope: Scope, headers: dict[bytes, bytes], bucket: str, key: str) -> Scope:
        """Replace a range of the last N bytes, which nanio does not understand, by one with a start."""
        found = SUFFIX_RANGE.match(_text(headers.get(b"range")) or "")
        if not found:
            return scope
        size = self._storage.head_object(bucket, key).size
        first = max(0, size - int(found.group(1)))
        rest = [pair for pair in scope["headers"] if pair[0] != b"range"]
        return {**scope, "headers": [*rest, (b"range", f"bytes={first}-".encode())]}


def bucket_and_key(scope: Scope) -> tuple[str, str]:
    """(bucket, key) of a request. Both can be empty."""
    bucket, _, key = scope["path"].lstrip("/").partition("/")
    return bucket, key


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
