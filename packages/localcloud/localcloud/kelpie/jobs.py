"""Kelpie's job table and what happens to a job in it (UPSTREAM.md, "Jobs")."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from typing import Any

from localcloud.database import iso_time, now
from localcloud.kelpie.validation import LEGACY

TIMES = ("started", "completed", "canceled", "failed", "heartbeat")
# How many jobs a banned machine looks past before it is told that there is none (Kelpie's MAX_FAILURES_PER_WORKER).
MAX_TRIES = 5


# "Above about 100 it meets D1's limits" (UPSTREAM.md).
BATCH_LIMIT = 100


class TooManyJobsError(Exception):
    """A batch too big for the database."""


class StatusConstraintError(Exception):
    """The database's refusal that `DELETE /jobs/container-groups/{id}` runs into when a job is running."""


class Jobs:
    """The jobs of one user. `heartbeat_seconds` caps every job's heartbeat interval; None leaves it as it is."""

    def __init__(
        self,
        database: sqlite3.Connection,
        user_id: str,
        heartbeat_seconds: float | None = None,
        race_seconds: float = 0.0,
        bans: bool = False,
    ) -> None:
        self._db, self._user = database, user_id
        self._cap, self._race, self._bans = heartbeat_seconds, race_seconds, bans

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        """Queue a job; the same body twice is two jobs."""
        identity = str(uuid.uuid4())
        columns = ("heartbeat_interval", "max_failures", "webhook", "container_group_id")
        body = {name: value for name, value in job.items() if name not in columns}
        self._db.execute(
            f"INSERT INTO jobs (id, user_id, created, body, {', '.join(columns)})"  # noqa: S608 (our own names)
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (identity, self._user, int(now()), json.dumps(body), *(job[name] for name in columns)),
        )
        return self.get(identity) or {}

    def create_batch(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Queue one after the other; the answer's order is that of the ids, not of the request.

        Raises TooManyJobsError once BATCH_LIMIT are in: those stay, for it is no transaction (UPSTREAM.md).
        """
        if len(jobs) > BATCH_LIMIT:
            for job in jobs[:BATCH_LIMIT]:
                self.create(job)
            raise TooManyJobsError
        return sorted((self.create(job) for job in jobs), key=lambda job: str(job["id"]))

    def get(self, identity: str) -> dict[str, Any] | None:
        """A job as the API shows it."""
        row = self._row(identity)
        return None if row is None else _shown(row)

    def page(
        self, status: str | None, group: str | None, page_size: int, page: int, ascending: bool
    ) -> list[dict[str, Any]]:
        """One page, sorted by `created` in whole seconds and by nothing else (UPSTREAM.md)."""
        where, values = "user_id = ?", [self._user]
        for column, value in (("status", status), ("container_group_id", group)):
            if value:
                where += f" AND {column} = ?"
                values.append(value)
        order = "ASC" if ascending else "DESC"
        rows = self._db.execute(
            f"SELECT * FROM jobs WHERE {where} ORDER BY created {order} LIMIT ? OFFSET ?",  # noqa: S608 (our own names)
            (*values, page_size, (page - 1) * page_size),
        )
        return [_shown(row) for row in rows]

    def cancel(self, identity: str) -> None:
        """Set the status, whatever it was, also of a job that is finished; an unknown id is no error (UPSTREAM.md)."""
        self._set_status(identity, "user", "canceled")

    def purge(self, group: str) -> int:
        """Remove the pending jobs of a group. Raises StatusConstraintError after that when one is running (UPSTREAM.md)."""
        removed = self._db.execute(
            "DELETE FROM jobs WHERE container_group_id = ? AND user_id = ? AND status = 'pending'",
            (group, self._user),
        ).rowcount
        running = self._db.execute(
            "SELECT 1 FROM jobs WHERE container_group_id = ? AND user_id = ? AND status = 'running'",
            (group, self._user),
        ).fetchone()
        if running:
            raise StatusConstraintError
        return removed

    async def hand_out(self, machine_id: str, group: str) -> dict[str, Any] | None:
        """The oldest running job that has timed out, or else the oldest pending one, now this machine's.

        A SELECT and then an UPDATE: with `race_seconds` between them, one job can reach several machines.
        """
        for skipped in range(MAX_TRIES):
            row = self._next(group, skipped)
            if row is None:
                return None
            if self._bans and self._banned(machine_id, row["id"]):
                continue
            if self._race:
                await asyncio.sleep(self._race)
            self._set_status(row["id"], machine_id, "running")
            return self.get(row["id"])
        return None

    def heartbeat(self, identity: str, machine_id: str) -> str | None:
        """The job's status; `canceled` to a machine that no longer has it; None when there is no such job."""
        row = self._row(identity)
        if row is None:
            return None
        if row["status"] != "running":
            return str(row["status"])
        if row["machine_id"] and row["machine_id"] != machine_id:
            return "canceled"
        self._db.execute(
            "UPDATE jobs SET heartbeat = ?, num_heartbeats = num_heartbeats + 1 WHERE id = ?",
            (now(), identity),
        )
        return "running"

    def fail(self, identity: str, machine_id: str) -> str | None:
        """Count a failure. Gives the status after it: `failed` at max_failures, else as before; None: no such job."""
        row = self._row(identity)
        if row is None:
            return None
        if self._bans:
            self._db.execute("INSERT OR IGNORE INTO bans VALUES (?, ?)", (machine_id, identity))
        if row["num_failures"] + 1 >= row["max_failures"]:
            self._set_status(identity, machine_id, "failed")
        self._db.execute("UPDATE jobs SET num_failures = num_failures + 1 WHERE id = ?", (identity,))
        return str(self._db.execute("SELECT status FROM jobs WHERE id = ?", (identity,)).fetchone()[0])

    def complete(self, identity: str, machine_id: str) -> None:
        """Set the status, whatever it was; an unknown id is no error."""
        self._set_status(identity, machine_id, "completed")

    def count_active(self, group: str, idle_seconds: int, limit: int) -> int:
        """Jobs pending or running, or ended in the last `idle_seconds`, at most `limit`: what the autoscaler counts."""
        since = now() - idle_seconds
        return int(
            self._db.execute(
                "SELECT COUNT(*) FROM (SELECT 1 FROM jobs WHERE container_group_id = ? AND (status IN ('running',"
                " 'pending') OR completed >= ? OR failed >= ? OR canceled >= ?) LIMIT ?)",
                (group, since, since, since, limit),
            ).fetchone()[0]
        )

    def _row(self, identity: str) -> sqlite3.Row | None:
        found: sqlite3.Row | None = self._db.execute(
            "SELECT * FROM jobs WHERE id = ? AND user_id = ?", (identity, self._user)
        ).fetchone()
        return found

    def _next(self, group: str, offset: int) -> sqlite3.Row | None:
        timed_out = "COALESCE(heartbeat, created) <= :now - 2 * MIN(heartbeat_interval, COALESCE(:cap, heartbeat_interval))"
        values = {"user": self._user, "group": group, "now": now(), "cap": self._cap, "offset": offset}
        for condition in (f"status = 'running' AND {timed_out}", "status = 'pending'"):
            row: sqlite3.Row | None = self._db.execute(
                f"SELECT * FROM jobs WHERE {condition} AND user_id = :user AND container_group_id = :group"  # noqa: S608 (our own text)
                " ORDER BY created ASC LIMIT 1 OFFSET :offset",
                values,
            ).fetchone()
            if row is not None:
                return row
        return None

    def _banned(self, machine_id: str, identity: str) -> bool:
        query = "SELECT 1 FROM bans WHERE machine_id = ? AND job_id = ?"
        return self._db.execute(query, (machine_id, identity)).fetchone() is not None

    def _set_status(self, identity: str, machine_id: str, status: str) -> None:
        column = "started" if status == "running" else status
        self._db.execute(
            f"UPDATE jobs SET status = ?, {column} = ?, heartbeat = ?, machine_id = ? WHERE id = ? AND user_id = ?",  # noqa: S608 (our own names)
            (status, now(), now(), machine_id, identity, self._user),
        )


def _shown(row: sqlite3.Row) -> dict[str, Any]:
    """A job in the API's form: times unset are left out, the legacy fields only without `sync` (UPSTREAM.md)."""
    job: dict[str, Any] = {
        name: row[name]
        for name in ("id", "user_id", "status", "num_failures", "machine_id", "container_group_id")
    }
    job |= {name: row[name] for name in ("heartbeat_interval", "max_failures", "webhook", "num_heartbeats")}
    job["created"] = iso_time(row["created"])
    job |= {name: iso_time(int(row[name])) for name in TIMES if row[name] is not None}
    body: dict[str, Any] = json.loads(row["body"])
    if "sync" in body:
        body = {name: value for name, value in body.items() if name not in LEGACY}
    return job | body
