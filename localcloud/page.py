"""The page at `/`: container groups, nodes and the queue, as plain HTML."""

from __future__ import annotations

import sqlite3
from html import escape

from localcloud.database import iso_time

HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<title>Local cloud</title><style>body{font:15px system-ui;margin:2em;max-width:70em}table{border-collapse:collapse;
margin-bottom:2em}td,th{padding:.3em .9em .3em 0;text-align:left;border-bottom:1px solid #ddd}</style>
<h1>Local cloud</h1>"""

TABLES = (
    (
        "Container groups",
        ("name", "started", "replicas", "version", "created"),
        "SELECT * FROM groups ORDER BY created",
    ),
    (
        "Nodes",
        ("id", "state", "machine_id", "pid"),
        "SELECT * FROM instances ORDER BY created",
    ),
    (
        "Queue",
        ("id", "status", "machine_id", "num_failures", "num_heartbeats", "created"),
        "SELECT * FROM jobs ORDER BY created DESC LIMIT 100",
    ),
)

COST = "SELECT COALESCE(SUM((billed_until - running_from) * dollars_an_hour / 3600), 0) FROM billing"


def render(database: sqlite3.Connection) -> str:
    """The page as it is now."""
    tables = [_table(database, title, columns, query) for title, columns, query in TABLES]
    dollars = database.execute(COST).fetchone()[0]
    return f"{HEAD}{''.join(tables)}<p>Cost so far, were this SaladCloud: ${dollars:.4f}</p></html>"


def _table(database: sqlite3.Connection, title: str, columns: tuple[str, ...], query: str) -> str:
    head = "".join(f"<th>{column.replace('_', ' ')}</th>" for column in columns)
    rows = [
        "<tr>" + "".join(_cell(row, name) for name in columns) + "</tr>" for row in database.execute(query)
    ]
    body = "".join(rows) or f"<tr><td colspan={len(columns)}>none</td></tr>"
    return f"<h2>{title}</h2><table><tr>{head}</tr>{body}</table>"


def _cell(row: sqlite3.Row, name: str) -> str:
    value = row[name]
    if name == "created":
        value = iso_time(value)
    return f"<td>{'' if value is None else escape(str(value))}</td>"
