"""Lifecycle rules of buckets, which nanio 0.1.7 lacks: stored beside the objects, applied once an hour.

R2's rules filter by prefix, not by tags. Every new bucket has a rule for unfinished uploads.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from defusedxml.ElementTree import ParseError, fromstring
from nanio.errors import InvalidArgument, MalformedXML, NoSuchBucket, NotImplemented_, S3Error
from nanio.storage.filesystem import FilesystemStorage
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from localcloud.storage.listing import walk_keys
from localcloud.storage.refusals import refusal_response
from localcloud.web.request_bodies import read_body

MAX_RULES = 1000
MAX_BYTES = 1024 * 1024
SECONDS_A_DAY = 86400
DEFAULT_RULES: list[dict[str, Any]] = [
    {"ID": "Default Multipart Abort Rule", "Status": "Enabled", "Prefix": "", "Abort": 7}
]
DAYS_XML = "<Expiration><Days>{}</Days></Expiration>"
ABORT_XML = "<AbortIncompleteMultipartUpload><DaysAfterInitiation>{}</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
RULE_FIELDS = {"ID", "Status", "Filter", "Prefix", "Expiration", "AbortIncompleteMultipartUpload"}

Rule = Mapping[str, Any]


class NoSuchRulesError(S3Error):  # type: ignore[misc]  # nanio is untyped
    code = "NoSuchLifecycleConfiguration"
    message = "The lifecycle configuration does not exist."
    http_status = 404


class LifecycleMiddleware:
    """Serves GET, PUT and DELETE of `?lifecycle`. It runs after the check of the key's rights."""

    def __init__(self, app: ASGIApp, storage: FilesystemStorage) -> None:
        self._app, self._storage = app, storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope.get("query_string", b"").split(b"&")
        if scope["type"] != "http" or not any(part.partition(b"=")[0] == b"lifecycle" for part in query):
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._answer(scope["method"], scope["path"].strip("/"), receive)
        except S3Error as error:
            answer = refusal_response(error)
        await answer(scope, receive, send)

    async def _answer(self, method: str, bucket: str, receive: Receive) -> Response:
        self._storage.head_bucket(bucket)
        data = self._storage.data_dir
        if method == "PUT":
            save_rules(data, bucket, parse_rules(await read_body(receive, MAX_BYTES)))
            return Response(b"", 200)
        if method == "DELETE":
            save_rules(data, bucket, [])
            return Response(b"", 204)
        rules = load_rules(data, bucket)
        if not rules:
            raise NoSuchRulesError()
        return Response(to_xml(rules), 200, media_type="application/xml")


def load_rules(data: Path, bucket: str) -> list[Rule]:
    """The bucket's rules; R2's default rule if none were set."""
    try:
        rules: list[Rule] = json.loads(_rules_file(data, bucket).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return list(DEFAULT_RULES)
    return rules


def save_rules(data: Path, bucket: str, rules: Sequence[Rule]) -> None:
    _rules_file(data, bucket).write_text(json.dumps(list(rules)), encoding="utf-8")


def delete_rules(data: Path, bucket: str) -> None:
    """For a deleted bucket: a new one of this name starts with the default rule."""
    _rules_file(data, bucket).unlink(missing_ok=True)


def is_expired_by_rules(rules: Sequence[Rule], key: str, age_days: float) -> bool:
    """Whether an object of this age must be deleted."""
    return any(
        rule["Status"] == "Enabled"
        and rule.get("Days") is not None
        and key.startswith(rule["Prefix"])
        and age_days >= rule["Days"]
        for rule in rules
    )


def delete_expired(storage: Any, now: float) -> list[str]:
    """Delete the objects that have expired at `now` (seconds since 1970). Returns their names, as bucket/key."""
    deleted = []
    for bucket in storage.list_buckets():
        rules = load_rules(storage.data_dir, bucket.name)
        for key in walk_keys(storage.data_dir / bucket.name, ""):
            age = now - storage.head_object(bucket.name, key).last_modified.timestamp()
            if is_expired_by_rules(rules, key, age / SECONDS_A_DAY):
                storage.delete_object(bucket.name, key)
                deleted.append(f"{bucket.name}/{key}")
    return deleted


def parse_rules(body: bytes) -> list[Rule]:
    """The rules in the body of a PUT. Raises S3 errors for what R2 refuses."""
    try:
        root = fromstring(body)
    except ParseError:
        raise MalformedXML() from None
    rules = [_rule(element) for element in root if _name(element) == "Rule"]
    if not rules or len(rules) > MAX_RULES or len({rule["ID"] for rule in rules}) < len(rules):
        raise InvalidArgument(f"A lifecycle configuration has 1 to {MAX_RULES} rules with different IDs.")
    return rules


def to_xml(rules: Sequence[Rule]) -> str:
    parts = []
    for rule in rules:
        days = DAYS_XML.format(rule["Days"]) if rule.get("Days") else ""
        abort = ABORT_XML.format(rule["Abort"]) if rule.get("Abort") else ""
        parts.append(
            f"<Rule><ID>{escape(rule['ID'])}</ID><Status>{rule['Status']}</Status>"
            f"<Filter><Prefix>{escape(rule['Prefix'])}</Prefix></Filter>{days}{abort}</Rule>"
        )
    return f"<LifecycleConfiguration>{''.join(parts)}</LifecycleConfiguration>"


def _rule(element: Any) -> Rule:
    fields = {_name(child): child for child in element}
    filters = {_name(child): child for child in fields.get("Filter", [])}
    unknown = sorted((fields.keys() - RULE_FIELDS) | (filters.keys() - {"Prefix"}))
    if unknown:
        raise NotImplemented_(f"not implemented in a lifecycle rule: {', '.join(unknown)}")
    prefix = filters.get("Prefix", fields.get("Prefix"))
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


def _name(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _text(element: Any) -> str:
    return "" if element is None else element.text or ""


def _rules_file(data: Path, bucket: str) -> Path:
    if "/" in bucket or not bucket:
        raise NoSuchBucket(resource=bucket)
    return data / ".nanio" / f"lifecycle-{bucket}.json"


async def run_sweeper(storage: Any, seconds: float = 3600) -> None:
    """Delete expired objects every `seconds`."""
    while True:
        await asyncio.to_thread(delete_expired, storage, time.time())
        await asyncio.sleep(seconds)
