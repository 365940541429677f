"""Stacks that share one local cloud and are run by the engine directly, which is fast enough for many repetitions."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flux_training.clients.connection import Connection, connect
from flux_training.clients.kelpie import Job
from flux_training.commands.stack.engine import find_engine
from tests.training.job_folders import make_job

ROOT = Path(__file__).resolve().parents[2]
FILES = ("__main__.py", "Pulumi.yaml")
FOLDERS = ("components", "flux_training")
CLI = "cli"
# The virtual environment of new stacks; conftest.py has one whose processes start faster.
virtualenv = Path(sys.prefix)
PASSPHRASE = ""
SALT: str = yaml.safe_load((ROOT / "Pulumi.dev.yaml").read_text(encoding="utf-8"))["encryptionsalt"]


@dataclass(frozen=True)
class Stack:
    """A checkout with its own state. `place` is its prefix in the bucket and its container group's name.

    `engine` is `embedded` or `cli`, the real one from the PATH.
    `variables` are added to the environment of the engine.
    """

    root: Path
    cloud: Path
    place: str
    engine: str = "embedded"
    variables: Mapping[str, str] = field(default_factory=dict)

    def configure(
        self,
        jobs: Mapping[str, object],
        settings: Mapping[str, object] | None = None,
        single: bool = True,
        **cluster: object,
    ) -> None:
        """Write the stack file. `settings` add to the settings here or replace them. `single`: with the setting `cluster`."""
        one = {"flux-training:cluster": {"name": self.place, "maxReplicas": 2, **cluster}}
        config = {
            "flux-training:cloud": "local",
            "flux-training:storage": {"bucket": "life", "prefix": self.place},
            "flux-training:jobs": dict(jobs),
            **(one if single else {}),
            **{f"flux-training:{key}": value for key, value in (settings or {}).items()},
        }
        text = yaml.safe_dump({"encryptionsalt": SALT, "config": config}, sort_keys=False)
        (self.root / "Pulumi.dev.yaml").write_text(text, encoding="utf-8")

    def begin(self, *arguments: str, python: str = sys.executable) -> subprocess.Popen[str]:
        """Start the engine with these arguments, in a process group of its own."""
        command = ["pulumi", "--non-interactive"] if self.engine == CLI else [python, "-m", "pulumi_embedded"]
        return subprocess.Popen(
            [*command, *arguments, "--stack", "dev"],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        # As `flux` does before each command: remove the lock of a CLI that was killed.
        find_engine("dev", local=True, environ=self.environment, root=self.root).release()
        process = self.begin(*arguments, python=".venv/bin/python")
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == code, f"{arguments} ended with {process.returncode}:\n{printed}"
        assert "Traceback" not in printed
        return printed

    def up(self, code: int = 0) -> str:
        return self.run("up", "--yes", "--skip-preview", code=code)

    def refresh(self) -> str:
        return self.run("refresh", "--yes", "--skip-preview", "--run-program", "--clear-pending-creates")

    def destroy(self) -> str:
        return self.run("destroy", "--yes", "--skip-preview")

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs as the state has them."""
        resources = self.state()["checkpoint"]["latest"].get("resources") or []
        stacks = [one for one in resources if one["type"] == "pulumi:pulumi:Stack"]
        return stacks[0].get("outputs", {}) if stacks else {}

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PULUMI_", "FLUX_"))
        }
        return {
            **kept,
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_HOME": str(self.root / ".pulumi-home"),
            "ENGINE": self.engine,
            "FLUX_LOCAL_CLOUD": str(self.cloud / "connection.json"),
            **self.variables,
        }

    @property
    def connection(self) -> Connection:
        return connect("local", {}, self.environment)

    def jobs(self) -> list[Job]:
        """The queue's jobs that write below this stack's prefix."""
        below = f"{self.place}/"
        jobs = self.connection.kelpie().list_jobs()
        return [job for job in jobs if any(rule.prefix.startswith(below) for rule in job.sync.during)]

    def live_runs(self) -> list[str]:
        """The run id of each unfinished job; a run that is queued twice is listed twice."""
        return sorted(job.environment["FLUX_RUN_ID"] for job in self.jobs() if job.unfinished)

    def declared_runs(self) -> list[str]:
        return sorted(job["runId"] for job in self.outputs()["jobs"].values())

    def state(self) -> dict[str, Any]:
        """The content of the state file. Raises ValueError if it is not valid JSON."""
        (path,) = (self.root / ".pulumi/stacks").rglob("dev.json")
        return json.loads(path.read_text(encoding="utf-8"))


def new_stack(
    root: Path, cloud: Path, place: str, jobs: Mapping[str, int], engine: str = "embedded"
) -> Stack:
    """A stack in the new folder `root` with these jobs (name → seed of its images)."""
    root.mkdir(parents=True)
    for part in FILES:
        shutil.copy2(ROOT / part, root / part)
    for part in FOLDERS:
        (root / part).symlink_to(ROOT / part)
    (root / ".venv").symlink_to(virtualenv)
    for name, seed in jobs.items():
        make_job(root / "jobs", name, images=2, seed=seed)
    stack = Stack(root, cloud, f"{engine}-{place}", engine)
    stack.configure({name: {} for name in jobs})
    if engine not in _empty_states:
        stack.run("stack", "select", "--create")
        _empty_states[engine] = _contents(root / ".pulumi")
    for path, content in _empty_states[engine].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return stack


# engine -> the files of a new state. Creating them takes a process and half a second, so it is done once.
_empty_states: dict[str, dict[Path, bytes]] = {}


def _contents(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder.parent): path.read_bytes() for path in files}


def as_real(connection: Connection) -> dict[str, str]:
    """Environment variables that make `cloud: salad` use the local cloud."""
    assert connection.cloudflare_api_token is not None
    return {
        "SALAD_API_URL": connection.salad_url,
        "KELPIE_API_URL": connection.kelpie_url,
        "CLOUDFLARE_API_URL": connection.cloudflare_url,
        "SALAD_API_KEY": connection.api_key.get_secret_value(),
        "SALAD_ORGANIZATION": connection.organization,
        "SALAD_PROJECT": connection.project,
        "FLUX_S3_ENDPOINT_URL": connection.s3_endpoint or "",
        "FLUX_S3_ACCESS_KEY_ID": connection.s3_access_key_id,
        "FLUX_S3_SECRET_ACCESS_KEY": connection.s3_secret_access_key.get_secret_value(),
        "CLOUDFLARE_ACCOUNT_ID": connection.cloudflare_account_id or "",
        "CLOUDFLARE_API_TOKEN": connection.cloudflare_api_token.get_secret_value(),
    }


def kill_with_children(process: subprocess.Popen[str], and_providers: bool) -> None:
    """Kill the engine with SIGKILL, alone or with its program and provider processes."""
    victims = descendants(process.pid) if and_providers else []
    for pid in (process.pid, *victims):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def descendants(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(child) for child in children.read_text().split()]
        except OSError:
            continue
        found += direct + [below for child in direct for below in descendants(child)]
    return found
