"""The command `stack history`."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from pulumi_embedded.cli.config_commands import as_json
from pulumi_embedded.cli.stacks import ago
from pulumi_embedded.project.config import encrypted, value_of
from pulumi_embedded.session import Session
from pulumi_embedded.state.backend import decompress_if_gzip

_TIME = "%Y-%m-%dT%H:%M:%S.000Z"
_SIGNS = {"create": "+", "delete": "-", "update": "~", "same": " "}


def show_history(session: Session, options: argparse.Namespace) -> int:
    updates = _page(_recorded_updates(session), options.page_size, options.page)
    if options.json:
        print(json.dumps([_as_json(session, update, options.show_secrets) for update in updates], indent=2))
        return 0
    if not updates:
        print("Stack has never been updated")
    for update in updates:
        changes = update.get("resourceChanges") or {}
        counts = "".join(f"{sign}{changes.get(kind, 0)}" for kind, sign in _SIGNS.items() if sign != " ")
        started, ended = (datetime.fromtimestamp(update[key], UTC) for key in ("startTime", "endTime"))
        when = str(started) if options.full_dates else ago(started)
        print(
            f"Version: {update.get('version', 0)}\nUpdateKind: {update['kind']}\nStatus: {update['result']}"
        )
        print(f"Message: {update.get('message', '')}")
        print(f"{counts} {changes.get('same', 0)} Updated {when} took {(ended - started).seconds}s\n")
    return 0


def _page(updates: list[dict[str, Any]], size: int, page: int) -> list[dict[str, Any]]:
    """One page of the updates, counted from 1, or all without a page size."""
    if size < 1:
        return updates
    start = (max(page, 1) - 1) * size
    return updates[start : start + size]


def _recorded_updates(session: Session) -> list[dict[str, Any]]:
    """The recorded updates, the newest first."""
    store = session.backend.store
    folder = session.backend.history_folder(session.stack)
    keys = [key for key in store.list_keys(folder) if ".history.json" in key and not key.endswith(".attrs")]
    contents = [store.read(key) for key in sorted(keys, reverse=True)]
    return [json.loads(decompress_if_gzip(content)) for content in contents if content is not None]


def _as_json(session: Session, update: dict[str, Any], show_secrets: bool) -> dict[str, Any]:
    times = {key: f"{datetime.fromtimestamp(update[key], UTC):{_TIME}}" for key in ("startTime", "endTime")}
    config = update.get("config") or {}
    shown = {key: _config_value(session, raw, show_secrets) for key, raw in config.items()}
    return {**update, **times, "config": shown}


def _config_value(session: Session, raw: Any, show_secrets: bool) -> dict[str, Any]:
    if any(encrypted(raw)) and not show_secrets:
        return {"secret": True}
    value = value_of(raw, session.crypter(session.config(), session.deployment()) if show_secrets else None)
    return as_json(value.text, value, show_secrets)
