"""Runs as many node processes as the started groups ask for.

An instance is allocating, downloading, creating, running and then stopping, before it is removed. When a node process dies, its machine
is lost and an instance with another machine id replaces it, unless the process ended by itself. Replicas beyond the number of machines (`nodes`) wait in allocating.
"""

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
from pathlib import Path

from localcloud import processes
from localcloud.chaos import conditions
from localcloud.chaos.settings import Chaos
from localcloud.database import CloudDatabase, now
from localcloud.home import EXIT_REALLOCATE, CloudSettings, Home, HomeState
from localcloud.salad.billing import InstanceBilling
from localcloud.salad.groups import DELETION_SECONDS

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
# For each state of an instance: the next state, and the fraction of the boot time until then.
BOOT = {"allocating": ("downloading", 0.3), "downloading": ("creating", 0.4), "creating": ("running", 0.1)}
# If a node exits sooner than this, it counts as broken, and its replacement is delayed.
QUICK_DEATH_SECONDS = 2.0
MAX_DELAY_SECONDS = 10.0


class Supervisor:
    """Runs in the daemon's event loop. Its state is in the database, except for handles of child processes."""

    def __init__(
        self,
        home: Home,
        database: CloudDatabase,
        settings: CloudSettings,
        state: HomeState,
        kelpie_url: str,
        chaos: Chaos,
    ) -> None:
        self._home, self._db, self._settings, self._state = home, database, settings, state
        self._kelpie_url, self._chaos = kelpie_url, chaos
        self._billing = InstanceBilling(database)
        self._interruptions: dict[str, float] = {}  # instance id -> time when chaos takes the node away
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._quick_deaths: Counter[str] = Counter()
        self._terminated: set[str] = set()
        self._closing = False
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Supervise until `close` is called."""
        while not self._closing:
            self.wake.clear()
            try:
                self.step()
            except Exception:
                # A temporary problem, such as a full disk, must not end the supervisor.
                log.exception("supervisor")
                await asyncio.sleep(1)
            try:
                await asyncio.wait_for(self.wake.wait(), TICK_SECONDS)
            except TimeoutError:
                continue

    def step(self) -> None:
        self._replace_dead()
        self._interrupt()
        self._billing.update()
        for group in self._db.all("SELECT * FROM groups ORDER BY created"):
            self._scale(group)
        for instance in self._instances():
            if instance["state"] == "stopping":
                self._stop(instance)
            elif instance["state"] in BOOT:
                self._boot(instance)
        self._finish_deletions()

    def take_over_nodes(self, *, keep: bool) -> None:
        """After a restart: take over the nodes of a killed daemon that still run, or kill them if `keep` is false."""
        for instance in self._instances("pid IS NOT NULL"):
            if keep and self._is_alive(instance):
                log.info("node %s (pid %s) still runs and is kept", instance["id"], instance["pid"])
            else:
                self._remove(instance)

    async def close(self) -> None:
        """Stop all nodes, and start no new ones."""
        # Set a flag instead of canceling the task, because `wait_for` can swallow a cancellation.
        self._closing = True
        self._db.execute("UPDATE instances SET state = 'stopping', state_since = ?", (now(),))
        while rows := self._instances():
            for instance in rows:
                self._stop(instance)
            await asyncio.sleep(TICK_SECONDS / 4)

    def _instances(self, condition: str = "1", *values: str) -> list[sqlite3.Row]:
        query = f"SELECT * FROM instances WHERE {condition} ORDER BY created"  # noqa: S608 (conditions are constants)
        return self._db.all(query, *values)

    # ---- scaling

    def _scale(self, group: sqlite3.Row) -> None:
        target = int(group["replicas"]) if group["started"] and group["deleting"] is None else 0
        if now() < group["pending_until"]:
            target = 0
        version = json.loads(group["body"])["container_version"]
        current = self._instances("group_id = ? AND state != 'stopping'", group["id"])
        live = [instance for instance in current if instance["version"] >= version]
        outdated = [instance for instance in current if instance["version"] < version]
        surplus = self._in_stop_order(live)[: max(0, len(live) - target)]
        for instance in outdated + surplus:
            self._set_state(instance["id"], "stopping")
        for _ in range(target - len(live)):
            self._add(group, version)

    def _in_stop_order(self, instances: list[sqlite3.Row]) -> list[sqlite3.Row]:
        """Idle instances first (a worker raises its deletion cost while it works), then the newest."""
        busy = {row[0] for row in self._db.execute("SELECT machine_id FROM jobs WHERE status = 'running'")}

        def order(instance: sqlite3.Row) -> tuple[int, bool, bool, float]:
            is_busy, is_running = instance["machine_id"] in busy, instance["state"] == "running"
            return (instance["deletion_cost"], is_busy, is_running, -instance["created"])

        return sorted(instances, key=order)

    def _add(self, group: sqlite3.Row, version: int) -> None:
        delay = self._restart_delay(group["id"])
        ids = (str(uuid.uuid4()), group["id"], str(uuid.uuid4()), secrets.token_urlsafe(32))
        self._db.execute(
            "INSERT INTO instances (id, group_id, machine_id, token, state, version, created, state_since, not_before)"
            " VALUES (?, ?, ?, ?, 'allocating', ?, ?, ?, ?)",
            (*ids, version, now(), now(), now() + delay),
        )

    def _restart_delay(self, group_id: str) -> float:
        return float(min(2.0 ** self._quick_deaths[group_id] - 1, MAX_DELAY_SECONDS))

    # ---- starting

    def _boot(self, instance: sqlite3.Row) -> None:
        following, share = BOOT[instance["state"]]
        if instance["pid"] is not None:
            self._end_container(instance)
        if now() < max(instance["state_since"] + share * self._settings.boot_seconds, instance["not_before"]):
            return
        if instance["state"] == "allocating" and self._machines_in_use() >= self._settings.nodes:
            return
        if following == "running":
            self._try_to_launch(instance)
        else:
            self._set_state(instance["id"], following)
            self.wake.set()

    def _end_container(self, instance: sqlite3.Row) -> None:
        """For a restart: end the container, keep the machine."""
        processes.kill_group(instance["pid"], instance["pid_start"])
        self._children.pop(instance["pid"], None)
        self._billing.close(instance["id"])
        self._db.execute("UPDATE instances SET pid = NULL, pid_start = NULL WHERE id = ?", (instance["id"],))

    def _machines_in_use(self) -> int:
        return len(self._instances("state != 'allocating'"))

    def _try_to_launch(self, instance: sqlite3.Row) -> None:
        try:
            self._launch(instance)
        except Exception as error:  # noqa: BLE001 (one group that cannot start must not affect the others)
            log.error("node %s cannot be started; trying again later: %s", instance["id"], error)
            later = now() + MAX_DELAY_SECONDS
            self._db.execute("UPDATE instances SET not_before = ? WHERE id = ?", (later, instance["id"]))

    def _launch(self, instance: sqlite3.Row) -> None:
        [group] = self._db.all("SELECT * FROM groups WHERE id = ?", instance["group_id"])
        child = self._spawn(instance, group)
        self._children[child.pid] = child
        self._db.execute(
            "UPDATE instances SET state = 'running', state_since = ?, pid = ?, pid_start = ? WHERE id = ?",
            (now(), child.pid, processes.start_time(child.pid), instance["id"]),
        )
        self._billing.open(instance, group)
        if (lifetime := self._chaos.draw_lifetime()) is not None:
            self._interruptions[instance["id"]] = now() + lifetime
        log.info("node %s of group %s runs as pid %s", instance["id"], group["name"], child.pid)

    def _spawn(self, instance: sqlite3.Row, group: sqlite3.Row) -> subprocess.Popen[bytes]:
        folder = self._home.nodes / instance["id"]
        folder.mkdir(mode=0o700, exist_ok=True)
        command = self._settings.node_command or (sys.executable, "-m", "localcloud.node")
        with (self._home.logs / f"node-{instance['id']}.log").open("ab") as output:
            return subprocess.Popen(  # noqa: S603 (our own program)
                [*command, "--home", str(folder)],
                env=self._environment(instance, group, folder),
                # The node starts in this folder so that Python finds `-m localcloud.node`; it then changes
                # to its own folder.
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # lets the node be killed together with its children
            )

    def _environment(self, instance: sqlite3.Row, group: sqlite3.Row, folder: Path) -> dict[str, str]:
        settings = self._settings
        system = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
        }
        declared = json.loads(group["body"])["container"].get("environment_variables") or {}
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
        limits = {"HEARTBEAT_SECONDS": settings.heartbeat_seconds, "IDLE_SECONDS": settings.idle_seconds}
        salad |= {name: str(seconds) for name, seconds in limits.items() if seconds is not None}
        if faults := self._chaos.draw_conditions():
            salad[conditions.VARIABLE] = faults
        return system | declared | salad

    # ---- stopping

    def _interrupt(self) -> None:
        """Take away the nodes whose time has come (`chaos interrupt --per-hour`)."""
        for identity in [one for one, due in self._interruptions.items() if due <= now()]:
            del self._interruptions[identity]
            for instance in self._instances("id = ? AND state = 'running'", identity):
                if self._is_alive(instance):
                    log.info("chaos: node %s is taken away", identity)
                    processes.send(instance["pid"], signal.SIGTERM)

    def _replace_dead(self) -> None:
        """A container that ended by itself is started again on its machine; any other is lost with its machine, and `_scale` replaces it."""
        for instance in self._instances("state = 'running'"):
            if self._is_alive(instance):
                continue
            identity, seconds, group_id = (
                instance["id"],
                now() - instance["state_since"],
                instance["group_id"],
            )
            was_quick = seconds < QUICK_DEATH_SECONDS
            self._quick_deaths[group_id] = self._quick_deaths[group_id] + 1 if was_quick else 0
            log.warning("node %s (pid %s) died after %.1f s", identity, instance["pid"], seconds)
            if self._ended_by_itself(instance):
                later = now() + self._restart_delay(group_id)
                self._db.execute("UPDATE instances SET not_before = ? WHERE id = ?", (later, identity))
                self._set_state(identity, "creating")
            else:
                self._remove(instance)

    def _ended_by_itself(self, instance: sqlite3.Row) -> bool:
        child = self._children.get(instance["pid"])
        code = child.returncode if child else None
        return code is not None and code >= 0 and code != EXIT_REALLOCATE

    def _stop(self, instance: sqlite3.Row) -> None:
        """One step of stopping an instance: SIGTERM once, SIGKILL after the grace period; remove it when it has ended."""
        identity, pid = instance["id"], instance["pid"]
        if pid is None or not self._is_alive(instance):
            self._remove(instance)
        elif identity not in self._terminated:
            self._terminated.add(identity)
            self._billing.close(identity)
            processes.send(pid, signal.SIGTERM)
        elif now() > instance["state_since"] + self._settings.stop_grace_seconds:
            log.warning("node %s did not end in time and is killed", identity)
            processes.kill_group(pid, instance["pid_start"])

    def _remove(self, instance: sqlite3.Row) -> None:
        """Forget an instance; kill the processes that its node has left, and remove its folder."""
        if instance["pid"] is not None:
            processes.kill_group(instance["pid"], instance["pid_start"])
            self._children.pop(instance["pid"], None)
        self._billing.close(instance["id"])
        self._db.execute("DELETE FROM instances WHERE id = ?", (instance["id"],))
        self._terminated.discard(instance["id"])
        self._interruptions.pop(instance["id"], None)
        folder = self._home.nodes / instance["id"]
        # Delete in a thread, because a dataset can have many files. The event loop waits for the
        # thread before it ends.
        asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(folder, ignore_errors=True))
        self.wake.set()

    def _is_alive(self, instance: sqlite3.Row) -> bool:
        child = self._children.get(instance["pid"])
        if child is not None:
            return child.poll() is None
        return processes.is_same(instance["pid"], instance["pid_start"])

    def _set_state(self, identity: str, state: str) -> None:
        query = "UPDATE instances SET state = ?, state_since = ? WHERE id = ?"
        self._db.execute(query, (state, now(), identity))

    def _finish_deletions(self) -> None:
        self._db.execute(
            "DELETE FROM groups WHERE deleting < ? AND id NOT IN (SELECT group_id FROM instances)",
            (now() - DELETION_SECONDS,),
        )


def kill_orphans(home: Home, database: CloudDatabase) -> None:
    """Kill the nodes that a killed daemon left behind."""
    for instance in database.all("SELECT * FROM instances"):
        if instance["pid"] is not None:
            processes.kill_group(instance["pid"], instance["pid_start"])
        shutil.rmtree(home.nodes / instance["id"], ignore_errors=True)
    database.execute("DELETE FROM instances")
    database.execute("UPDATE billing SET open = 0")
