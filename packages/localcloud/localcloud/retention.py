"""A bucket's lifecycle rules, as R2 has them and nanio 0.1.7 does not: kept beside the objects, and obeyed.

R2 knows prefixes and no tags, and every bucket has a rule of its own for unfinished uploads.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

# Neither ships type information.
from defusedxml.ElementTree import ParseError, fromstring  # type: ignore[import-untyped]
from nanio.errors import (  # type: ignore[import-untyped]
    InvalidArgument,
    MalformedXML,
    NoSuchBucket,
    NotImplemented_,
    S3Error,
)
from nanio.storage.filesystem import FilesystemStorage  # type: ignore[import-untyped]
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from localcloud.bodies import read_body

MOST_RULES = 1000
MOST_BYTES = 1024 * 1024
SECONDS_A_DAY = 86400
DEFAULT: list[dict[str, Any]] = [
    {"ID": "Default Multipart Abort Rule", "Status": "Enabled", "Prefix": "", "Abort": 7}
]

Rule = Mapping[str, Any]


class NoSuchRulesError(S3Error):  # type: ignore[misc]  # nanio is untyped
    """A bucket whose rules were deleted."""

    code = "NoSuchLifecycleConfiguration"
    message = "The lifecycle configuration does not exist."
    http_status = 404


class RetentionMiddleware:
    """GET, PUT and DELETE of `?lifecycle`; everything else goes on. Behind the rights: only an admin key comes here."""

    def __init__(self, app: ASGIApp, storage: FilesystemStorage) -> None:
        self._app, self._storage = app, storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope.get("query_string", b"").split(b"&")
        if scope["type"] != "http" or not any(part.partition(b"=")[0] == b"lifecycle" for part in query):
            await self._app(scope, receive, send)
            return
        bucket = scope["path"].strip("/")
        try:
            self._storage.head_bucket(bucket)
            if scope["method"] == "PUT":
                save_rules(self._storage.data_dir, bucket, parse_rules(await read_body(receive, MOST_BYTES)))
                answer = Response(b"", 200)
            elif scope["method"] == "DELETE":
                save_rules(self._storage.data_dir, bucket, [])
                answer = Response(b"", 204)
            else:
                rules = load_rules(self._storage.data_dir, bucket)
                if not rules:
                    raise NoSuchRulesError()
                text = to_xml(rules)
                answer = Response(text, 200, media_type="application/xml")
        except S3Error as error:
            answer = Response(error.to_xml(), error.http_status, media_type="application/xml")
        await answer(scope, receive, send)


def load_rules(data: Path, bucket: str) -> list[Rule]:
    """The bucket's rules; R2's own one for a bucket that was given none."""
    try:
        rules: list[Rule] = json.loads(_place(data, bucket).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return list(DEFAULT)
    return rules


def save_rules(data: Path, bucket: str, rules: Sequence[Rule]) -> None:
    """Keep them for the bucket."""
    _place(data, bucket).write_text(json.dumps(list(rules)), encoding="utf-8")


def forget_rules(data: Path, bucket: str) -> None:
    """The bucket is gone; one of the same name begins anew."""
    _place(data, bucket).unlink(missing_ok=True)


def expires(rules: Sequence[Rule], key: str, age_days: float) -> bool:
    """Whether an object is to be deleted."""
    return any(
        rule["Status"] == "Enabled"
        and rule.get("Days") is not None
        and key.startswith(rule["Prefix"])
        and age_days >= rule["Days"]
        for rule in rules
    )


def sweep(storage: Any, now: float) -> list[str]:
    """Delete what has expired at `now` (seconds since 1970); the keys, as bucket/key."""
    gone = []
    for bucket in storage.list_buckets():
        rules = load_rules(storage.data_dir, bucket.name)
        for info in _objects(storage, bucket.name):
            if expires(rules, info.key, (now - info.last_modified.timestamp()) / SECONDS_A_DAY):
                storage.delete_object(bucket.name, info.key)
                gone.append(f"{bucket.name}/{info.key}")
    return gone


def parse_rules(body: bytes) -> list[Rule]:
    """The rules of a PUT. Raises nanio's S3 errors for what R2 refuses."""
    try:
        root = fromstring(body)
    except ParseError:
        raise MalformedXML() from None
    rules = [_rule(element) for element in root if _name(element) == "Rule"]
    if not rules or len(rules) > MOST_RULES or len({rule["ID"] for rule in rules}) < len(rules):
        raise InvalidArgument(
            f"A lifecycle configuration has 1 to {MOST_RULES} rules, each with an ID of its own."
        )
    return rules


def to_xml(rules: Sequence[Rule]) -> str:
    """As GET answers."""
    parts = []
    for rule in rules:
        days = f"<Expiration><Days>{rule['Days']}</Days></Expiration>" if rule.get("Days") else ""
        abort = (
            "<AbortIncompleteMultipartUpload>"
            f"<DaysAfterInitiation>{rule['Abort']}</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
            if rule.get("Abort")
            else ""
        )
        parts.append(
            f"<Rule><ID>{escape(rule['ID'])}</ID><Status>{rule['Status']}</Status>"
            f"<Filter><Prefix>{escape(rule['Prefix'])}</Prefix></Filter>{days}{abort}</Rule>"
        )
    return f"<LifecycleConfiguration>{''.join(parts)}</LifecycleConfiguration>"


def _rule(element: Any) -> Rule:
    fields = {_name(child): child for child in element}
    unknown = set(fields) - {
        "ID",
        "Status",
        "Filter",
        "Prefix",
        "Expiration",
        "AbortIncompleteMultipartUpload",
    }
    inside = {_name(child): child for child in fields.get("Filter", [])}
    if unknown or set(inside) - {"Prefix"}:
        raise NotImplemented_(
            f"not implemented in a lifecycle rule: {', '.join(sorted(unknown | set(inside)))}"
        )
    prefix = inside.get("Prefix", fields.get("Prefix"))
    rule = {
        "ID": _text(fields.get("ID")),
        "Status": _text(fields.get("Status")),
        "Prefix": _text(prefix),
        "Days": _number(fields.get("Expiration"), "Days"),
        "Abort": _number(fields.get("AbortIncompleteMultipartUpload"), "DaysAfterInitiation"),
    }
    if rule["Status"] not in ("Enabled", "Disabled") or (rule["Days"] is None and rule["Abort"] is None):
        raise MalformedXML()
    return rule


def _number(element: Any, name: str) -> int | None:
    if element is None:
        return None
    text = next((_text(child) for child in element if _name(child) == name), "")
    if not text.isdigit() or int(text) < 1:
        raise InvalidArgument(f"{name} must be a positive number.")
    return int(text)


def _objects(storage: Any, bucket: str) -> list[Any]:
    found, token = [], None
    while True:
        page = storage.list_objects(bucket, continuation_token=token)
        found += page.contents
        if not page.is_truncated:
            return found
        token = page.next_continuation_token


def _name(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _text(element: Any) -> str:
    return "" if element is None else element.text or ""


def _place(data: Path, bucket: str) -> Path:
    if "/" in bucket or not bucket:
        raise NoSuchBucket(resource=bucket)
    return data / ".nanio" / f"lifecycle-{bucket}.json"


async def run_sweeper(storage: Any, seconds: float = 3600) -> None:
    """Delete what has expired, now and then, until cancelled."""
    while True:
        await asyncio.to_thread(sweep, storage, time.time())
        await asyncio.sleep(seconds)
