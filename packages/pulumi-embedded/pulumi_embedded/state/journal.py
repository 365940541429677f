"""The journal: what has happened since the checkpoint was written.

In the checkpoint's own backend, `.pulumi/journals/<project>/<stack>.jsonl` holds one JSON line a change, each safe
before the engine goes on.  It makes a step cost one short line instead of the whole state, and loses nothing to kill -9.
Lines:

    {"journal": 1, "checkpoint": sha256, "new": [uid…], "old": [uid…], "pending": [op…]}   first: what it extends
    [change, …]                                                                 one step; all or nothing
    {"fold": sha256}                                                            about to be folded into this file

Changes: `["put", uid, resource]` replaces the row in place, or appends it to the new rows; `["drop", uid]`;
`["begin", op, type, resource]` and `["end", op]` for pending operations; `["alias", old, new]`.
In the folded state the new rows come first, in the order of their arrival (a resource arrives after what it
depends on), then what is left of the old rows.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pulumi_embedded.state.serialization import Json, encoded, rename_references
from pulumi_embedded.state.stores import Log

Row = Json | bytes
"""A resource as the file has it; `encoded` where a thousand of them are kept while a program runs."""
Change = list[Any]
_VERSION: Final = 1


@dataclass
class StateRows:
    """A checkpoint's rows under their ids, and the changes made to them."""

    old: dict[int, Row] = field(default_factory=dict)
    new: dict[int, Row] = field(default_factory=dict)
    pending: dict[int, Json] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def apply(self, change: Change) -> None:
        """Make one change."""
        kind = change[0]
        if kind == "put":
            _, uid, resource = change
            (self.old if uid in self.old else self.new)[uid] = resource
        elif kind == "drop":
            self.old.pop(change[1], None)
            self.new.pop(change[1], None)
        elif kind == "begin":
            _, op, type_, resource = change
            self.pending[op] = {"resource": resource, "type": type_}
        elif kind == "end":
            self.pending.pop(change[1], None)
        elif kind == "alias":
            self.aliases[change[1]] = change[2]
        else:
            raise ValueError(f"unknown change {kind!r} in the journal")

    def resources(self) -> list[Row]:
        """All rows in the file's order, with their references under the new names."""
        if self.aliases:
            for rows in (self.new, self.old):
                for uid, row in rows.items():
                    rows[uid] = self._renamed(row)
            for entry in self.pending.values():
                rename_references(entry["resource"], self.aliases)
        return [*self.new.values(), *self.old.values()]

    def _renamed(self, row: Row) -> Row:
        item = json.loads(row) if isinstance(row, bytes) else row
        rename_references(item, self.aliases)
        return encoded(item) if isinstance(row, bytes) else item


def digest(data: bytes) -> str:
    """A checkpoint's identity."""
    return hashlib.sha256(data).hexdigest()


class Journal:
    """An open journal.  Threads that write at the same time share one fsync."""

    def __init__(self, log: Log, checkpoint: str, rows: StateRows) -> None:
        """`checkpoint`: the digest of what it extends."""
        self._log = log
        self._lock = threading.Lock()
        self._disk = threading.Lock()
        self._waiting: list[bytes] = []
        self._written = 0
        self._queued = 0
        head = {
            "journal": _VERSION,
            "checkpoint": checkpoint,
            "new": list(rows.new),
            "old": list(rows.old),
            "pending": list(rows.pending),
        }
        log.start(_line(head))

    def append(self, changes: list[Change] | Json) -> int:
        """Queue one step's changes; the ticket is for `flush`."""
        with self._lock:
            self._waiting.append(_line(changes))
            self._queued += 1
            return self._queued

    def flush(self, ticket: int) -> None:
        """Return once the line with this ticket is on the disk.  Raises OSError."""
        with self._disk:
            if self._written >= ticket:
                return
            with self._lock:
                lines, self._waiting = self._waiting, []
                upto = self._queued
            try:
                self._log.append(b"".join(lines))
            except OSError:
                with self._lock:
                    self._waiting[:0] = lines  # others wait for them; lines that come twice do no harm
                raise
            self._written = upto

    def fold_into(self, checkpoint: str) -> None:
        """Say which checkpoint, by its digest, is about to take the place of the one this journal extends."""
        self.flush(self.append({"fold": checkpoint}))


def note_fold(log: Log, checkpoint: str) -> None:
    """Say the same in a journal that an ended run has left."""
    log.append(_line({"fold": checkpoint}))


def _line(content: Any) -> bytes:
    if isinstance(content, list):
        return _list([_list(map(_part, change)) for change in content]) + b"\n"
    return encoded(content) + b"\n"


def _part(part: Any) -> bytes:
    return part if isinstance(part, bytes) else encoded(part)


def _list(parts: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(parts) + b"]"


@dataclass
class Found:
    """A journal that an ended run left behind."""

    rows: StateRows
    steps: int


def read(log: Log, checkpoint: str, deployment: Json) -> Found | None:
    """The changes a left-over journal makes to `deployment`, the `latest` part of the checkpoint with this digest.

    None where there is no journal or all of it is in the checkpoint already.  A last line that was cut off
    never happened.  Raises ValueError where the journal is damaged or extends another checkpoint than this one.
    """
    head, *lines = _lines(log.read()) or [None]
    if head is None:
        return None
    if not isinstance(head, dict) or head.get("journal") != _VERSION:
        raise ValueError("it is damaged, or was written by another version of this engine")
    folds = [
        i for i, line in enumerate(lines, 1) if isinstance(line, dict) and line.get("fold") == checkpoint
    ]
    if not folds and head["checkpoint"] != checkpoint:
        raise ValueError("the state file has been changed since it was written")
    # Behind a fold are steps where the checkpoint was written and its store said that it was not.
    folded = folds[-1] if folds else 0
    rows = _filled(_before(head, lines[:folded]), deployment)
    steps = [line for line in lines[folded:] if isinstance(line, list)]
    _apply(rows, steps)
    return Found(rows, len(steps)) if steps else None


def _lines(data: bytes) -> list[Any]:
    """The journal's lines.  Only the last step may have been cut off; a fold may have been noted behind it."""
    lines: list[Any] = []
    broken = False
    for text in data.split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except ValueError:
            if broken or not lines:
                raise ValueError("it is damaged") from None
            broken = True
            continue
        if broken and not isinstance(line, dict):
            raise ValueError("it is damaged")
        lines.append(line)
    return lines


def _before(head: Json, lines: list[Any]) -> StateRows:
    """Which rows a checkpoint has that these lines were folded into, in which order; without their content."""
    rows = StateRows(_empty(head["old"]), _empty(head["new"]), _empty(head["pending"]))
    _apply(rows, [line for line in lines if isinstance(line, list)])
    return rows


def _empty(uids: list[int]) -> dict[int, Any]:
    return {uid: {} for uid in uids}


def _filled(rows: StateRows, deployment: Json) -> StateRows:
    resources = deployment.get("resources") or []
    count = len(rows.new)
    return StateRows(
        old=dict(zip(rows.old, resources[count:], strict=True)),
        new=dict(zip(rows.new, resources[:count], strict=True)),
        pending=dict(zip(rows.pending, deployment.get("pending_operations") or [], strict=True)),
    )


def _apply(rows: StateRows, steps: list[list[Change]]) -> None:
    try:
        for changes in steps:
            for change in changes:
                rows.apply(change)
    except (TypeError, IndexError):
        raise ValueError("it is damaged") from None
