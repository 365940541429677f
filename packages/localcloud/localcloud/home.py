"""The local cloud's folder: paths, settings, and what outlives a restart.

HOME/settings.json     the options of the last `start`
HOME/state.json        keys, user id and ports, created once (mode 0600)
HOME/connection.json   addresses and keys of the running cloud (mode 0600)
HOME/cloud.db          SQLite: container groups, instances, billing, jobs, scaling rules, R2 keys
HOME/s3/<bucket>/…     the objects, as files
HOME/nodes/<id>/       a folder for each node
HOME/log/              logs of the daemon and of the nodes
HOME/requests.jsonl    a line for each request
HOME/chaos.json        the active faults (localcloud/chaos/settings.py)
HOME/connection-faulty.json   like connection.json, through `chaos proxy`, while that runs
"""

import json
import os
import secrets
import shlex
import shutil
import sys
import tempfile
import uuid
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

DEFAULT_PORT = 8650
EXIT_FAILED = 1
EXIT_PORT = 4
# A node exits with this status when its machine is taken away or when it asks for another one. (The real
# worker asks the instance metadata service instead.)
EXIT_REALLOCATE = 75
# The same names as in the recorded Kelpie transcript, so that the transcript can be replayed against
# any new local cloud.
ORGANIZATION = "org"
PROJECT = "proj"


def start_command(home: str | Path) -> str:
    """The command that starts the local cloud of this folder, as a user can type it here."""
    python, here = Path(sys.executable), Path.cwd()
    found = shutil.which("python")
    program = python.relative_to(here) if python.is_relative_to(here) else python
    return f"`{'python' if found and Path(found) == python else program} -m localcloud --home {shlex.quote(str(home))} start`"


class HomeError(Exception):
    """A file in the local cloud's folder cannot be used. The message says which, and what to do."""


@dataclass(frozen=True)
class CloudSettings:
    """The options of `start` (`localcloud start --help`). HOME/settings.json keeps them until they are given again.

    `node_command` replaces the program that runs on each node.
    """

    port: int | None = None
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
    ban_machines: bool = True
    idle_seconds: float | None = 10.0
    node_command: tuple[str, ...] | None = None


@dataclass(frozen=True)
class HomeState:
    """Keys, names, and the ports used last."""

    s3_access_key_id: str = field(default_factory=lambda: secrets.token_hex(16))
    s3_secret_access_key: str = field(default_factory=lambda: secrets.token_hex(32))
    salad_api_key: str = field(default_factory=lambda: f"salad_local_{secrets.token_urlsafe(24)}")
    user_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    # Folders created by earlier versions lack the next two values, which are then generated
    # at the next start.
    cloudflare_account_id: str = field(default_factory=lambda: secrets.token_hex(16))
    cloudflare_api_token: str = field(default_factory=lambda: secrets.token_urlsafe(30))
    organization: str = ORGANIZATION
    project: str = PROJECT
    api_port: int = 0
    s3_port: int = 0


class Home:
    """Paths below the folder, and its JSON files."""

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
        """Create the folders, readable only by their owner because they hold keys. Raises HomeError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.objects, self.nodes, self.logs):
                folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            problem = f"cannot create the local cloud's folder {self.path}: {error.strerror}"
            raise HomeError(f"{problem}; choose another with --home") from None

    def load_settings(self) -> CloudSettings:
        """The stored settings, or the defaults. Unknown keys are ignored."""
        stored = read_json(self.settings)
        known = {one.name for one in fields(CloudSettings)}
        values = {name: value for name, value in stored.items() if name in known}
        if values.get("node_command") is not None:
            values["node_command"] = tuple(values["node_command"])
        return CloudSettings(**values)

    def save_settings(self, settings: CloudSettings) -> None:
        write_json(self.settings, asdict(settings))

    def load_state(self) -> HomeState:
        """Keys and ports of this home; the first call creates them."""
        stored = read_json(self.state)
        state = HomeState(**stored)
        if not stored:
            self.save_state(state)
        return state

    def save_state(self, state: HomeState) -> None:
        write_json(self.state, asdict(state))

    def load_connection(self) -> dict[str, Any]:
        """The content of HOME/connection.json, {} when it does not exist."""
        return read_json(self.connection)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, {} when the file does not exist. Raises HomeError when it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise HomeError(f"cannot read {path}: {error}; repair the file or remove it") from None
    if not isinstance(content, dict):
        raise HomeError(f"{path} is not a JSON object; repair the file or remove it")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file atomically; its mode is 0600. Raises HomeError."""
    try:
        _replace_json(path, content)
    except OSError as error:
        raise HomeError(f"cannot write {path}: {error.strerror}; choose another folder with --home") from None


def _replace_json(path: Path, content: dict[str, Any]) -> None:
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
