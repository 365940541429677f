"""The local cloud's folder: where everything is, its settings, and what must outlive a restart.

HOME/settings.json     what `start` was last told
HOME/state.json        keys, user id and ports, made once (mode 0600)
HOME/connection.json   how to reach the running cloud (mode 0600)
HOME/cloud.db          SQLite: container groups, instances, billing, jobs, scaling rules, keys of R2
HOME/s3/<bucket>/…     the objects, as files
HOME/nodes/<id>/       one folder a node
HOME/log/              the daemon's and the nodes' logs
HOME/requests.jsonl    one line a request
HOME/chaos.json        what is to go wrong (localcloud/chaos/settings.py)
HOME/connection-faulty.json   as connection.json, by way of `chaos proxy`, while that runs
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import uuid
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

DEFAULT_PORT = 8650
EXIT_FAILED = 1
EXIT_PORT = 4
# The names in the recorded Kelpie transcript, so that it can be checked against any fresh local cloud.
ORGANIZATION = "org"
PROJECT = "proj"


class HomeError(Exception):
    """A file in the local cloud's folder cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class Settings:
    """What `start` can be told. Seconds are real seconds; a value kept in HOME/settings.json stays until given again.

    `nodes` is how many machines there are: replicas beyond it wait in `allocating`, as on SaladCloud when no machine is
    free. `quota` is SaladCloud's limit on replicas. `key_write_seconds` is R2's least time between two writes of one key;
    0: none. `work_race_seconds` opens the gap between Kelpie's SELECT and UPDATE in which one job reaches two nodes.
    `kelpie_invited`: whether Kelpie's user is in the organization; without it the autoscaler can do nothing, and no API
    tells. `ban_machines` is Kelpie's ban of a machine from a job it failed (with it, a job that fails on every machine of a
    small group is never handed out again).
    """

    port: int = DEFAULT_PORT
    autoscaler_seconds: float = 2.0
    heartbeat_seconds: float | None = None
    step_seconds: float = 0.0
    boot_seconds: float = 0.5
    poll_seconds: float = 1.0
    nodes: int = 2
    quota: int = 100
    requests_per_minute: int = 240
    key_write_seconds: float = 1.0
    stop_grace_seconds: float = 10.0
    work_race_seconds: float = 0.0
    kelpie_invited: bool = True
    ban_machines: bool = False
    node_command: tuple[str, ...] | None = None

    def changed(self, given: dict[str, Any]) -> Settings:
        """These settings with those in `given` in place of their own."""
        return replace(self, **given)


@dataclass(frozen=True)
class State:
    """What is made once for a home and stays: keys, names, and the ports last used."""

    s3_access_key_id: str
    s3_secret_access_key: str
    salad_api_key: str
    user_id: str
    # A home from before there was a Cloudflare gets them at its next start.
    cloudflare_account_id: str = field(default_factory=lambda: secrets.token_hex(16))
    cloudflare_api_token: str = field(default_factory=lambda: secrets.token_urlsafe(30))
    organization: str = ORGANIZATION
    project: str = PROJECT
    api_port: int = 0
    s3_port: int = 0

    @staticmethod
    def fresh() -> State:
        """New keys from the system's random source."""
        return State(
            s3_access_key_id=secrets.token_hex(16),
            s3_secret_access_key=secrets.token_hex(32),
            salad_api_key=f"salad_local_{secrets.token_urlsafe(24)}",
            user_id=str(uuid.uuid4()),
        )


class Home:
    """Paths below the folder, and its JSON files read and written."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.database = self.path / "cloud.db"
        self.objects = self.path / "s3"
        self.nodes = self.path / "nodes"
        self.logs = self.path / "log"
        self.daemon_log = self.logs / "cloud.log"
        self.request_log = self.path / "requests.jsonl"
        self.connection = self.path / "connection.json"
        self.settings = self.path / "settings.json"
        self.chaos = self.path / "chaos.json"
        self.rerouted = self.path / "connection-faulty.json"
        self.state = self.path / "state.json"
        self.daemon_lock = self.path / "daemon.lock"
        self.start_lock = self.path / "start.lock"

    def create(self) -> None:
        """Make the folders, readable by their owner only: they hold keys. Raises HomeError where that cannot be."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.objects, self.nodes, self.logs):
                folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise HomeError(
                f"cannot make the local cloud's folder {self.path}: {error.strerror}; choose another with --home"
            ) from None

    def load_settings(self) -> Settings:
        """The kept settings, or the defaults; a key that is no longer known is left out."""
        kept = read_json(self.settings)
        known = {one.name for one in fields(Settings)}
        values = {name: value for name, value in kept.items() if name in known}
        if values.get("node_command") is not None:
            values["node_command"] = tuple(values["node_command"])
        return Settings(**values)

    def save_settings(self, settings: Settings) -> None:
        """Keep the settings for the next start."""
        write_json(self.settings, asdict(settings))

    def load_state(self) -> State:
        """Keys and ports of this home; made on the first call."""
        kept = read_json(self.state)
        if kept:
            return State(**kept)
        state = State.fresh()
        self.save_state(state)
        return state

    def save_state(self, state: State) -> None:
        """Keep keys and ports."""
        write_json(self.state, asdict(state))

    def load_connection(self) -> dict[str, Any]:
        """What HOME/connection.json says, {} where there is none."""
        return read_json(self.connection)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, {} where there is no file. Raises HomeError when it is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise HomeError(f"cannot read {path}: {error}; repair it or remove it") from None
    if not isinstance(content, dict):
        raise HomeError(f"{path} is no JSON object; repair it or remove it")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file in one step; its mode is 0600."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
