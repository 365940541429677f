"""Exactly one job in the queue for a run, without help from the queue's API (it has no idempotency key).

The claim in the bucket decides who may post; the queue's own list tells whether somebody has. A claim is never removed: whoever
comes after a removed job finds it, sees that its job has ended, and takes it over.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock

from clients.errors import Conflict, UncertainOutcome
from clients.kelpie import Job, JobRequest, Kelpie
from clients.storage import Storage
from training.errors import FluxError
from training.manifest import canonical_json
from training.processes import is_alive
from training.run import RUN_ID_VARIABLE

# Longer than a client waits for a post's answer, repetitions included: whoever claimed and has not posted by then is dead.
CLAIM_PATIENCE_SECONDS = 180.0
CLAIM_POLL_SECONDS = 1.0
# A post can still arrive after its sender has died: so long nobody concludes from the queue's list that there was none.
SETTLE_SECONDS = 5.0
POST_TRIES = 3


@dataclass(frozen=True)
class Claim:
    """Who may post the run's job. `claimed_at` in seconds since 1970, by the claimer's clock."""

    owner: str
    host: str
    pid: int
    claimed_at: float
    kelpie_id: str | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def to_json(self) -> bytes:
        return canonical_json({"version": 1, **self.__dict__})

    @staticmethod
    def from_json(raw: bytes) -> Claim | None:
        """None when it cannot be read: then it holds nobody back."""
        try:
            value = json.loads(raw)
            return Claim(
                str(value["owner"]),
                str(value["host"]),
                int(value["pid"]),
                float(value["claimed_at"]),
                value.get("kelpie_id"),
                str(value["token"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def is_dead(
    claim: Claim | None, host: str, own_pid: int, is_alive: Callable[[int], bool], now: float
) -> bool:
    """Whether a claim without a job in the queue holds nobody back any more.

    With a job's id in it: that job is no longer live, or the caller would have adopted it. On this host: its process has ended.
    Elsewhere: it is older than any post takes.
    """
    if claim is None or claim.kelpie_id is not None:
        return True
    age = now - claim.claimed_at
    if claim.host == host and (claim.pid == own_pid or not is_alive(claim.pid)):
        return age > SETTLE_SECONDS
    return age > CLAIM_PATIENCE_SECONDS


def choose_job(jobs: Iterable[Job], run: str) -> Job | None:
    """The queue's job of a run that a new one would double: an unfinished one first, then the newest that completed or failed.

    A canceled one does not count: a run that is declared again after its removal is wanted again.
    """
    own = [job for job in jobs if job.environment.get(RUN_ID_VARIABLE) == run]
    unfinished = [job for job in own if job.unfinished]
    if unfinished:
        return unfinished[0]
    ended = [job for job in own if job.status in ("completed", "failed")]
    return ended[-1] if ended else None


class Queue:
    """One container group's queue, listed once and again only when something is uncertain. Thread-safe."""

    def __init__(self, kelpie: Kelpie, group_id: str) -> None:
        self.kelpie = kelpie
        self.group_id = group_id
        self._lock = Lock()
        self._jobs: list[Job] | None = None

    def find(self, run: str, fresh: bool = False) -> Job | None:
        with self._lock:
            if self._jobs is None or fresh:
                self._jobs = self.kelpie.list_jobs(container_group_id=self.group_id)
            return choose_job(self._jobs, run)

    def post_once(self, run: str, request: JobRequest, storage: Storage, claim_key: str, owner: str) -> Job:
        """The run's one job: found, or posted under the claim. Raises ServiceError, FluxError."""
        job = self.find(run)
        if job is not None:
            return job
        claim = Claim(owner, socket.gethostname(), os.getpid(), datetime.now(UTC).timestamp())
        job = self._win(run, claim, storage, claim_key) or self._post(run, request)
        storage.put_bytes(claim_key, Claim(**{**claim.__dict__, "kelpie_id": job.id}).to_json())
        return job

    def _win(self, run: str, claim: Claim, storage: Storage, key: str) -> Job | None:
        """Hold the claim (None), or have the job that another holder posted."""
        try:
            storage.put_bytes(key, claim.to_json(), if_none_match=True)
            return None
        except Conflict:
            pass
        deadline = time.monotonic() + 2 * CLAIM_PATIENCE_SECONDS
        while time.monotonic() < deadline:
            etag = _etag(storage, key)
            holder = Claim.from_json(storage.get_bytes(key) or b"")
            job = self.find(run, fresh=True)
            if job is not None:
                return job
            if is_dead(holder, claim.host, claim.pid, is_alive, datetime.now(UTC).timestamp()):
                try:
                    storage.put_bytes(key, claim.to_json(), if_none_match=etag is None, if_match=etag)
                    return None
                except Conflict:
                    continue
            time.sleep(CLAIM_POLL_SECONDS)
        raise FluxError(
            f"{key} is held by another update that does not post its job", "", "wait for it and run it again"
        )

    def _post(self, run: str, request: JobRequest) -> Job:
        for attempt in range(POST_TRIES):
            try:
                job = self.kelpie.post_job(request)
            except UncertainOutcome:
                found = self.find(run, fresh=True)
                if found is not None:
                    return found
                if attempt == POST_TRIES - 1:
                    raise
            else:
                with self._lock:
                    self._jobs = [*(self._jobs or []), job]
                return job
        raise AssertionError("unreachable")


def _etag(storage: Storage, key: str) -> str | None:
    info = storage.head(key)
    return None if info is None else info.etag
