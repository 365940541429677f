"""A database, its tables, their rows and a view on them, as Pulumi resources."""

import os
import sqlite3
from contextlib import closing

from pulumi import Input, Output
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    ConfigureRequest,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)


def execute(path, statement, *values):
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        return connection.execute(statement, values).fetchall()


class DatabaseProvider(ResourceProvider):
    def configure(self, req: ConfigureRequest):
        self.page_size = int(req.config.get("pageSize") or 4096)

    def create(self, props):
        execute(props["path"], "PRAGMA user_version = 1")
        return CreateResult(props["path"], {**props, "pageSize": self.page_size})

    def diff(self, id, olds, news):
        return DiffResult(changes=olds["path"] != news["path"], replaces=["path"], stables=["pageSize"])

    def delete(self, id, props):
        if os.path.exists(id):
            os.remove(id)


class TableProvider(ResourceProvider):
    def check(self, olds, news):
        failures = [
            CheckFailure("columns", f"{column!r} is no column name")
            for column in news.get("columns") or []
            if not str(column).isidentifier()
        ]
        return CheckResult(news, failures)

    def create(self, props):
        columns = ", ".join(props["columns"])
        execute(props["database"], f"CREATE TABLE {props['name']} (key TEXT PRIMARY KEY, {columns})")
        return CreateResult(f"{props['database']}/{props['name']}", props)

    def diff(self, id, olds, news):
        replaces = [key for key in ("database", "name", "columns") if olds.get(key) != news.get(key)]
        return DiffResult(changes=bool(replaces), replaces=replaces, delete_before_replace=True)

    def delete(self, id, props):
        execute(props["database"], f"DROP TABLE IF EXISTS {props['name']}")


class RowProvider(ResourceProvider):
    def _write(self, props):
        names = ", ".join(["key", *props["values"]])
        marks = ", ".join("?" for _ in range(len(props["values"]) + 1))
        execute(
            props["database"],
            f"INSERT OR REPLACE INTO {props['table']} ({names}) VALUES ({marks})",
            props["key"],
            *props["values"].values(),
        )

    def create(self, props):
        self._write(props)
        return CreateResult(f"{props['table']}/{props['key']}", props)

    def update(self, id, olds, news):
        self._write(news)
        return UpdateResult(news)

    def diff(self, id, olds, news):
        replaces = [key for key in ("database", "table", "tableId", "key") if olds.get(key) != news.get(key)]
        return DiffResult(
            changes=bool(replaces) or olds.get("values") != news.get("values"),
            replaces=replaces,
            delete_before_replace=True,
        )

    def read(self, id, props):
        names = sorted(props["values"])
        found = execute(
            props["database"],
            f"SELECT {', '.join(names)} FROM {props['table']} WHERE key = ?",
            props["key"],
        )
        if not found:
            return ReadResult("", {})
        return ReadResult(id, {**props, "values": dict(zip(names, found[0]))})

    def delete(self, id, props):
        execute(props["database"], f"DELETE FROM {props['table']} WHERE key = ?", props["key"])


class CountProvider(ResourceProvider):
    """Counts at every update: its input `after` changes with what it counts."""

    def _count(self, props):
        counts = {
            table: execute(props["database"], f"SELECT count(*) FROM {table}")[0][0]
            for table in props["tables"]
        }
        return {**props, "counts": counts}

    def create(self, props):
        return CreateResult("count", self._count(props))

    def update(self, id, olds, news):
        return UpdateResult(self._count(news))


class Database(Resource):
    path: Output[str]
    pageSize: Output[int]

    def __init__(self, name, path: Input[str], opts=None):
        super().__init__(DatabaseProvider(), name, {"path": path, "pageSize": None}, opts)


class Table(Resource, module="sqlite", name="Table"):
    name: Output[str]
    columns: Output[list]

    def __init__(self, resource_name, database: Input[str], name: Input[str], columns, opts=None):
        props = {"database": database, "name": name, "columns": columns}
        super().__init__(TableProvider(), resource_name, props, opts)


class Row(Resource, module="sqlite", name="Row"):
    def __init__(self, name, table: Table, key, values, opts=None):
        props = {
            "database": table.database,
            "table": table.name,
            "tableId": table.id,
            "key": key,
            "values": values,
        }
        super().__init__(RowProvider(), name, props, opts)


class Count(Resource, module="sqlite", name="Count"):
    counts: Output[dict]

    def __init__(self, name, database: Input[str], tables, after, opts=None):
        props = {"database": database, "tables": tables, "after": after, "counts": None}
        super().__init__(CountProvider(), name, props, opts)
