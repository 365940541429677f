"""Keeps as many node processes as the running groups ask for, as SaladCloud keeps instances on its machines.

An instance goes through allocating, downloading, creating, running and stopping; only then is it gone. A node process
that dies is a machine lost: another instance, with another machine id, takes its place. More replicas than there are
machines (`nodes`) wait in allocating.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from localcloud import processes
from localcloud.chaos import conditions
from localcloud.chaos.settings import Chaos
from localcloud.database import now
from localcloud.home import Home, Settings, State
from localcloud.salad.catalog import dollars_an_hour
from localcloud.salad.groups import DELETION_SECONDS

log = logging.getLogger(__name__)

TICK = 0.1
# state -> (the next one, the part of the boot time that it takes)
BOOT = {"allocating": ("downloading", 0.3), "downloading": ("creating", 0.4), "creating": ("running", 0.1)}
ON_MACHINE = ("downloading", "creating", "running", "stopping")
# A node that lived no longer than this is held to be broken, and its successor made to wait.
QUICK_DEATH_SECONDS = 2.0
MOST_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Rows:
    """One group and its instances."""

    group: sqlite3.Row
    instances: list[sqlite3.Row]


class Supervisor:
    """Runs in the daemon's event loop; all that it knows is in the database, but for the handles of its children."""

    def __init__(
        self,
        home: Home,
        database: sqlite3.Connection,
        settings: Settings,
        state: State,
        kelpie_url: str,
        chaos: Chaos,
    ) -> None:
        self._home, self._db, self._settings, self._state = home, database, settings, state
        self._kelpie_url, self._chaos = kelpie_url, chaos
        self._taken_away_at: dict[str, float] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._quick_deaths: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._billed = 0.0
        self._closing = False
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Bring instances nearer to what is asked for, until it is closed."""
        while not self._closing:
            self.wake.clear()
            try:
                self.step()
            except Exception:
                # One bad moment (a full disk, say) must not end the supervision of the other nodes.
                log.exception("supervisor")
                await asyncio.sleep(1)
            try:
                await asyncio.wait_for(self.wake.wait(), TICK)
            except TimeoutError:
                continue

    def step(self) -> None:
        """One look at everything."""
        self._reap()
        self._interrupt()
        self._bill()
        for group in self._db.execute("SELECT * FROM groups ORDER BY created").fetchall():
            self._scale(Rows(group, self._instances(group["id"])))
        for instance in self._db.execute("SELECT * FROM instances ORDER BY created").fetchall():
            if instance["state"] == "stopping":
                self._stop(instance)
            elif instance["state"] in BOOT:
                self._boot(instance)
        self._finish_deletions()

    def adopt(self, reachable: bool) -> None:
        """After a restart: keep nodes of the dead daemon that still run, forget those that do not.

        With `reachable` False the addresses they were told are no longer right, and none is kept.
        """
        for instance in self._db.execute("SELECT * FROM instances WHERE pid IS NOT NULL").fetchall():
            if reachable and self._alive(instance):
                log.info("node %s (pid %s) still runs and is kept", instance["id"], instance["pid"])
            else:
                self._forget(instance)

    async def close(self) -> None:
        """End all nodes: ask, wait, kill. No new ones are made from here on."""
        # A flag, because `wait_for` may swallow a cancellation that comes together with what it waits for.
        self._closing = True
        self._db.execute("UPDATE instances SET state = 'stopping', state_since = ?", (now(),))
        while rows := self._db.execute("SELECT * FROM instances").fetchall():
            for instance in rows:
                self._stop(instance)
            await asyncio.sleep(TICK / 4)

    # ---- how many

    def _instances(self, group_id: str) -> list[sqlite3.Row]:
        query = "SELECT * FROM instances WHERE group_id = ? ORDER BY created"
        return self._db.execute(query, (group_id,)).fetchall()

    def _scale(self, rows: Rows) -> None:
        group = rows.group
        wanted = int(group["replicas"]) if group["started"] and group["deleting"] is None else 0
        if now() < group["pending_until"]:
            wanted = 0
        version = json.loads(group["body"])["container_version"]
        live = []
        for instance in rows.instances:
            if instance["state"] == "stopping":
                continue
            if instance["version"] < version:
                self._set_state(instance["id"], "stopping")
            else:
                live.append(instance)
        for instance in self._first_to_go(live)[: max(0, len(live) - wanted)]:
            self._set_state(instance["id"], "stopping")
        for _ in range(wanted - len(live)):
            self._add(group, version)

    def _first_to_go(self, instances: list[sqlite3.Row]) -> list[sqlite3.Row]:
        """The idle before the busy (a worker raises its deletion cost while it works), then the newest."""
        busy = {row[0] for row in self._db.execute("SELECT machine_id FROM jobs WHERE status = 'running'")}

        def order(instance: sqlite3.Row) -> tuple[int, bool, bool, float]:
            return (
                instance["deletion_cost"],
                instance["machine_id"] in busy,
                instance["state"] == "running",
                -instance["created"],
            )

        return sorted(instances, key=order)

    def _add(self, group: sqlite3.Row, version: int) -> None:
        deaths = self._quick_deaths[group["id"]]
        wait = min(2.0**deaths - 1, MOST_WAIT_SECONDS)
        self._db.execute(
            "INSERT INTO instances (id, group_id, machine_id, token, state, version, created, state_since, not_before)"
            " VALUES (?, ?, ?, ?, 'allocating', ?, ?, ?, ?)",
            (
                str(uuid.uuid4()),
                group["id"],
                str(uuid.uuid4()),
                secrets.token_urlsafe(32),
                version,
                now(),
                now(),
                now() + wait,
            ),
        )

    # ---- one instance's life

    def _boot(self, instance: sqlite3.Row) -> None:
        following, part = BOOT[instance["state"]]
        if instance["pid"] is not None:
            self._end_container(instance)
        if now() < max(instance["state_since"] + part * self._settings.boot_seconds, instance["not_before"]):
            return
        if instance["state"] == "allocating" and self._machines_used() >= self._settings.nodes:
            return
        if following == "running":
            self._try_to_launch(instance)
        else:
            self._set_state(instance["id"], following)
            self.wake.set()

    def _end_container(self, instance: sqlite3.Row) -> None:
        """It is to be restarted: the machine stays, what runs on it ends."""
        processes.kill_group(instance["pid"], instance["pid_start"])
        self._children.pop(instance["pid"], None)
        self._close_bill(instance["id"])
        self._db.execute("UPDATE instances SET pid = NULL, pid_start = NULL WHERE id = ?", (instance["id"],))

    def _machines_used(self) -> int:
        marks = ", ".join("?" * len(ON_MACHINE))
        query = f"SELECT COUNT(*) FROM instances WHERE state IN ({marks})"  # noqa: S608 (question marks)
        return int(self._db.execute(query, ON_MACHINE).fetchone()[0])

    def _try_to_launch(self, instance: sqlite3.Row) -> None:
        try:
            self._launch(instance)
        except Exception as error:  # noqa: BLE001 - one group that no process can be made of must not end the others
            log.error("node %s cannot be started, tried again later: %s", instance["id"], error)
            later = now() + MOST_WAIT_SECONDS
            self._db.execute("UPDATE instances SET not_before = ? WHERE id = ?", (later, instance["id"]))

    def _launch(self, instance: sqlite3.Row) -> None:
        group = self._db.execute("SELECT * FROM groups WHERE id = ?", (instance["group_id"],)).fetchone()
        folder = self._home.nodes / instance["id"]
        folder.mkdir(mode=0o700, exist_ok=True)
        command = self._settings.node_command or (sys.executable, "-m", "localcloud.node")
        with (self._home.logs / f"node-{instance['id']}.log").open("ab") as output:
            child = subprocess.Popen(  # noqa: S603 (our own program)
                [*command, "--home", str(folder)],
                env=self._environment(instance, group, folder),
                # `-m localcloud.node` is found from here; the node itself works in its folder.
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A session, so that the node and all that it starts can be ended together.
                start_new_session=True,
            )
        self._children[child.pid] = child
        self._db.execute(
            "UPDATE instances SET state = 'running', state_since = ?, pid = ?, pid_start = ? WHERE id = ?",
            (now(), child.pid, processes.start_time(child.pid), instance["id"]),
        )
        self._open_bill(instance, group)
        if (lifetime := self._chaos.lifetime()) is not None:
            self._taken_away_at[instance["id"]] = now() + lifetime
        log.info("node %s of group %s runs as pid %s", instance["id"], group["name"], child.pid)

    def _environment(self, instance: sqlite3.Row, group: sqlite3.Row, folder: Path) -> dict[str, str]:
        settings = self._settings
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
        }
        given = json.loads(group["body"])["container"].get("environment_variables") or {}
        salad = {
            "SALAD_MACHINE_ID": instance["machine_id"],
            "SALAD_CONTAINER_GROUP_ID": group["id"],
            "SALAD_ORGANIZATION_NAME": self._state.organization,
            "SALAD_PROJECT_NAME": self._state.project,
            "KELPIE_API_URL": self._kelpie_url,
            "NODE_TOKEN": instance["token"],
            "POLL_SECONDS": str(settings.poll_seconds),
            "STEP_SECONDS": str(settings.step_seconds),
        }
        if settings.heartbeat_seconds is not None:
            salad["HEARTBEAT_SECONDS"] = str(settings.heartbeat_seconds)
        if wrong := self._chaos.conditions():
            salad[conditions.VARIABLE] = wrong
        return own | given | salad

    def _interrupt(self) -> None:
        """Take away the nodes whose time is up."""
        for identity in [one for one, due in self._taken_away_at.items() if due <= now()]:
            del self._taken_away_at[identity]
            query = "SELECT * FROM instances WHERE id = ? AND state = 'running'"
            instance = self._db.execute(query, (identity,)).fetchone()
            if instance is not None and self._alive(instance):
                log.info("chaos: node %s is taken away", identity)
                processes.send(instance["pid"], signal.SIGTERM)

    def _reap(self) -> None:
        """Notice nodes that died by themselves or were killed: their machine is lost."""
        for instance in self._db.execute("SELECT * FROM instances WHERE state = 'running'").fetchall():
            if self._alive(instance):
                continue
            lived = now() - instance["state_since"]
            quick = lived < QUICK_DEATH_SECONDS
            self._quick_deaths[instance["group_id"]] = (
                self._quick_deaths[instance["group_id"]] + 1 if quick else 0
            )
            log.warning("node %s (pid %s) died after %.1f s", instance["id"], instance["pid"], lived)
            self._forget(instance)

    def _stop(self, instance: sqlite3.Row) -> None:
        """One step of ending an instance: SIGTERM once, SIGKILL when its grace is over, gone once it is dead."""
        identity, pid = instance["id"], instance["pid"]
        if pid is None or not self._alive(instance):
            self._forget(instance)
            return
        if identity not in self._asked:
            self._asked.add(identity)
            self._close_bill(identity)
            processes.send(pid, signal.SIGTERM)
        elif now() > instance["state_since"] + self._settings.stop_grace_seconds:
            log.warning("node %s did not end in time and is killed", identity)
            processes.kill_group(pid, instance["pid_start"])

    def _forget(self, instance: sqlite3.Row) -> None:
        """The machine is gone, with its disk and whatever the node had started."""
        if instance["pid"] is not None:
            processes.kill_group(instance["pid"], instance["pid_start"])
            self._children.pop(instance["pid"], None)
        self._close_bill(instance["id"])
        self._db.execute("DELETE FROM instances WHERE id = ?", (instance["id"],))
        self._asked.discard(instance["id"])
        self._taken_away_at.pop(instance["id"], None)
        folder = self._home.nodes / instance["id"]
        # Beside the loop: a dataset can be many files. The loop's end waits for it.
        asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(folder, ignore_errors=True))
        self.wake.set()

    def _alive(self, instance: sqlite3.Row) -> bool:
        child = self._children.get(instance["pid"])
        if child is not None:
            return child.poll() is None
        return processes.is_same(instance["pid"], instance["pid_start"])

    def _set_state(self, identity: str, state: str) -> None:
        self._db.execute(
            "UPDATE instances SET state = ?, state_since = ? WHERE id = ?", (state, now(), identity)
        )

    # ---- deletion and billing

    def _finish_deletions(self) -> None:
        self._db.execute(
            "DELETE FROM groups WHERE deleting < ? AND id NOT IN (SELECT group_id FROM instances)",
            (now() - DELETION_SECONDS,),
        )

    def _open_bill(self, instance: sqlite3.Row, group: sqlite3.Row) -> None:
        body = json.loads(group["body"])
        gpus = body["container"]["resources"].get("gpu_classes") or []
        price = dollars_an_hour(gpus, body["priority"])
        values = (instance["id"], group["id"], group["name"], instance["machine_id"], ",".join(gpus))
        self._db.execute(
            # The same instance again: it was restarted, and the moment in between is billed too.
            "INSERT INTO billing VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET open = 1",
            (*values, body["priority"], price, now(), now()),
        )

    def _bill(self) -> None:
        """Once a second, so that no more than that is lost when this process is killed."""
        if now() >= self._billed + 1:
            self._billed = now()
            self._db.execute("UPDATE billing SET billed_until = ? WHERE open = 1", (self._billed,))

    def _close_bill(self, identity: str) -> None:
        self._db.execute(
            "UPDATE billing SET billed_until = ?, open = 0 WHERE instance_id = ? AND open = 1",
            (now(), identity),
        )


def end_orphans(home: Home, database: sqlite3.Connection) -> int:
    """Kill the nodes that a dead daemon left behind, and forget them. Gives how many were alive."""
    ended = 0
    for instance in database.execute("SELECT * FROM instances").fetchall():
        if instance["pid"] is not None:
            ended += processes.is_same(instance["pid"], instance["pid_start"])
            processes.kill_group(instance["pid"], instance["pid_start"])
        shutil.rmtree(home.nodes / instance["id"], ignore_errors=True)
    database.execute("DELETE FROM instances")
    database.execute("UPDATE billing SET open = 0")
    return ended
