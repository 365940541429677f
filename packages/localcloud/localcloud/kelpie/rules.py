"""Kelpie's scaling rules: at most one for each container group, keyed by the group's id."""

import sqlite3
from typing import Any

from localcloud.database import CloudDatabase, now, sql_time
from localcloud.kelpie.validation import database_error


class RuleTable:
    """The rules of one user."""

    def __init__(self, database: CloudDatabase, user_id: str) -> None:
        self._db, self._user = database, user_id

    def create(
        self, fields: dict[str, Any], organization: str, project: str, group_name: str
    ) -> dict[str, Any]:
        """Raises RefusedRequestError when the container group already has a rule."""
        names = (*fields, "org_name", "project_name", "container_group_name", "user_id", "created", "updated")
        values = (*fields.values(), organization, project, group_name, self._user, now(), now())
        try:
            self._db.execute(
                f"INSERT INTO scaling_rules ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608 (constant names)
                values,
            )
        except sqlite3.IntegrityError:
            message = "UNIQUE constraint failed: ScalingRules.container_group_id: SQLITE_CONSTRAINT"
            raise database_error(message) from None
        return self.get(fields["container_group_id"]) or {}

    def get(self, group_id: str) -> dict[str, Any] | None:
        row = self._db.first("SELECT * FROM scaling_rules WHERE container_group_id = ?", group_id)
        return None if row is None else _shown(row)

    def all(self) -> list[dict[str, Any]]:
        return [_shown(row) for row in self._db.execute("SELECT * FROM scaling_rules")]

    def update(self, group_id: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Change the given fields. Returns None when there is no rule."""
        changes = ", ".join(f"{name} = ?" for name in fields)
        self._db.execute(
            f"UPDATE scaling_rules SET {changes}, updated = ? WHERE container_group_id = ?",  # noqa: S608 (constant names)
            (*fields.values(), now(), group_id),
        )
        return self.get(group_id)

    def delete(self, group_id: str) -> None:
        """Delete the rule, if there is one."""
        self._db.execute("DELETE FROM scaling_rules WHERE container_group_id = ?", (group_id,))


def _shown(row: sqlite3.Row) -> dict[str, Any]:
    return {**dict(row), "created": sql_time(row["created"]), "updated": sql_time(row["updated"])}
