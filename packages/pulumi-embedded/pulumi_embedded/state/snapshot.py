"""A stack's checkpoint, and the state while an update changes it: each step is in the journal before the engine continues.

`StateSnapshot` is the only code that writes state. It works on rows of JSON in which secrets are encrypted, so a leftover
journal can be applied without the passphrase.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pulumi_embedded import VERSION
from pulumi_embedded.errors import EngineError
from pulumi_embedded.project.secrets import Crypter
from pulumi_embedded.state import journal
from pulumi_embedded.state.backend import Backend, StackId
from pulumi_embedded.state.journal import Change, Journal, StateRows
from pulumi_embedded.state.serialization import (
    Json,
    PendingOperation,
    Resource,
    StackState,
    current_time,
    encode_json,
    reencrypt_secrets,
    resource_to_json,
)

_FOLD_SECONDS: Final = 2.0
_KEY_ORDER: Final = ("manifest", "secrets_providers", "resources", "pending_operations", "metadata")
_MANIFEST_VERSION: Final = f"engine-{VERSION}"


def checkpoint_of(stack: StackId, deployment: Json) -> bytes:
    """The content of a checkpoint file."""
    return encode_json({"version": 3, "checkpoint": {"stack": stack.full, "latest": deployment}}) + b"\n"


def deployment_of(checkpoint: bytes) -> Json:
    """The deployment in a checkpoint file. Raises EngineError if the file is damaged or has another version."""
    try:
        content = json.loads(checkpoint)
        version = content["version"]
        latest = content["checkpoint"].get("latest") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineError(
            "the state file is damaged: it is not a checkpoint. The previous one is next to it and ends in .bak"
        ) from None
    if version != 3:
        raise EngineError(
            f"the state file has version {version}, but this engine reads version 3; use the Pulumi CLI"
        )
    return dict(latest)


def new_deployment(salt: str) -> Json:
    """The deployment of a stack without resources."""
    return {"manifest": _manifest(), "secrets_providers": secrets_provider(salt), "metadata": {}}


def _manifest() -> Json:
    magic = hashlib.sha256(_MANIFEST_VERSION.encode()).hexdigest()
    return {"time": current_time(), "magic": magic, "version": _MANIFEST_VERSION}


def secrets_provider(salt: str) -> Json:
    return {"type": "passphrase", "state": {"salt": salt}}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was just read or written."""

    digest: str
    deployment: Json

    @classmethod
    def read(cls, backend: Backend, stack: StackId) -> Checkpoint:
        """Raises EngineError if it is damaged, StackNotFoundError if there is no such stack."""
        content = backend.read(stack)
        return cls(journal.checkpoint_digest(content), deployment_of(content))


def recover_journal(backend: Backend, stack: StackId) -> tuple[int, Checkpoint]:
    """Write the journal of a killed run into the checkpoint. Returns the number of its steps, and the new checkpoint.

    The caller holds the stack's lock. Raises EngineError if the journal does not belong to the checkpoint.
    """
    log = backend.journal(stack)
    checkpoint = Checkpoint.read(backend, stack)
    try:
        found = journal.read_leftover(log, checkpoint.digest, checkpoint.deployment)
    except (ValueError, KeyError) as error:
        aside = log.put_aside()
        raise EngineError(
            f"an earlier update was killed and its journal cannot be added to the state: {error}. The journal was put "
            f"aside as {aside}. Run `pulumi refresh`, or repeat this command to continue without it"
        ) from None
    if found is not None:
        deployment = _deployment_with_rows(checkpoint.deployment, found.rows)
        content = checkpoint_of(stack, deployment)
        checkpoint = Checkpoint(journal.checkpoint_digest(content), deployment)
        # Record the checkpoint in the journal first, in case of a crash after the checkpoint is written and
        # before the journal is removed.
        journal.record_fold(log, checkpoint.digest)
        backend.write(stack, content)
    log.remove()
    return found.steps if found else 0, checkpoint


def reencrypt_state(
    backend: Backend, stack: StackId, checkpoint: Checkpoint, old: Crypter | None, new: Crypter | None
) -> Checkpoint:
    """Encrypt the state's secrets with the configuration's key, which the steps use too. Returns the new checkpoint.

    The caller holds the stack's lock and has called `recover`.
    """
    if new is None or (old is not None and old.salt == new.salt):
        return checkpoint
    deployment = dict(checkpoint.deployment)
    for part in ("resources", "pending_operations"):
        if deployment.get(part):
            deployment[part] = reencrypt_secrets(deployment[part], old, new)
    deployment["secrets_providers"] = secrets_provider(new.salt)
    content = checkpoint_of(stack, deployment)
    backend.write(stack, content)
    return Checkpoint(journal.checkpoint_digest(content), deployment)


def current_deployment(backend: Backend, stack: StackId) -> Json:
    """The stack's deployment, journal included. Writes nothing."""
    checkpoint = Checkpoint.read(backend, stack)
    # If the journal cannot be read, another run is folding it into the state right now, or it is damaged;
    # `recover_journal` reports that.
    with contextlib.suppress(ValueError, KeyError):
        log = backend.journal(stack)
        found = journal.read_leftover(log, checkpoint.digest, checkpoint.deployment)
        if found is not None:
            return _deployment_with_rows(checkpoint.deployment, found.rows)
    return checkpoint.deployment


def _deployment_with_rows(deployment: Json, rows: StateRows) -> Json:
    """The deployment with these resources and pending operations, its keys in the CLI's order."""
    found = {"metadata": {}, **deployment}
    for key, content in (
        ("resources", rows.resources()),
        ("pending_operations", list(rows.pending.values())),
    ):
        found.pop(key, None)
        if content:
            found[key] = content
    keys = (*_KEY_ORDER, *(key for key in found if key not in _KEY_ORDER))
    return {key: found[key] for key in keys if key in found}


class StateSnapshot:
    """A stack's state during one update. Methods may be called from any thread.

    `pending`: the operations of earlier updates whose outcome is still unknown, by id.
    """

    def __init__(
        self, backend: Backend, stack: StackId, crypter: Crypter | None, checkpoint: Checkpoint
    ) -> None:
        self._backend = backend
        self._log = backend.journal(stack)
        self._stack = stack
        self._crypter = crypter
        self._lock = threading.RLock()
        self._checkpoint = checkpoint.digest
        self._deployment = checkpoint.deployment
        self._rows = StateRows(
            old=dict(enumerate(self._deployment.get("resources") or [])),
            pending=dict(enumerate(self._deployment.get("pending_operations") or [])),
        )
        self._last_id = max(len(self._rows.old), len(self._rows.pending))
        self.pending: dict[int, PendingOperation] = {}
        self._journal: Journal | None = None
        self._has_changes = False
        self._failure: EngineError | None = None
        self._stop = threading.Event()
        self._folding = threading.Thread(target=self._fold_regularly, daemon=True, name="fold")

    def open(self, state: StackState) -> None:
        """Link the resources and operations of the loaded state to their rows, and start the journal."""
        for uid, resource in enumerate(state.resources):
            resource.uid = uid
        self.pending = dict(enumerate(state.pending))
        self._journal = Journal(self._log, self._checkpoint, self._rows)
        self._folding.start()

    def begin_operation(self, kind: str, resource: Resource) -> int:
        """Record that an operation is about to start, and return its id. The record is durable when this returns."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            op = self._new_id()
            wait = self._record([["begin", op, kind, resource_to_json(resource, self._crypter)]])
        wait()
        return op

    def record_step(
        self,
        *,
        put: list[Resource] | None = None,
        drop: list[Resource] | None = None,
        end: list[int] | None = None,
        alias: tuple[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        """Record the result of a step: rows to add or replace, rows to drop, operations that have ended."""
        changes: list[Change] = [["end", op] for op in end or []]
        with self._lock:
            for resource in put or []:
                if resource.uid < 0:
                    resource.uid = self._new_id()
                changes.append(["put", resource.uid, resource_to_json(resource, self._crypter)])
            changes += [["drop", resource.uid] for resource in drop or [] if resource.uid >= 0]
            if alias:
                changes.append(["alias", *alias])
            wait_until_durable = self._record(changes)
        if wait:
            wait_until_durable()

    def close(self) -> None:
        """Write everything into the checkpoint. Raises EngineError if that fails; then the journal stays."""
        self._stop.set()
        if self._folding.is_alive():
            self._folding.join()
        with self._lock:
            self.write_checkpoint(is_last=True)

    def _record(self, changes: list[Change]) -> Callable[[], None]:
        """Apply the changes and queue them for the journal. Returns a function that waits until they are durable."""
        for change in changes:
            self._rows.apply_change(change)
        self._has_changes = True
        journal_ = self._journal
        if journal_ is None:
            return lambda: None
        ticket = journal_.append(changes)
        return lambda: self._flush(journal_, ticket)

    def _flush(self, journal_: Journal, ticket: int) -> None:
        try:
            journal_.flush(ticket)
        except OSError as error:
            raise self._save_failure(error) from None

    def _save_failure(self, error: OSError) -> EngineError:
        self._failure = EngineError(
            f"the state cannot be saved: {error}. Free disk space, then run any command on the stack: the steps that "
            "could be written are in its journal and will be added to the state"
        )
        return self._failure

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _fold_regularly(self) -> None:
        while not self._stop.wait(_FOLD_SECONDS):
            with self._lock:
                if self._has_changes:
                    with contextlib.suppress(EngineError):  # the next step reports the error
                        self.write_checkpoint()

    def write_checkpoint(self, *, is_last: bool = False) -> None:
        """Write the checkpoint, then start a journal that extends it; at the end, remove the journal."""
        if self._journal is None and self._failure is None:
            return
        checkpoint = self._content()
        digest = journal.checkpoint_digest(checkpoint)
        try:
            self._record_next_checkpoint(digest)
            self._backend.write(self._stack, checkpoint)
            self._has_changes = False
            self._journal = None
            if is_last:
                self._log.remove()
            else:
                self._journal = Journal(self._log, digest, self._rows)
        except OSError as error:
            raise self._save_failure(error) from None

    def _content(self) -> bytes:
        deployment = _deployment_with_rows({**self._deployment, "manifest": _manifest()}, self._rows)
        return checkpoint_of(self._stack, deployment)

    def _record_next_checkpoint(self, checkpoint: str) -> None:
        """Record in the journal which checkpoint will contain it."""
        if self._journal is None:
            return
        try:
            self._journal.fold_into(checkpoint)
        except OSError:
            if self._failure is None:
                # If an earlier error is known, ignore this one: the checkpoint may still be writable.
                raise
