"""The rights of R2's access keys. Runs after nanio's signature check, which identifies the key."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from defusedxml.ElementTree import ParseError, fromstring
from nanio.errors import AccessDenied, InvalidAccessKeyId, S3Error
from starlette.types import ASGIApp, Receive, Scope, Send

from localcloud.cloudflare.access_keys import AccessKey, AccessKeys, KeyScope
from localcloud.storage.refusals import refusal_response
from localcloud.web.request_bodies import read_body, replay_body

MAX_DELETE_BYTES = 4 * 1024 * 1024
READING = ("GET", "HEAD")


class ExpiredTokenError(S3Error):  # type: ignore[misc]  # nanio is untyped
    code = "ExpiredToken"
    message = "The provided token has expired."
    http_status = 400


class InvalidTokenError(S3Error):  # type: ignore[misc]  # nanio is untyped
    code = "InvalidToken"
    message = "The provided token is malformed or otherwise invalid."
    http_status = 400


class KeyResolver:
    """Finds secrets for nanio: of the local cloud's own key, and of those in the database."""

    def __init__(self, own_id: str, own_secret: str, keys: AccessKeys) -> None:
        self._own_id, self._own_secret, self._keys = own_id, own_secret, keys

    def resolve(self, access_key: str) -> str | None:
        if access_key == self._own_id:
            return self._own_secret
        key = self._keys.get(access_key)
        return None if key is None else key.secret

    def access_keys(self) -> list[str]:
        # nanio, the S3 server, needs at least one key id here.
        return [self._own_id]


@dataclass(frozen=True)
class S3Request:
    """The parts of a request that the rights depend on."""

    method: str
    bucket: str
    key: str
    query: dict[str, list[str]]
    headers: dict[bytes, bytes]

    def parameter(self, name: str) -> str:
        return self.query.get(name, [""])[0]


class AccessMiddleware:
    """Refuses requests that the key does not allow, expired keys, and wrong session tokens."""

    def __init__(self, app: ASGIApp, keys: AccessKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        identity = scope.get("nanio.principal", "")
        if scope["type"] != "http" or self._keys.is_root(identity):
            await self._app(scope, receive, send)
            return
        bucket, _, key = scope["path"].lstrip("/").partition("/")
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        request = S3Request(scope["method"], bucket, key, query, dict(scope["headers"]))
        try:
            key_found = self._valid_key(identity, request)
            if request.method == "POST" and not request.key and "delete" in request.query:
                body = await read_body(receive, MAX_DELETE_BYTES)
                _check_deletion(key_found.scopes, request.bucket, body)
                receive = replay_body(body)
            else:
                _check(key_found.scopes, request)
        except S3Error as error:
            await refusal_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _valid_key(self, identity: str, request: S3Request) -> AccessKey:
        """The key, if it is valid now. Raises S3Error."""
        key = self._keys.get(identity)
        if key is None:
            raise InvalidAccessKeyId()
        given = request.headers.get(b"x-amz-security-token", b"").decode("latin-1")
        given = given or request.parameter("X-Amz-Security-Token")
        if key.session_token is not None and not given:
            raise InvalidAccessKeyId()
        if key.session_token is not None and given != key.session_token:
            raise InvalidTokenError()
        if key.is_expired:
            raise ExpiredTokenError()
        return key


def _check(scopes: Sequence[KeyScope], request: S3Request) -> None:
    """Raises AccessDenied unless a scope allows the request. For a copy, source and target must be allowed."""
    if not any(_allows(scope, request) for scope in scopes):
        raise AccessDenied()
    source = request.headers.get(b"x-amz-copy-source")
    if source is not None:
        bucket, _, key = unquote(source.decode("latin-1")).lstrip("/").partition("/")
        if not any(scope.allows_key(bucket, key) for scope in scopes):
            raise AccessDenied()


def _allows(scope: KeyScope, request: S3Request) -> bool:
    if request.key:
        return scope.allows_key(request.bucket, request.key) and (scope.write or request.method in READING)
    if not request.bucket:
        return scope.admin and scope.buckets is None and request.method in READING
    if "lifecycle" in request.query:
        return (
            scope.admin and scope.allows_bucket(request.bucket) and (scope.write or request.method == "GET")
        )
    if request.method == "GET" and "location" not in request.query:
        return scope.allows_listing(request.bucket, request.parameter("prefix"))
    if request.method in READING:
        return scope.allows_bucket(request.bucket)
    return scope.admin and scope.write and scope.allows_bucket(request.bucket)


def _check_deletion(scopes: Sequence[KeyScope], bucket: str, body: bytes) -> None:
    """Check DeleteObjects, which names its keys in the body."""
    try:
        keys = [element.text or "" for element in fromstring(body).iter() if element.tag.endswith("Key")]
    except ParseError:
        return  # nanio refuses it
    if not all(any(scope.write and scope.allows_key(bucket, key) for scope in scopes) for key in keys):
        raise AccessDenied()
