"""Cloudflare's API below /cloudflare/client/v4: R2 buckets, account tokens, temporary credentials.

Answers have Cloudflare's envelope: {"success", "errors": [{"code", "message"}], "messages", "result"}.
"""

import hashlib
import re
import secrets
from datetime import datetime
from typing import Any

from nanio.errors import BucketAlreadyOwnedByYou, BucketNotEmpty, NoSuchBucket
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localcloud.cloudflare.access_keys import AccessKey, AccessKeys, KeyScope
from localcloud.database import CloudDatabase, iso_time, now
from localcloud.home import HomeState
from localcloud.storage.objects import ObjectStorage
from localcloud.web.request_bodies import parse_json
from localcloud.web.routing import Handler, app_with_caller_check

BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
LOCATIONS = ("apac", "eeur", "enam", "weur", "wnam", "oc")
MAX_TTL_SECONDS = 604800
PERMISSIONS = {
    "admin-read-write": (True, True),
    "admin-read-only": (False, True),
    "object-read-write": (True, False),
    "object-read-only": (False, False),
}
# Cloudflare's permission groups by id: the name, and whether it allows (writing, administration).
PERMISSION_GROUPS = {
    "2efd5506f9c8494dacb1fa10a3e7d5b6": ("Workers R2 Storage Bucket Item Write", (True, False)),
    "6a018a9f2fc74eb6b293b0c548f38b39": ("Workers R2 Storage Bucket Item Read", (False, False)),
    "bf7481a1826f439697cb59a20b22293e": ("Workers R2 Storage Write", (True, True)),
    "b4992e1108244f5d8bfbd5744320c2e1": ("Workers R2 Storage Read", (False, True)),
}


class RefusalError(Exception):
    """A refused request, with Cloudflare's error code."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


NO_BUCKET = RefusalError(404, 10006, "The specified bucket does not exist.")


class CloudflareRoutes:
    """The API of the only account."""

    def __init__(
        self, database: CloudDatabase, storage: ObjectStorage, keys: AccessKeys, state: HomeState
    ) -> None:
        self._db, self._storage, self._keys = database, storage, keys
        self._account, self._token = state.cloudflare_account_id, state.cloudflare_api_token

    def app(self) -> Starlette:
        account = "/accounts/{account}"
        table: list[tuple[str, str, Handler]] = [
            ("GET", account + "/r2/buckets", self.list_buckets),
            ("POST", account + "/r2/buckets", self.create_bucket),
            ("GET", account + "/r2/buckets/{name}", self.get_bucket),
            ("DELETE", account + "/r2/buckets/{name}", self.delete_bucket),
            ("POST", account + "/r2/temp-access-credentials", self.create_temporary),
            ("GET", account + "/tokens", self.list_tokens),
            ("POST", account + "/tokens", self.create_token),
            ("GET", account + "/tokens/permission_groups", self.permission_groups),
            ("GET", account + "/tokens/{id}", self.get_token),
            ("DELETE", account + "/tokens/{id}", self.delete_token),
        ]
        return app_with_caller_check(table, _not_found, self._check_caller, {RefusalError: _refused})

    def _check_caller(self, request: Request) -> None:
        token, account = request.headers.get("authorization"), request.path_params.get("account")
        if token != f"Bearer {self._token}" or account not in (None, self._account):
            raise RefusalError(403, 10000, "Authentication error")

    # ---- buckets

    async def list_buckets(self, _request: Request) -> Response:
        return success({"buckets": [self._shown(info.name) for info in self._storage.list_buckets()]})

    async def create_bucket(self, request: Request) -> Response:
        body = await body_of(request)
        name, hint = body.get("name"), body.get("locationHint")
        if not isinstance(name, str) or not BUCKET_NAME.fullmatch(name):
            raise RefusalError(400, 10005, "The specified bucket name is not valid.")
        if hint is not None and str(hint).lower() not in LOCATIONS:
            raise RefusalError(400, 10040, f"The location hint must be one of {', '.join(LOCATIONS)}.")
        try:
            self._storage.create_bucket(name)
        except BucketAlreadyOwnedByYou:
            message = "The bucket you tried to create already exists, and you own it."
            raise RefusalError(409, 10004, message) from None
        self._db.execute(
            "INSERT OR REPLACE INTO r2_buckets VALUES (?, ?, ?)",
            (name, str(hint or "weur").upper(), str(body.get("storageClass") or "Standard")),
        )
        return success(self._shown(name))

    async def get_bucket(self, request: Request) -> Response:
        return success(self._shown(request.path_params["name"]))

    async def delete_bucket(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._shown(name)
        try:
            self._storage.delete_bucket(name)
        except BucketNotEmpty:
            raise RefusalError(409, 10008, "The bucket you tried to delete is not empty.") from None
        self._db.execute("DELETE FROM r2_buckets WHERE name = ?", (name,))
        return success({})

    def _shown(self, name: str) -> dict[str, Any]:
        if not BUCKET_NAME.fullmatch(name):
            raise NO_BUCKET
        try:
            info = self._storage.head_bucket(name)
        except NoSuchBucket:
            raise NO_BUCKET from None
        row = self._db.first("SELECT * FROM r2_buckets WHERE name = ?", name)
        return {
            "name": name,
            "creation_date": iso_time(info.created.timestamp()),
            "location": row["location"] if row else "WEUR",
            "storage_class": row["storage_class"] if row else "Standard",
            "jurisdiction": "default",
        }

    # ---- tokens

    async def permission_groups(self, _request: Request) -> Response:
        return success([{"id": identity, "name": name} for identity, (name, _) in PERMISSION_GROUPS.items()])

    async def list_tokens(self, request: Request) -> Response:
        page, size = _number(request, "page", 1), _number(request, "per_page", 20)
        if page < 1 or not 5 <= size <= 50:
            raise RefusalError(400, 1001, "page must be at least 1, and per_page between 5 and 50.")
        return success([token_as_json(key) for key in self._keys.tokens()[(page - 1) * size : page * size]])

    async def create_token(self, request: Request) -> Response:
        """Only this answer contains the token's value."""
        body = await body_of(request)
        policies, name = body.get("policies"), body.get("name")
        if not isinstance(name, str) or not isinstance(policies, list) or not policies:
            raise RefusalError(400, 1001, "A token needs a name and at least one policy.")
        value = secrets.token_urlsafe(30)  # 40 characters, as many as in Cloudflare's tokens
        secret = hashlib.sha256(value.encode()).hexdigest()
        scopes = [self._scope(policy) for policy in policies]
        key = AccessKey(name, secret, scopes, policies, expires=_timestamp(body.get("expires_on")))
        self._keys.add(key)
        return success(token_as_json(key) | {"value": value})

    async def get_token(self, request: Request) -> Response:
        return success(token_as_json(self._require_token(request.path_params["id"])))

    async def delete_token(self, request: Request) -> Response:
        key = self._require_token(request.path_params["id"])
        self._keys.remove(key.id)
        return success({"id": key.id})

    def _require_token(self, identity: str) -> AccessKey:
        key = self._keys.get(identity)
        if key is None or key.parent:
            raise RefusalError(404, 1003, "The token could not be found.")
        return key

    def _scope(self, policy: Any) -> KeyScope:
        """The scope of a policy. Raises RefusalError for a policy that is not about R2 or does not allow anything."""
        try:
            groups = [PERMISSION_GROUPS[str(group["id"])][1] for group in policy["permission_groups"]]
            resources = list(policy["resources"])
            allowed = policy["effect"] == "allow"
        except (KeyError, TypeError):
            raise RefusalError(400, 1001, "A policy's permission group or resource is unknown.") from None
        if not allowed or not groups:
            raise RefusalError(400, 1001, "Only policies with the effect `allow` are implemented.")
        begin = f"com.cloudflare.edge.r2.bucket.{self._account}_default_"
        buckets = tuple(name.removeprefix(begin) for name in resources if name.startswith(begin))
        everything = f"com.cloudflare.api.account.{self._account}" in resources
        if not everything and len(buckets) != len(resources):
            message = "A policy's resource is neither this account nor one of its buckets."
            raise RefusalError(400, 1001, message)
        write, admin = any(one[0] for one in groups), any(one[1] for one in groups)
        return KeyScope(None if everything else buckets, write, admin)

    # ---- temporary credentials

    async def create_temporary(self, request: Request) -> Response:
        body = await body_of(request)
        scope, seconds = _temporary_scope(body)
        parent = body.get("parentAccessKeyId")
        if not isinstance(parent, str) or not self._may_delegate(parent, scope):
            message = "The parent access key is unknown or has fewer permissions than requested."
            raise RefusalError(403, 10003, message)
        key = AccessKey(
            "temporary",
            secrets.token_hex(32),
            scopes=[scope],
            policies=[],
            expires=now() + seconds,
            session_token=secrets.token_urlsafe(96),
            parent=parent,
        )
        self._keys.add(key)
        credentials = {"accessKeyId": key.id, "secretAccessKey": key.secret}
        return success(credentials | {"sessionToken": key.session_token})

    def _may_delegate(self, parent: str, scope: KeyScope) -> bool:
        if self._keys.is_root(parent):
            return True
        key = self._keys.get(parent)
        if key is None or key.is_expired or key.parent:
            return False
        return any(own.covers(scope) for own in key.scopes)


def _temporary_scope(body: dict[str, Any]) -> tuple[KeyScope, float]:
    """The requested (scope, lifetime in seconds). Raises RefusalError."""
    bucket, permission, seconds = (body.get(name) for name in ("bucket", "permission", "ttlSeconds"))
    prefixes, objects = body.get("prefixes") or [], body.get("objects") or []
    if not isinstance(bucket, str) or permission not in PERMISSIONS:
        message = f"bucket and permission (one of {', '.join(PERMISSIONS)}) are required."
        raise RefusalError(400, 10025, message)
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < (seconds or 0) <= MAX_TTL_SECONDS:
        raise RefusalError(400, 10025, f"ttlSeconds must be more than 0 and at most {MAX_TTL_SECONDS}.")
    if not all(isinstance(path, str) for path in [*prefixes, *objects]):
        raise RefusalError(400, 10025, "prefixes and objects must be lists of strings.")
    write, admin = PERMISSIONS[permission]
    return KeyScope([bucket], write, admin, prefixes, objects), float(seconds or 0)


def token_as_json(key: AccessKey) -> dict[str, Any]:
    """A token in the API's format, without its value."""
    shown = {
        "id": key.id,
        "name": key.name,
        "status": "expired" if key.is_expired else "active",
        "issued_on": iso_time(key.created),
        "modified_on": iso_time(key.created),
        "policies": key.policies,
    }
    return shown if key.expires is None else shown | {"expires_on": iso_time(key.expires)}


def success(result: Any) -> Response:
    return JSONResponse({"success": True, "errors": [], "messages": [], "result": result})


def _refused(_request: Request, refusal: RefusalError) -> Response:
    errors = [{"code": refusal.code, "message": refusal.message}]
    body = {"success": False, "errors": errors, "messages": [], "result": None}
    return JSONResponse(body, refusal.status)


async def body_of(request: Request) -> dict[str, Any]:
    """The request's JSON object. Raises RefusalError."""
    try:
        body = parse_json(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RefusalError(400, 6007, "Malformed JSON in request body")
    return body


def _number(request: Request, name: str, default: int) -> int:
    """A query parameter, 0 if it is not a number."""
    text = request.query_params.get(name, str(default))
    return int(text) if text.isascii() and text.isdigit() else 0


def _timestamp(text: Any) -> float | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        raise RefusalError(400, 1001, "expires_on must be an ISO 8601 time.") from None


async def _not_found(_request: Request) -> Response:
    raise RefusalError(404, 7000, "No route for that URI")
