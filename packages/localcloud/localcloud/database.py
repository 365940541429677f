"""The SQLite database, and times in the formats of the services.

All tables are used from the daemon's event loop, through one connection. Only `r2_keys` is also read by the S3 thread, through its own.
"""

import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS groups (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, body TEXT NOT NULL, replicas INTEGER NOT NULL,
    started INTEGER NOT NULL, version INTEGER NOT NULL DEFAULT 1, pending_until REAL NOT NULL, deleting REAL,
    created REAL NOT NULL, updated REAL NOT NULL, start_time REAL NOT NULL, finish_time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS instances (
    id TEXT PRIMARY KEY, group_id TEXT NOT NULL, machine_id TEXT NOT NULL, token TEXT NOT NULL, state TEXT NOT NULL,
    version INTEGER NOT NULL, created REAL NOT NULL, state_since REAL NOT NULL, not_before REAL NOT NULL,
    deletion_cost INTEGER NOT NULL DEFAULT 0, pid INTEGER, pid_start TEXT);
CREATE TABLE IF NOT EXISTS billing (
    instance_id TEXT PRIMARY KEY, group_id TEXT NOT NULL, group_name TEXT NOT NULL, machine_id TEXT NOT NULL,
    gpu_class TEXT, priority TEXT, dollars_an_hour REAL NOT NULL, running_from REAL NOT NULL, billed_until REAL NOT NULL,
    open INTEGER NOT NULL DEFAULT 1);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, user_id TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'pending', created INTEGER NOT NULL,
    started REAL, completed REAL, canceled REAL, failed REAL, heartbeat REAL, num_failures INTEGER NOT NULL DEFAULT 0,
    machine_id TEXT, num_heartbeats INTEGER NOT NULL DEFAULT 0, container_group_id TEXT NOT NULL,
    heartbeat_interval INTEGER NOT NULL, max_failures INTEGER NOT NULL, webhook TEXT, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (container_group_id, status, created);
CREATE TABLE IF NOT EXISTS bans (machine_id TEXT NOT NULL, job_id TEXT NOT NULL, PRIMARY KEY (machine_id, job_id));
CREATE TABLE IF NOT EXISTS scaling_rules (
    container_group_id TEXT PRIMARY KEY, org_name TEXT NOT NULL, project_name TEXT NOT NULL,
    container_group_name TEXT NOT NULL, user_id TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
    min_replicas INTEGER NOT NULL, max_replicas INTEGER NOT NULL, idle_threshold_seconds INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS r2_buckets (name TEXT PRIMARY KEY, location TEXT NOT NULL, storage_class TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS r2_keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, secret TEXT NOT NULL, scopes TEXT NOT NULL, policies TEXT NOT NULL,
    created REAL NOT NULL, expires REAL, session_token TEXT, parent TEXT);
"""


class CloudDatabase(sqlite3.Connection):
    """A connection with shorter ways to read rows."""

    def all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return self.execute(query, values).fetchall()

    def first(self, query: str, *values: Any) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self.execute(query, values).fetchone()
        return row


def open_database(path: Path, any_thread: bool = False) -> CloudDatabase:
    """Open the file and create missing tables. Each statement is a transaction unless one is begun explicitly.

    `any_thread` allows to use the connection in another thread than this one, though never in two at once.
    """
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=not any_thread, factory=CloudDatabase
    )
    connection.row_factory = sqlite3.Row
    # In WAL mode, synchronous=NORMAL is enough: nothing is lost when the daemon is killed.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.executescript(SCHEMA)
    return connection


def now() -> float:
    return time.time()


def iso_time(seconds: float, digits: int = 3) -> str:
    """`2026-01-31T12:00:00.000Z`, as in Kelpie's jobs and in SaladCloud's answers."""
    moment = datetime.fromtimestamp(seconds, UTC)
    text = moment.isoformat(timespec="milliseconds" if digits == 3 else "microseconds")
    return text.replace("+00:00", "Z")


def sql_time(seconds: float) -> str:
    """`2026-01-31 12:00:00`, as in Kelpie's scaling rules."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
