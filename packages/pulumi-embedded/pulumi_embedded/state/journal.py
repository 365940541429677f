"""The journal: what has happened since the checkpoint was written.

`.pulumi/journals/<project>/<stack>.jsonl` in the checkpoint's backend has one line of JSON per step. A line is durable
before the engine continues, so a step costs one short line instead of the whole state, and kill -9 loses nothing.

    {"journal": 1, "checkpoint": sha256, "new": [uid…], "old": [uid…], "pending": [op…]}   first line: what it extends
    [change, …]                                                                            one step
    {"fold": sha256}                                     the changes are about to be written into this checkpoint

Changes: `["put", uid, resource]` replaces a row or adds it to the new rows; `["drop", uid]`; `["begin", op, type,
resource]` and `["end", op]` for pending operations; `["alias", old, new]`. The checkpoint has the new rows first, in the
order in which they were added (dependencies come first), then the remaining old rows.
"""

import hashlib
import threading
from dataclasses import dataclass, field
from itertools import chain
from json import loads
from typing import Any, Final

from pulumi_embedded.state.serialization import Json, encode_json, rename_references
from pulumi_embedded.state.stores import Log

Change = list[Any]
_VERSION: Final = 1


@dataclass
class StateRows:
    """A checkpoint's resources as JSON, by id, and the changes made to them."""

    old: dict[int, Json] = field(default_factory=dict)
    new: dict[int, Json] = field(default_factory=dict)
    pending: dict[int, Json] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def apply_change(self, change: Change) -> None:
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

    def resources(self) -> list[Json]:
        """All rows in the checkpoint's order; references use the new names."""
        found = [*self.new.values(), *self.old.values()]
        if self.aliases:
            for row in [*found, *(entry["resource"] for entry in self.pending.values())]:
                rename_references(row, self.aliases)
        return found


def checkpoint_digest(data: bytes) -> str:
    """The identity of a checkpoint."""
    return hashlib.sha256(data).hexdigest()


class Journal:
    """An open journal. Threads that write at the same time share one fsync."""

    def __init__(self, log: Log, checkpoint: str, rows: StateRows) -> None:
        """`checkpoint`: the digest of the checkpoint that the journal extends."""
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
        """Queue the changes of one step. Pass the result to `flush`."""
        with self._lock:
            self._waiting.append(_line(changes))
            self._queued += 1
            return self._queued

    def flush(self, ticket: int) -> None:
        """Return once the line with this ticket is durable. Raises OSError."""
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
                    # Put the lines back, because other threads wait for them. A line may be written twice.
                    self._waiting[:0] = lines
                raise
            self._written = upto

    def fold_into(self, checkpoint: str) -> None:
        """Record the digest of the checkpoint that is about to replace the one this journal extends."""
        self.flush(self.append({"fold": checkpoint}))


def record_fold(log: Log, checkpoint: str) -> None:
    """Record, in the journal of a run that has ended, the digest of the checkpoint that is about to be written."""
    log.append(_line({"fold": checkpoint}))


def _line(content: Any) -> bytes:
    return encode_json(content) + b"\n"


@dataclass
class LeftoverJournal:
    """What the journal of an ended run adds to the checkpoint."""

    rows: StateRows
    steps: int


def read_leftover(log: Log, checkpoint: str, deployment: Json) -> LeftoverJournal | None:
    """The changes that a leftover journal makes to `deployment`, the content of the checkpoint with this digest.

    None if there is no journal, or the checkpoint has all of it. A last line that was cut off is ignored.
    Raises ValueError if the journal is damaged or extends another checkpoint.
    """
    head, *lines = _lines(log.read()) or [None]
    if head is None:
        return None
    if not isinstance(head, dict) or head.get("journal") != _VERSION:
        raise ValueError("the journal is damaged, or was written by another version of this engine")
    folds = [
        i for i, line in enumerate(lines, 1) if isinstance(line, dict) and line.get("fold") == checkpoint
    ]
    if not folds and head["checkpoint"] != checkpoint:
        raise ValueError("the state file was changed after the journal was written")
    # Changes can follow a fold record: if writing the checkpoint reported an error although it
    # succeeded, the run continued.
    folded = folds[-1] if folds else 0
    rows = StateRows(_empty(head["old"]), _empty(head["new"]), _empty(head["pending"]))
    _apply(rows, lines[:folded])
    rows = _filled(rows, deployment)
    steps = _apply(rows, lines[folded:])
    return LeftoverJournal(rows, steps) if steps else None


def _lines(data: bytes) -> list[Any]:
    """The journal's lines. Only the last step may be cut off; a fold may follow it."""
    lines: list[Any] = []
    is_cut_off = False
    for text in data.split(b"\n")[:-1]:
        try:
            line = loads(text)
        except ValueError:
            if is_cut_off or not lines:
                raise ValueError("it is damaged") from None
            is_cut_off = True
            continue
        if is_cut_off and not isinstance(line, dict):
            raise ValueError("it is damaged")
        lines.append(line)
    return lines


def _empty(uids: list[int]) -> dict[int, Json]:
    return {uid: {} for uid in uids}


def _filled(rows: StateRows, deployment: Json) -> StateRows:
    """The rows with the content that the checkpoint has for them, in the same order."""
    resources = deployment.get("resources") or []
    count = len(rows.new)
    return StateRows(
        old=dict(zip(rows.old, resources[count:], strict=True)),
        new=dict(zip(rows.new, resources[:count], strict=True)),
        pending=dict(zip(rows.pending, deployment.get("pending_operations") or [], strict=True)),
    )


def _apply(rows: StateRows, lines: list[Any]) -> int:
    """Apply the steps among these lines, and return how many there are."""
    steps = [line for line in lines if isinstance(line, list)]
    try:
        for change in chain.from_iterable(steps):
            rows.apply_change(change)
    except (TypeError, IndexError):
        raise ValueError("it is damaged") from None
    return len(steps)
