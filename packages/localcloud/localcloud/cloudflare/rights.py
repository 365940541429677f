"""What R2's keys may do in the local S3: runs behind nanio's signature check, which tells whose key it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

# Neither ships type information.
from defusedxml.ElementTree import ParseError, fromstring  # type: ignore[import-untyped]
from nanio.errors import AccessDenied, InvalidAccessKeyId, S3Error  # type: ignore[import-untyped]
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from localcloud.bodies import again, read_body
from localcloud.cloudflare.keys import Key, Keys
from localcloud.cloudflare.keys import Scope as KeyScope

MOST_DELETE_BYTES = 4 * 1024 * 1024
READING = ("GET", "HEAD")


class ExpiredTokenError(S3Error):  # type: ignore[misc]  # nanio is untyped
    """Temporary credentials, or a token, whose time is over."""

    code = "ExpiredToken"
    message = "The provided token has expired."
    http_status = 400


class InvalidTokenError(S3Error):  # type: ignore[misc]  # nanio is untyped
    """Another session token than the one that belongs to the key."""

    code = "InvalidToken"
    message = "The provided token is malformed or otherwise invalid."
    http_status = 400


class KeyResolver:
    """nanio's look-up of secrets: the local cloud's own key, and those in the database."""

    def __init__(self, own_id: str, own_secret: str, keys: Keys) -> None:
        self._own_id, self._own_secret, self._keys = own_id, own_secret, keys

    def resolve(self, access_key: str) -> str | None:
        """The secret of a key, None when there is none."""
        if access_key == self._own_id:
            return self._own_secret
        key = self._keys.get(access_key)
        return None if key is None else key.secret

    def access_keys(self) -> list[str]:
        """nanio wants to see at least one."""
        return [self._own_id]


@dataclass(frozen=True)
class Asked:
    """One S3 request, as far as rights go."""

    method: str
    bucket: str
    key: str
    query: dict[str, list[str]]
    headers: dict[bytes, bytes]

    def one(self, name: str) -> str:
        """A query parameter."""
        return self.query.get(name, [""])[0]


class RightsMiddleware:
    """Refuses what a key may not do, an expired key, and a wrong session token."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        identity = scope.get("nanio.principal", "")
        if scope["type"] != "http" or self._keys.is_root(identity):
            await self._app(scope, receive, send)
            return
        bucket, _, key = scope["path"].lstrip("/").partition("/")
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        asked = Asked(scope["method"], bucket, key, query, dict(scope["headers"]))
        try:
            known = self._known(identity, asked)
            if asked.method == "POST" and not asked.key and "delete" in asked.query:
                body = await read_body(receive, MOST_DELETE_BYTES)
                _check_deletion(known.scopes, asked.bucket, body)
                receive = again(body)
            else:
                _check(known.scopes, asked)
        except S3Error as error:
            refusal = Response(error.to_xml(), error.http_status, media_type="application/xml")
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, identity: str, asked: Asked) -> Key:
        """The key, when it counts now. Raises S3Error."""
        key = self._keys.get(identity)
        if key is None:
            raise InvalidAccessKeyId()
        given = asked.headers.get(b"x-amz-security-token", b"").decode("latin-1")
        given = given or asked.one("X-Amz-Security-Token")
        if key.session_token is not None and not given:
            raise InvalidAccessKeyId()
        if key.session_token is not None and given != key.session_token:
            raise InvalidTokenError()
        if key.expired:
            raise ExpiredTokenError()
        return key


def _check(scopes: Sequence[KeyScope], asked: Asked) -> None:
    """Raises AccessDenied unless one of the scopes allows it; a copy has to be allowed at both ends."""
    if not any(_allows(scope, asked) for scope in scopes):
        raise AccessDenied()
    source = asked.headers.get(b"x-amz-copy-source")
    if source is not None:
        bucket, _, key = unquote(source.decode("latin-1")).lstrip("/").partition("/")
        if not any(scope.has_key(bucket, key) for scope in scopes):
            raise AccessDenied()


def _allows(scope: KeyScope, asked: Asked) -> bool:
    if asked.key:
        return scope.has_key(asked.bucket, asked.key) and (scope.write or asked.method in READING)
    if not asked.bucket:
        return scope.admin and scope.buckets is None and asked.method in READING
    if "lifecycle" in asked.query:
        return scope.admin and scope.has_bucket(asked.bucket) and (scope.write or asked.method == "GET")
    if asked.method == "GET" and "location" not in asked.query:
        return scope.has_listing(asked.bucket, asked.one("prefix"))
    if asked.method in READING:
        return scope.has_bucket(asked.bucket)
    return scope.admin and scope.write and scope.has_bucket(asked.bucket)


def _check_deletion(scopes: Sequence[KeyScope], bucket: str, body: bytes) -> None:
    """DeleteObjects names its keys in the body."""
    try:
        keys = [element.text or "" for element in fromstring(body).iter() if element.tag.endswith("Key")]
    except ParseError:
        return  # nanio refuses it, in its own words
    if not all(any(scope.write and scope.has_key(bucket, key) for scope in scopes) for key in keys):
        raise AccessDenied()
