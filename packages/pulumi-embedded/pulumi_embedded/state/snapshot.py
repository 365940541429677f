"""The state while it is being changed: every step is in the journal before the engine goes on.

`Snapshot` is the one place that writes state.  It works on the rows as the file has them (secrets encrypted),
so a left-over journal can be folded without the passphrase.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pulumi_embedded import VERSION
from pulumi_embedded.errors import EngineError
from pulumi_embedded.project.secrets import Crypter
from pulumi_embedded.state import journal
from pulumi_embedded.state.backend import Backend
from pulumi_embedded.state.journal import Change, Journal, StateRows
from pulumi_embedded.state.serialization import Json, Pending, Resource, encoded, encrypted_anew, now, to_json

_FOLD_EVERY: Final = 2.0
_ORDER: Final = ("manifest", "secrets_providers", "resources", "pending_operations", "metadata")
MANIFEST_VERSION: Final = f"engine-{VERSION}"


@dataclass(frozen=True)
class StackId:
    """Which stack."""

    project: str
    name: str

    @property
    def full(self) -> str:
        """As the checkpoint has it."""
        return f"organization/{self.project}/{self.name}"


def checkpoint_of(stack: StackId, deployment: Json) -> bytes:
    """A checkpoint file around a deployment, whose resources may be encoded already.  Put together at once: it can be large."""
    parts = [b'{"version":3,"checkpoint":{"stack":', encoded(stack.full), b',"latest":{']
    for key, content in deployment.items():
        parts += [encoded(key), b":"]
        if key == "resources" and content:
            rows = (row if isinstance(row, bytes) else encoded(row) for row in content)
            parts += [b"[", *_separated(rows), b"]"]
        else:
            parts.append(encoded(content))
        parts.append(b",")
    if deployment:
        parts.pop()
    return b"".join([*parts, b"}}}\n"])


def _separated(parts: Iterable[bytes]) -> list[bytes]:
    return [piece for part in parts for piece in (b",", part)][1:]


def deployment_of(checkpoint: bytes) -> Json:
    """The deployment in a checkpoint file.  Raises EngineError where the file is damaged or of a later version."""
    try:
        content = json.loads(checkpoint)
        version = content["version"]
        latest = content["checkpoint"].get("latest") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineError(
            "the state file is damaged: it is no checkpoint. The one before it lies beside it as .bak"
        ) from None
    if version != 3:
        raise EngineError(
            f"the state file is of version {version}; this engine reads version 3. It needs the Pulumi CLI"
        )
    return dict(latest)


def new_deployment(salt: str) -> Json:
    """The deployment of a stack without resources."""
    return {"manifest": _manifest(), "secrets_providers": provider_of(salt), "metadata": {}}


def _manifest() -> Json:
    magic = hashlib.sha256(MANIFEST_VERSION.encode()).hexdigest()
    return {"time": now(), "magic": magic, "version": MANIFEST_VERSION}


def provider_of(salt: str) -> Json:
    """Which key a deployment's secrets are encrypted with."""
    return {"type": "passphrase", "state": {"salt": salt}}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, or has just been written."""

    digest: str
    deployment: Json

    @classmethod
    def read(cls, backend: Backend, stack: StackId) -> Checkpoint:
        """The stack's own.  Raises EngineError where it is damaged, StackNotFoundError where there is none."""
        content = backend.read(stack.project, stack.name)
        return cls(journal.digest(content), deployment_of(content))


def recover(backend: Backend, stack: StackId) -> tuple[int, Checkpoint]:
    """Fold the journal of a run that was killed into the checkpoint; the number of its steps, and what there is now.

    To be called with the stack locked.  Raises EngineError where journal and checkpoint do not belong together.
    """
    log = backend.journal(stack.project, stack.name)
    checkpoint = Checkpoint.read(backend, stack)
    try:
        found = journal.read(log, checkpoint.digest, checkpoint.deployment)
    except (ValueError, KeyError) as error:
        aside = log.put_aside()
        raise EngineError(
            f"an earlier update was killed and its journal cannot be added to the state: {error}. The journal was put "
            f"aside as {aside}. Run `refresh`, or just repeat this command to go on without it"
        ) from None
    if found is not None:
        _store(checkpoint.deployment, found.rows)
        folded = checkpoint_of(stack, checkpoint.deployment)
        checkpoint = Checkpoint(journal.digest(folded), checkpoint.deployment)
        journal.note_fold(log, checkpoint.digest)  # a crash after the next line: it is in the checkpoint
        backend.write(stack.project, stack.name, folded)
    log.remove()
    return found.steps if found else 0, checkpoint


def take_key(
    backend: Backend, stack: StackId, checkpoint: Checkpoint, old: Crypter | None, new: Crypter | None
) -> Checkpoint:
    """Put the state's secrets under the configuration's key, which may be another: steps store theirs under that one.

    To be called with the stack locked and nothing left to recover; what there is now.
    """
    if new is None or (old is not None and old.salt == new.salt):
        return checkpoint
    deployment = dict(checkpoint.deployment)
    for part in ("resources", "pending_operations"):
        if deployment.get(part):
            deployment[part] = encrypted_anew(deployment[part], old, new)
    deployment["secrets_providers"] = provider_of(new.salt)
    content = checkpoint_of(stack, deployment)
    backend.write(stack.project, stack.name, content)
    return Checkpoint(journal.digest(content), deployment)


def current(backend: Backend, stack: StackId) -> Json:
    """The stack's deployment with what its journal has beyond the file; nothing is written."""
    checkpoint = Checkpoint.read(backend, stack)
    with contextlib.suppress(ValueError, KeyError):  # another run folds it at this moment, or `recover` tells
        log = backend.journal(stack.project, stack.name)
        found = journal.read(log, checkpoint.digest, checkpoint.deployment)
        if found is not None:
            _store(checkpoint.deployment, found.rows)
    return checkpoint.deployment


def _nothing() -> None:
    """Nothing to wait for."""


def _store(deployment: Json, rows: StateRows) -> None:
    metadata = deployment.pop("metadata", {})
    for key, content in (
        ("resources", rows.resources()),
        ("pending_operations", list(rows.pending.values())),
    ):
        deployment.pop(key, None)
        if content:
            deployment[key] = content
    deployment["metadata"] = metadata


class StateSnapshot:
    """A stack's state during one update.  All methods may be called from any thread.

    It takes the checkpoint over, and keeps its rows as the file has them: encoded they are a third as large.
    """

    def __init__(
        self, backend: Backend, stack: StackId, crypter: Crypter | None, checkpoint: Checkpoint
    ) -> None:
        self._backend = backend
        self._log = backend.journal(stack.project, stack.name)
        self._stack = stack
        self._crypter = crypter
        self._lock = threading.RLock()
        self._checkpoint = checkpoint.digest
        self._deployment = checkpoint.deployment
        self._rows = StateRows(
            old=dict(enumerate(map(encoded, self._deployment.pop("resources", None) or []))),
            pending=dict(enumerate(self._deployment.pop("pending_operations", None) or [])),
        )
        self._next = max(len(self._rows.old), len(self._rows.pending))
        self._journal: Journal | None = None
        self._dirty = False
        self._broken: EngineError | None = None
        self._stop = threading.Event()
        self._folding = threading.Thread(target=self._fold_regularly, daemon=True, name="fold")

    def adopt(self, resources: list[Resource], pending: list[Pending]) -> dict[int, Pending]:
        """Give the loaded resources their places; the pending operations by their numbers."""
        for uid, resource in enumerate(resources):
            resource.uid = uid
        return dict(enumerate(pending))

    def open(self) -> None:
        """Start the journal."""
        self._journal = Journal(self._log, self._checkpoint, self._rows)
        self._folding.start()

    def begin(self, kind: str, resource: Resource) -> int:
        """An operation is about to begin: after this it is on the disk."""
        with self._lock:
            if self._broken is not None:
                raise self._broken
            op = self._number()
            saved = self._record([["begin", op, kind, to_json(resource, self._crypter)]])
        saved()
        return op

    def write(
        self,
        *,
        put: list[Resource] | None = None,
        drop: list[Resource] | None = None,
        end: list[int] | None = None,
        alias: tuple[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        """A step has ended: these resources are now so, those are gone, these operations have an outcome.

        A resource that has no place yet is appended; one that has is replaced in its place.
        """
        changes: list[Change] = [["end", op] for op in end or []]
        with self._lock:
            for resource in put or []:
                if resource.uid < 0:
                    resource.uid = self._number()
                changes.append(["put", resource.uid, encoded(to_json(resource, self._crypter))])
            changes += [["drop", resource.uid] for resource in drop or [] if resource.uid >= 0]
            if alias:
                changes.append(["alias", *alias])
            saved = self._record(changes)
        if wait:
            saved()

    def close(self) -> None:
        """Fold everything into the checkpoint.  Raises EngineError where it cannot be written; the journal stays."""
        self._stop.set()
        if self._folding.is_alive():
            self._folding.join()
        with self._lock:
            self._fold(last=True)

    def _record(self, changes: list[Change]) -> Callable[[], None]:
        """Note the changes; what is returned waits until they are on the disk."""
        for change in changes:
            self._rows.apply(change)
        self._dirty = True
        journal_ = self._journal
        if journal_ is None:
            return _nothing
        ticket = journal_.append(changes)
        return lambda: self._flush(journal_, ticket)

    def _flush(self, journal_: Journal, ticket: int) -> None:
        try:
            journal_.flush(ticket)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> EngineError:
        self._broken = EngineError(
            f"the state cannot be saved: {error}. Make room and run any command on the stack: what could be written "
            "is in its journal and will be added to the state"
        )
        return self._broken

    def _number(self) -> int:
        self._next += 1
        return self._next

    def _fold_regularly(self) -> None:
        while not self._stop.wait(_FOLD_EVERY):
            with self._lock:
                if self._dirty:
                    with contextlib.suppress(EngineError):  # kept in _broken: the next step is told
                        self._fold(last=False)

    def _fold(self, *, last: bool) -> None:
        """Write the checkpoint, then a journal that extends it; at the end, no journal."""
        if self._journal is None and self._broken is None:
            return
        deployment = {**self._deployment, "manifest": _manifest()}
        _store(deployment, self._rows)
        others = deployment.keys() - set(_ORDER)
        checkpoint = checkpoint_of(
            self._stack, {key: deployment[key] for key in (*_ORDER, *others) if key in deployment}
        )
        digest = journal.digest(checkpoint)
        try:
            self._announce(digest)
            self._backend.write(self._stack.project, self._stack.name, checkpoint)
            self._dirty = False
            self._journal = None
            if last:
                self._log.remove()
            else:
                self._journal = Journal(self._log, digest, self._rows)
        except OSError as error:
            raise self._unwritable(error) from None

    def _announce(self, checkpoint: str) -> None:
        """Note in the journal which checkpoint will have all of it."""
        if self._journal is None:
            return
        try:
            self._journal.fold_into(checkpoint)
        except OSError:
            if self._broken is None:
                raise  # else it is known already, and the checkpoint may be writable all the same
