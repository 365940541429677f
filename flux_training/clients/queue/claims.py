"""A run's claim: the object in the bucket that says which update may post the run's job.

The claim is never deleted. If an update finds a claim whose job no longer exists, it can find out what became of the job, and
then takes over the claim or adopts the job.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from flux_training.clients.errors import Conflict, RateLimited
from flux_training.clients.records import read_record
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.processes import is_alive
from flux_training.training.runs.records import PostedRecord, Token
from flux_training.training.runs.run import RunKeys
from flux_training.training.untrusted import UntrustedRecord

# The validity of a claim in seconds. This exceeds a post with all its retries and time-outs (at most 3.5 minutes,
# flux_training/clients/http.py) and the clock difference between two machines. The holder renews its claim before each post.
CLAIM_SECONDS = 600.0
MAX_CLOCK_DIFFERENCE_SECONDS = 24 * 3600.0
# R2 allows one write per second for each key, and answers further writes with 429 (docs/services.md).
WRITE_SECONDS = 1.0
# Looking up a process id larger than this raises OverflowError.
MAX_PID = 2**31 - 1
Name = Annotated[str, Field(max_length=500)]


class Claim(UntrustedRecord):
    """Who may post the run's job. `claimed_at` in seconds since 1970, by the holder's clock. A claim that cannot be read counts as free.

    The token makes the bytes of each claim unique: a write whose answer was lost is recognised by reading it back.
    """

    owner: Name
    host: Name
    pid: Annotated[int, Field(ge=0, le=MAX_PID)]
    claimed_at: Annotated[float, Field(allow_inf_nan=False)]
    token: Token

    def to_json(self) -> bytes:
        return canonical_json({"version": 1, **self.model_dump()})


def host_identity() -> str:
    """Identifies this machine, boot and pid namespace, within which a pid identifies a process."""
    parts = [socket.gethostname()]
    # Systems without /proc (not Linux) are identified by their host name.
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8])
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)


def is_claim_holder_dead(
    claim: Claim, host: str, own_pid: int, is_alive: Callable[[int], bool], now: float
) -> bool:
    """Whether the holder of a claim without a job has ended: checked on this host, assumed elsewhere after CLAIM_SECONDS.

    A claim from a far future would never end; no holder wrote it.
    """
    if not -MAX_CLOCK_DIFFERENCE_SECONDS <= now - claim.claimed_at <= CLAIM_SECONDS:
        return True
    return claim.host == host and (claim.pid == own_pid or not is_alive(claim.pid))


def posted_record_bytes(token: str, kelpie_id: str) -> bytes:
    """posted.json: the job that was posted under the claim with that token."""
    return canonical_json({"version": 1, "claim": token, "kelpie_id": kelpie_id})


class ClaimFile:
    """A run's claim.json as one claimer writes it; every write but the first names the claim that it replaces.

    posted.json lies beside it.
    """

    def __init__(self, storage: Storage, keys: RunKeys, owner: str) -> None:
        self.key = keys.claim
        self._posted_key = keys.posted
        self._storage = storage
        self._claim = Claim(
            owner=owner, host=host_identity(), pid=os.getpid(), claimed_at=_now(), token=_new_token()
        )
        self._etag = ""
        self._written_at = 0.0

    def read(self) -> tuple[str, Claim | None]:
        """The ETag and the claim; ("", None) if there is none. The ETag is read first, so that a change in between is noticed."""
        info = self._storage.head(self.key)
        if info is None:
            return "", None
        return info.etag, read_record(self._storage, self.key, Claim).value

    def posted(self, holder: Claim) -> str | None:
        """The id of the job that this holder posted, if it was recorded."""
        found = read_record(self._storage, self._posted_key, PostedRecord).value
        return found.kelpie_id if found and found.claim == holder.token else None

    def take(self, etag: str | None) -> bool:
        """Write the claim if there is none (`etag` None or empty), or in place of the one with that ETag."""
        try:
            return self._write(self._claim.model_copy(update={"claimed_at": _now()}), etag or "")
        except RateLimited:
            # If several updates write at once, only one succeeds; this one did not.
            return False

    def renew(self) -> None:
        """Before each post. Raises FluxError if another update has taken the claim over.

        A claim written within the last second is only checked.
        """
        if time.monotonic() - self._written_at < WRITE_SECONDS:
            info = self._storage.head(self.key)
            ours = info is not None and info.etag == self._etag
        else:
            renewed = {"claimed_at": _now(), "token": _new_token()}
            ours = self._write(self._claim.model_copy(update=renewed), self._etag)
        if not ours:
            raise FluxError(
                f"{self.key} was taken over by another update",
                "only one update may post the job",
                "run the same command again",
            )

    def record(self, kelpie_id: str) -> None:
        """Record the claim's job: our own, or one that another holder posted but could not record."""
        holder = self._claim if self._etag else self.read()[1]
        if holder is None or (not self._etag and self.posted(holder) == kelpie_id):
            return
        with suppress(RateLimited):  # RateLimited means that another update is writing the same record.
            self._storage.put_bytes(self._posted_key, posted_record_bytes(holder.token, kelpie_id))

    def is_holder_dead(self, holder: Claim) -> bool:
        return is_claim_holder_dead(holder, self._claim.host, self._claim.pid, is_alive, _now())

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


def _new_token() -> str:
    return uuid.uuid4().hex


def _now() -> float:
    return datetime.now(UTC).timestamp()
