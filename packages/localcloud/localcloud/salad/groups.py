"""The table of container groups, and the API's view of it and of the instances. The supervisor starts and stops the instances."""

import json
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from localcloud.database import CloudDatabase, iso_time, now
from localcloud.home import CloudSettings, HomeState
from localcloud.salad import validation
from localcloud.salad.problems import ProblemError, not_found

# A new group has the status `pending` for this fraction of the boot time, while its image is prepared.
PENDING_SHARE = 0.2
# Deletion is asynchronous: a deleted group is still listed for this long.
DELETION_SECONDS = 0.3


class GroupTable:
    """The groups of the one project. `on_change` is called after each change that the supervisor has to act on.

    Methods that take a group's name raise ProblemError 404 for an unknown group.
    """

    def __init__(
        self,
        database: CloudDatabase,
        state: HomeState,
        settings: CloudSettings,
        on_change: Callable[[], None],
    ) -> None:
        self._db, self._home_state, self._on_change = database, state, on_change
        self.quota, self._boot = settings.quota, settings.boot_seconds

    # ---- the API

    def create(self, body: Any) -> dict[str, Any]:
        """Create a group. Raises ProblemError: 400 for an invalid body, 409 for a used name, 403 above the quota."""
        fields = validation.validated_new_group(body)
        name, replicas = fields.pop("name"), fields.pop("replicas")
        if self._find(name):
            detail = f"A container group named {name!r} exists in this project."
            raise ProblemError(409, detail, kind="name_conflict")
        self._check_quota(replicas, 0)
        fields.setdefault("display_name", name)
        fields["priority"] = fields["container"].pop("priority", None)
        fields["container_version"] = 1
        row = (str(uuid.uuid4()), name, json.dumps(fields), replicas, fields["autostart_policy"])
        moment = now()
        self._db.execute(
            "INSERT INTO groups (id, name, body, replicas, started, pending_until, created, updated, start_time, finish_time)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, moment + PENDING_SHARE * self._boot, *(moment,) * 4),
        )
        self._on_change()
        return self.get(name)

    def get(self, name: str) -> dict[str, Any]:
        """A group in the API's format."""
        return self._shown(self._find_or_raise(name))

    def all(self) -> list[dict[str, Any]]:
        """All groups, oldest first."""
        return [self._shown(row) for row in self._db.execute("SELECT * FROM groups ORDER BY created")]

    def patch(self, name: str, body: Any) -> dict[str, Any]:
        """Merge a change (RFC 7396). A change in `container` restarts every replica. Raises ProblemError."""
        row = self._find_or_raise(name)
        changes = validation.patch(body)
        replicas = changes.pop("replicas", None)
        if replicas is None:
            replicas = row["replicas"]
        self._check_quota(replicas, row["replicas"])
        before = json.loads(row["body"])
        after = merge_patch(before, changes)
        if after.get("display_name") is None:
            after["display_name"] = name
        after["priority"] = after["container"].pop("priority", before["priority"])
        version = row["version"] + int(after != before or replicas != row["replicas"])
        if (after["container"], after["priority"]) != (before["container"], before["priority"]):
            after["container_version"] = version
        self._db.execute(
            "UPDATE groups SET body = ?, replicas = ?, version = ?, updated = ? WHERE id = ?",
            (json.dumps(after), replicas, version, now(), row["id"]),
        )
        self._on_change()
        return self.get(name)

    def delete(self, name: str) -> None:
        """Mark the group as deleted; the supervisor removes it."""
        row = self._find_or_raise(name)
        query = "UPDATE groups SET deleting = COALESCE(deleting, ?) WHERE id = ?"
        self._db.execute(query, (now(), row["id"]))
        self._on_change()

    def start(self, name: str) -> None:
        self._set_started(name, True, "start_time")

    def stop(self, name: str) -> None:
        self._set_started(name, False, "finish_time")

    def instances(self, name: str) -> list[dict[str, Any]]:
        group = self._find_or_raise(name)
        query = "SELECT * FROM instances WHERE group_id = ? ORDER BY created"
        return [_instance_shown(row) for row in self._db.all(query, group["id"])]

    def instance(self, name: str, identity: str) -> dict[str, Any]:
        for instance in self.instances(name):
            if instance["id"] == identity:
                return instance
        raise ProblemError(404, "The container group instance could not be found.")

    def reallocate(self, name: str, identity: str) -> None:
        """Replace the instance by one on another machine."""
        self._set_state(name, identity, "stopping", "state != 'stopping'")

    def restart(self, name: str, identity: str) -> None:
        """Restart a running container on its machine (`recreate` and `restart`)."""
        self._set_state(name, identity, "creating", "state = 'running'")

    def _set_state(self, name: str, identity: str, state: str, condition: str) -> None:
        self.instance(name, identity)
        self._db.execute(
            f"UPDATE instances SET state = ?, state_since = ? WHERE id = ? AND {condition}",  # noqa: S608 (constant conditions)
            (state, now(), identity),
        )
        self._on_change()

    def set_deletion_cost(self, name: str, identity: str, body: Any) -> dict[str, Any]:
        """Set the cost; the instances with the lowest cost are stopped first. Raises ProblemError 400, 404."""
        self.instance(name, identity)
        cost = body.get("deletion_cost") if isinstance(body, dict) else None
        if not isinstance(cost, int) or not 0 <= cost <= 100000:
            raise ProblemError(400, "deletion_cost: must be a whole number from 0 to 100000")
        self._db.execute("UPDATE instances SET deletion_cost = ? WHERE id = ?", (cost, identity))
        return self.instance(name, identity)

    def replicas_used(self) -> int:
        """The replicas of all groups, which is what the quota limits."""
        return int(self._db.execute("SELECT COALESCE(SUM(replicas), 0) FROM groups").fetchone()[0])

    # ---- for Kelpie

    def status_of(self, name: str) -> str | None:
        """The group's status, or None when it does not exist."""
        row = self._find(name)
        return None if row is None else str(self._state(row)["status"])

    def group_name(self, group_id: str) -> str | None:
        """The name of the group with this id, or None."""
        row = self._db.first("SELECT name FROM groups WHERE id = ?", group_id)
        return None if row is None else str(row["name"])

    def is_node_token(self, token: str) -> bool:
        """Whether the token belongs to an existing instance."""
        return self._db.first("SELECT 1 FROM instances WHERE token = ?", token) is not None

    def _find(self, name: str) -> sqlite3.Row | None:
        return self._db.first("SELECT * FROM groups WHERE name = ?", name)

    def _find_or_raise(self, name: str) -> sqlite3.Row:
        row = self._find(name)
        if row is None:
            raise not_found()
        return row

    def _set_started(self, name: str, started: bool, time_column: str) -> None:
        row = self._find_or_raise(name)
        if bool(row["started"]) != started:
            self._db.execute(
                f"UPDATE groups SET started = ?, {time_column} = ? WHERE id = ?",  # noqa: S608 (our own names)
                (started, now(), row["id"]),
            )
        self._on_change()

    def _check_quota(self, replicas: int, before: int) -> None:
        total = self.replicas_used() - before + replicas
        if replicas > before and total > self.quota:
            detail = (
                f"The quota of {self.quota} replicas would be exceeded: {total} were asked for in all groups."
            )
            raise ProblemError(403, detail, kind="quota_exceeded")

    def _state(self, row: sqlite3.Row) -> dict[str, Any]:
        query = "SELECT state FROM instances WHERE group_id = ?"
        states = Counter(instance["state"] for instance in self._db.execute(query, (row["id"],)))
        return {
            "status": _status(row, states),
            "description": None,
            "start_time": iso_time(row["start_time"]),
            "finish_time": iso_time(row["finish_time"]),
            "instance_status_counts": {
                "allocating_count": states["allocating"],
                "creating_count": states["downloading"] + states["creating"],
                "running_count": states["running"],
                "stopping_count": states["stopping"],
            },
        }

    def _shown(self, row: sqlite3.Row) -> dict[str, Any]:
        """The group in the API's format: `priority` at the top level, no registry credentials."""
        body = json.loads(row["body"])
        body["container"].pop("registry_authentication", None)
        container: dict[str, Any] = {"command": None, "environment_variables": {}, "image_caching": True}
        container |= body.pop("container")
        container["resources"] = {"gpu_classes": [], "shm_size": 64} | container["resources"]
        container_version = body.pop("container_version")
        query = "SELECT 1 FROM instances WHERE group_id = ? AND version < ?"
        outdated = self._db.first(query, row["id"], container_version)
        return {
            "country_codes": [],
            "scaling-actions": [],
            "scheduled-scaling-enabled": False,
            **body,
            "id": row["id"],
            "name": row["name"],
            "organization_name": self._home_state.organization,
            "project_name": self._home_state.project,
            "container": container,
            "replicas": row["replicas"],
            "current_state": self._state(row),
            "pending_change": outdated is not None,
            "version": row["version"],
            "create_time": iso_time(row["created"], 6),
            "update_time": iso_time(row["updated"], 6),
        }


def _status(row: sqlite3.Row, states: Counter[str]) -> str:
    if now() < row["pending_until"]:
        return "pending"
    if row["deleting"] is not None or not row["started"]:
        return "stopped"
    # A started group without replicas has the status `running`.
    return "running" if states["running"] or not row["replicas"] else "deploying"


def _instance_shown(row: sqlite3.Row) -> dict[str, Any]:
    running = row["state"] == "running"
    shown = {name: row[name] for name in ("id", "machine_id", "state", "version", "deletion_cost")}
    return shown | {"update_time": iso_time(row["state_since"], 6), "ready": running, "started": running}


def merge_patch(target: Any, change: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396): objects are merged, null removes a member, anything else replaces it."""
    if not isinstance(change, dict):
        return change
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged
