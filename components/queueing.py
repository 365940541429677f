"""Exactly one job in the queue for a run, without help from the queue's API (it has no idempotency key).

The claim in the bucket decides who may post; the queue's own list tells whether somebody has. A claim is never removed: whoever
comes after a removed job finds it, sees what became of its job, and adopts that or takes the claim over.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from flux_training.clients.connection import Connection
from flux_training.clients.errors import Conflict, NotFound, RateLimited, UncertainOutcome
from flux_training.clients.kelpie import Job, JobRequest, Kelpie
from flux_training.clients.own_jobs import RunPlace, choose_job, in_order
from flux_training.clients.results import read_json
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.processes import is_alive
from flux_training.training.runs.run import RunKeys

# Longer than one post takes with its repetitions and time-outs (flux_training/clients/http.py: about 3.5 minutes at the worst), and than clocks
# of two machines differ. A holder renews its claim before each post.
CLAIM_PATIENCE_SECONDS = 600.0
CLAIM_POLL_SECONDS = 1.0
# A post can still arrive after its sender has died or given up: so long nobody concludes from the queue's list that there was none.
SETTLE_SECONDS = 5.0
POST_TRIES = 3
# R2 takes one write a second of one key, and refuses others with 429 (UPSTREAM.md).
WRITE_SECONDS = 1.0


@dataclass(frozen=True)
class Claim:
    """Who may post the run's job. `claimed_at` in seconds since 1970, by the claimer's clock.

    The token makes each claim's bytes its own: a write whose answer was lost is recognised by reading it back.
    """

    owner: str
    host: str
    pid: int
    claimed_at: float
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
                str(value["token"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


def this_host() -> str:
    """Names this machine, this boot and this pid namespace: in it a process number means one process."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8])
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    except OSError:
        # Not Linux: the host's name alone has to do.
        pass
    return "/".join(parts)


def is_dead(claim: Claim, host: str, own_pid: int, alive: Callable[[int], bool], now: float) -> bool:
    """Whether the holder of a claim without a job has ended: seen on this host, presumed elsewhere after its patience."""
    if now - claim.claimed_at > CLAIM_PATIENCE_SECONDS:
        return True
    return claim.host == host and (claim.pid == own_pid or not alive(claim.pid))


class Queue:
    """One container group's queue, listed once and again only when something is uncertain. Thread-safe."""

    def __init__(self, kelpie: Kelpie, group_id: str) -> None:
        self.kelpie = kelpie
        self.group_id = group_id
        self._lock = Lock()
        self._jobs: list[Job] | None = None

    def drop(self) -> None:
        """Something was canceled: what was listed is no longer so."""
        with self._lock:
            self._jobs = None

    def find(self, wanted: RunPlace, fresh: bool = False) -> Job | None:
        return choose_job(self.jobs(fresh), wanted)

    def post_once(
        self,
        wanted: RunPlace,
        request: JobRequest,
        claims: ClaimFile,
        prepare: Callable[[], None] = lambda: None,
    ) -> Job:
        """The run's one job: found, or posted under the claim. Jobs of runs it takes the place of are canceled.

        `prepare` is called under the claim, before the first post. Raises ServiceError, FluxError.
        """
        self._cancel_superseded(wanted)
        job = self.find(wanted)
        if job is not None:
            return job
        job = self._win(wanted, claims)
        if job is None:
            prepare()
            job = self._post(wanted, request, claims)
        claims.record(job.id)
        return job

    def jobs(self, fresh: bool = False) -> list[Job]:
        with self._lock:
            if self._jobs is None or fresh:
                self._jobs = self.kelpie.list_jobs(container_group_id=self.group_id)
            return list(self._jobs)

    def _cancel_superseded(self, wanted: RunPlace) -> None:
        """What a killed update posted and no state knows is trained and paid for, unless somebody stops it."""
        superseded = [job for job in self.jobs() if wanted.is_superseded(job)]
        for job in superseded:
            self.kelpie.cancel_job(job.id)
        if superseded:
            self.drop()

    def _win(self, wanted: RunPlace, claims: ClaimFile) -> Job | None:
        """Hold the claim (None), or have the job that another holder posted."""
        if claims.take(None):
            return None
        dead_etag, dead_since = "", 0.0
        deadline = time.monotonic() + 2 * CLAIM_PATIENCE_SECONDS
        while time.monotonic() < deadline:
            etag, holder = claims.read()
            posted = claims.posted(holder) if holder else None
            settled = etag == dead_etag and time.monotonic() - dead_since > SETTLE_SECONDS
            # After the claim was read and, where its holder is dead, after what it sent had time to arrive.
            job = self.find(wanted, fresh=True)
            if job is not None:
                return job
            if holder is None:
                free = True
            elif posted is not None:
                job = self._job_of(posted)
                if job is not None:
                    return job
                free = True
            else:
                free = settled
                if claims.holder_is_dead(holder) and etag != dead_etag:
                    dead_etag, dead_since = etag, time.monotonic()
            if free and claims.take(etag):
                return None
            time.sleep(CLAIM_POLL_SECONDS)
        raise FluxError(
            f"{claims.key} is held by another update that does not post its job",
            "",
            "wait for it and run it again",
        )

    def _job_of(self, kelpie_id: str) -> Job | None:
        """What became of a claim's job that this group's list does not have: one that ended by itself is not posted again.

        An unfinished one was posted to a group that is no longer ours: it is canceled, or it might run beside the new one.
        """
        try:
            job = self.kelpie.get_job(kelpie_id)
        except NotFound:
            return None
        if job.unfinished:
            self.kelpie.cancel_job(kelpie_id)
            return None
        return None if job.status == "canceled" else job

    def _post(self, wanted: RunPlace, request: JobRequest, claims: ClaimFile) -> Job:
        for attempt in range(POST_TRIES):
            claims.renew()
            try:
                job = self.kelpie.post_job(request)
            except UncertainOutcome:
                # The request may still be on its way: only a list made a while later can say that it was lost.
                time.sleep(SETTLE_SECONDS)
                found = self.find(wanted, fresh=True)
                if found is not None:
                    return self._only_one(wanted, found)
                if attempt == POST_TRIES - 1:
                    raise
            else:
                with self._lock:
                    if self._jobs is not None:
                        self._jobs.append(job)
                return self._only_one(wanted, job) if attempt else job
        raise AssertionError("unreachable")

    def _only_one(self, wanted: RunPlace, job: Job) -> Job:
        """After a repeated post: of several unfinished jobs of the run the oldest stays."""
        unfinished = in_order(
            found for found in self.jobs(fresh=True) if wanted.is_own(found) and found.unfinished
        )
        for double in unfinished[1:]:
            self.kelpie.cancel_job(double.id)
        if len(unfinished) > 1:
            self.drop()
        return unfinished[0] if unfinished else job


_queues: dict[tuple[str, str], Queue] = {}
_queues_lock = Lock()


def queue_of(connection: Connection, group_id: str) -> Queue:
    """One for all that looks at a group's jobs in this process: they share its listing."""
    with _queues_lock:
        return _queues.setdefault((connection.kelpie_url, group_id), Queue(connection.kelpie(), group_id))


class ClaimFile:
    """A run's claim.json, as one claimer writes it: every write but the first says which claim it replaces.

    Beside it posted.json: the job that was posted under the claim of that token.
    """

    def __init__(self, storage: Storage, keys: RunKeys, owner: str) -> None:
        self.key = keys.claim
        self._posted_key = keys.posted
        self._storage = storage
        self._claim = Claim(owner, this_host(), os.getpid(), _now())
        self._etag = ""
        self._written_at = 0.0

    def read(self) -> tuple[str, Claim | None]:
        """The ETag and the claim; ("", None) when there is none. The ETag is read first: a change between them shows."""
        info = self._storage.head(self.key)
        if info is None:
            return "", None
        return info.etag, Claim.from_json(self._storage.get_bytes(self.key) or b"")

    def posted(self, holder: Claim) -> str | None:
        """The job that this holder has posted, as far as it was written down."""
        found = read_json(self._storage, self._posted_key) or {}
        return (
            str(found["kelpie_id"]) if found.get("claim") == holder.token and "kelpie_id" in found else None
        )

    def take(self, etag: str | None) -> bool:
        """Write it if there is none (`etag` None or empty), or in place of the one of that ETag.

        Where too many write at once, it is another's.
        """
        try:
            return self._write(replace(self._claim, claimed_at=_now()), etag or "")
        except RateLimited:
            return False

    def renew(self) -> None:
        """Before each post: whoever has taken the claim over meanwhile posts instead. Raises FluxError.

        One that was written within a second is as good as new, and only looked at.
        """
        if time.monotonic() - self._written_at < WRITE_SECONDS:
            info = self._storage.head(self.key)
            ours = info is not None and info.etag == self._etag
        else:
            ours = self._write(replace(self._claim, claimed_at=_now(), token=uuid.uuid4().hex), self._etag)
        if not ours:
            raise FluxError(
                f"{self.key} was taken over by another update", "only one may post", "run it again"
            )

    def record(self, kelpie_id: str) -> None:
        """Write down which job the claim has: the own one's, or another's that its holder did not come to write down."""
        holder = self._claim if self._etag else self.read()[1]
        if holder is None or (not self._etag and self.posted(holder) == kelpie_id):
            return
        posted = canonical_json({"version": 1, "claim": holder.token, "kelpie_id": kelpie_id})
        with suppress(RateLimited):  # somebody else writes the same at this moment
            self._storage.put_bytes(self._posted_key, posted)

    def holder_is_dead(self, holder: Claim) -> bool:
        return is_dead(holder, self._claim.host, self._claim.pid, is_alive, _now())

    def _write(self, claim: Claim, etag: str) -> bool:
        try:
            self._etag = self._storage.put_bytes(
                self.key, claim.to_json(), if_none_match=not etag, if_match=etag or None
            )
        except Conflict:
            return False
        self._claim = claim
        self._written_at = time.monotonic()
        return True


def _now() -> float:
    return datetime.now(UTC).timestamp()
