"""Kelpie's job table (docs/services.md, "Jobs" and "Handing out work")."""

import asyncio
import json
import sqlite3
import uuid
from typing import Any

from localcloud.database import CloudDatabase, iso_time, now
from localcloud.home import CloudSettings
from localcloud.kelpie.validation import LEGACY, database_error, number_as_javascript

TIMES = ("started", "completed", "canceled", "failed", "heartbeat")
# A worker gets no job once it has been offered this many jobs that its machine is
# banned from (Kelpie's MAX_FAILURES_PER_WORKER).
MAX_TRIES = 5
MAX_STORED = 2**63  # SQLite stores integers from this value on as floats


class JobTable:
    """The jobs of one user. Methods raise RefusedRequestError for the database errors that Kelpie passes on."""

    def __init__(self, database: CloudDatabase, user_id: str, settings: CloudSettings) -> None:
        self._db, self._user, self._settings = database, user_id, settings

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        """Queue a job. The same body twice makes two jobs."""
        identity = str(uuid.uuid4())
        columns = ("heartbeat_interval", "max_failures", "webhook", "container_group_id")
        body = {name: value for name, value in job.items() if name not in columns}
        numbers = {name: job[name] for name in ("heartbeat_interval", "max_failures")}
        job |= {name: float(value) for name, value in numbers.items() if value >= MAX_STORED}
        self._db.execute(
            f"INSERT INTO jobs (id, user_id, created, body, {', '.join(columns)})"  # noqa: S608 (constant names)
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (identity, self._user, int(now()), json.dumps(body), *(job[name] for name in columns)),
        )
        return self.get(identity) or {}

    def create_batch(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Queue the jobs; the answers are sorted by id, not in the order of the request."""
        return sorted((self.create(job) for job in jobs), key=lambda job: str(job["id"]))

    def get(self, identity: str) -> dict[str, Any] | None:
        """The job in the API's format."""
        row = self._row(identity)
        return None if row is None else _shown(row)

    def page(
        self, status: str | None, group: str | None, page_size: float, page: float, ascending: bool
    ) -> list[dict[str, Any]]:
        """One page, sorted by `created` in whole seconds and by nothing else."""
        where, values = "user_id = ?", [self._user]
        for column, value in (("status", status), ("container_group_id", group)):
            if value:
                where += f" AND {column} = ?"
                values.append(value)
        order = "ASC" if ascending else "DESC"
        query = f"SELECT * FROM jobs WHERE {where} ORDER BY created {order} LIMIT ? OFFSET ?"  # noqa: S608 (constant names)
        limit = (page_size, (page - 1) * page_size)
        if not all(number.is_integer() and abs(number) < MAX_STORED for number in limit):
            raise database_error("datatype mismatch: SQLITE_MISMATCH")
        rows = self._db.execute(query, (*values, *map(int, limit)))
        return [_shown(row) for row in rows]

    def cancel(self, identity: str) -> None:
        """Set the status, even of a finished job. An unknown id is not an error."""
        self._set_status(identity, "user", "canceled")

    def purge(self, group: str) -> int:
        """Delete the pending jobs of a group. Then raises RefusedRequestError if another one is running."""
        removed = self._db.execute(
            "DELETE FROM jobs WHERE container_group_id = ? AND user_id = ? AND status = 'pending'",
            (group, self._user),
        ).rowcount
        running = "SELECT 1 FROM jobs WHERE container_group_id = ? AND user_id = ? AND status = 'running'"
        if self._db.first(running, group, self._user):
            raise database_error("NOT NULL constraint failed: Jobs.status: SQLITE_CONSTRAINT")
        return removed

    async def hand_out(self, machine_id: str, group: str) -> dict[str, Any] | None:
        """Give the machine the oldest running job without heartbeats, or else the oldest pending job.

        A SELECT followed by an UPDATE: with `work_race_seconds` between them, several machines can receive one job.
        """
        for skipped in range(MAX_TRIES):
            row = self._next(group, skipped)
            if row is None:
                return None
            if self._settings.ban_machines and self._is_banned(machine_id, row["id"]):
                continue
            if self._settings.work_race_seconds:
                await asyncio.sleep(self._settings.work_race_seconds)
            self._set_status(row["id"], machine_id, "running")
            return self.get(row["id"])
        return None

    def heartbeat(self, identity: str, machine_id: str) -> str | None:
        """The job's status, `canceled` for a machine that lost the job, None when it does not exist."""
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
        """Count a failure. Returns the status after it (`failed` at max_failures), or None when the job does not exist."""
        row = self._row(identity)
        if row is None:
            return None
        if self._settings.ban_machines:
            self._db.execute("INSERT OR IGNORE INTO bans VALUES (?, ?)", (machine_id, identity))
        if row["num_failures"] + 1 >= row["max_failures"]:
            self._set_status(identity, machine_id, "failed")
        self._db.execute("UPDATE jobs SET num_failures = num_failures + 1 WHERE id = ?", (identity,))
        return str(self._db.execute("SELECT status FROM jobs WHERE id = ?", (identity,)).fetchone()[0])

    def complete(self, identity: str, machine_id: str) -> None:
        """Set the status, whatever it was. An unknown id is not an error."""
        self._set_status(identity, machine_id, "completed")

    def resume(self) -> None:
        """After a start: the time in which this cloud was down does not count as missed heartbeats of the nodes that still run.

        Their heartbeats are shorter than real ones, so that a few seconds would give their jobs to other nodes.
        """
        kept = "SELECT machine_id FROM instances WHERE pid IS NOT NULL"
        self._db.execute(
            f"UPDATE jobs SET heartbeat = ? WHERE status = 'running' AND machine_id IN ({kept})",  # noqa: S608 (constant)
            (now(),),
        )

    def count_active(self, group: str, idle_seconds: int, limit: int) -> int:
        """The number of jobs, at most `limit`, that are pending or running or ended in the last `idle_seconds`."""
        since = now() - idle_seconds
        query = (
            "SELECT 1 FROM jobs WHERE container_group_id = ? AND (status IN ('running', 'pending')"
            " OR completed >= ? OR failed >= ? OR canceled >= ?) LIMIT ?"
        )
        return len(self._db.all(query, group, since, since, since, limit))

    def _row(self, identity: str) -> sqlite3.Row | None:
        return self._db.first("SELECT * FROM jobs WHERE id = ? AND user_id = ?", identity, self._user)

    def _next(self, group: str, offset: int) -> sqlite3.Row | None:
        timed_out = "COALESCE(heartbeat, created) <= :now - 2 * MIN(heartbeat_interval, COALESCE(:cap, heartbeat_interval))"
        values = {"user": self._user, "group": group, "offset": offset}
        values |= {"now": now(), "cap": self._settings.heartbeat_seconds}
        for condition in (f"status = 'running' AND {timed_out}", "status = 'pending'"):
            row: sqlite3.Row | None = self._db.execute(
                f"SELECT * FROM jobs WHERE {condition} AND user_id = :user AND container_group_id = :group"  # noqa: S608 (constant conditions)
                " ORDER BY created ASC LIMIT 1 OFFSET :offset",
                values,
            ).fetchone()
            if row is not None:
                return row
        return None

    def _is_banned(self, machine_id: str, identity: str) -> bool:
        query = "SELECT 1 FROM bans WHERE machine_id = ? AND job_id = ?"
        return self._db.first(query, machine_id, identity) is not None

    def _set_status(self, identity: str, machine_id: str, status: str) -> None:
        column = "started" if status == "running" else status
        self._db.execute(
            f"UPDATE jobs SET status = ?, {column} = ?, heartbeat = ?, machine_id = ? WHERE id = ? AND user_id = ?",  # noqa: S608 (constant names)
            (status, now(), now(), machine_id, identity, self._user),
        )


def _shown(row: sqlite3.Row) -> dict[str, Any]:
    """A job in the API's format: without unset times, and with the legacy fields only if it has no `sync`."""
    stored = dict(row)
    body: dict[str, Any] = json.loads(stored.pop("body"))
    job = {name: value for name, value in stored.items() if name not in TIMES}
    job["created"] = iso_time(row["created"])
    numbers = {name: number_as_javascript(row[name]) for name in ("heartbeat_interval", "max_failures")}
    job |= numbers | {name: iso_time(int(row[name])) for name in TIMES if row[name] is not None}
    if body.get("sync") is not None:
        body = {name: value for name, value in body.items() if name not in LEGACY}
    return job | body
