"""A copy of this project with its own local cloud, used through `make` as people do."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from localcloud import lifecycle
from localcloud.home import Home

from tests.support.flux import HALF_WRITTEN
from tests.training.job_folders import make_job

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "__main__.py",
    "Makefile",
    "Pulumi.yaml",
    "Pulumi.dev.yaml",
    "components",
    "flux_training",
    "packages",
)
REQUIREMENTS = (
    "requirements.txt",
    "pyproject.toml",
    "requirements/local.lock",
)
# Free ports, and none of the delays that model the real services.
FAST_CLOUD = "--port 0 --boot-seconds 0 --autoscaler-seconds 0.3 --poll-seconds 0.2 --heartbeat-seconds 0.5"


@dataclass(frozen=True)
class Checkout:
    """`environment` is the whole environment of its commands."""

    root: Path
    environment: Mapping[str, str]

    def make(self, target: str, code: int | None = 0, seconds: float = 240) -> str:
        """Run a target of make, for at most `seconds`; what it printed. `code` is the expected exit code (2 for any failure)."""
        done = subprocess.run(
            ["make", target],
            cwd=self.root,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        output = done.stdout + done.stderr
        assert code is None or done.returncode == code, (
            f"make {target} ended with {done.returncode}:\n{output}"
        )
        return output

    def start(self, target: str) -> subprocess.Popen[str]:
        """Start a target of make in its own process group."""
        return subprocess.Popen(
            ["make", target],
            cwd=self.root,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run_module(
        self, module: str, *arguments: str, python: str = sys.executable
    ) -> subprocess.CompletedProcess[str]:
        """`python -m MODULE …` without make around it."""
        environment = {**self.environment, "PULUMI_CONFIG_PASSPHRASE": ""}
        return subprocess.run(
            [python, "-m", module, *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def run_engine(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The embedded engine on stack dev, without what `flux` does around it."""
        return self.run_module("pulumi_embedded", *arguments, "--stack", "dev")

    def run_flux(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of `flux` without make around it."""
        return self.run_module("flux_training.commands", *arguments, python=".venv/bin/python")

    def flux(self, *arguments: str) -> str:
        """Run a command of `flux`; what it printed."""
        done = self.run_flux(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def engine(self, *arguments: str) -> str:
        """Run the embedded engine successfully; its output."""
        done = self.run_engine(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state(self) -> list[dict[str, Any]]:
        """All resources in the state file."""
        (path,) = (
            path
            for path in (self.root / ".pulumi/stacks").rglob("dev.json*")
            if path.suffix in (".json", ".gz")
        )
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        return json.loads(text)["checkpoint"]["latest"].get("resources") or []

    def outputs(self) -> dict[str, Any]:
        stacks = [resource for resource in self.state() if resource["type"] == "pulumi:pulumi:Stack"]
        return stacks[0].get("outputs", {}) if stacks else {}

    def resources(self) -> list[dict[str, Any]]:
        """The state's resources, without the stack and the providers."""
        found = self.state()
        return [
            resource
            for resource in found
            if "pulumi:pulumi:" not in resource["type"] and "pulumi:providers:" not in resource["type"]
        ]

    def declare(self, **jobs: Mapping[str, object]) -> None:
        """Declare these jobs and no others."""
        self.configure("jobs", {name: dict(entry) for name, entry in jobs.items()})

    def configure(self, key: str, value: object) -> None:
        """Set a key of the stack file; None removes it."""
        path = self.root / "Pulumi.dev.yaml"
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        document["config"][f"flux-training:{key}"] = value
        if value is None:
            del document["config"][f"flux-training:{key}"]
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    @property
    def bucket(self) -> Path:
        """The folder in which the local cloud stores the bucket."""
        return self.root / ".localcloud/s3/flux-training"

    def requests(self) -> list[dict[str, Any]]:
        """The requests of the product (not of nodes) to the local cloud, oldest first."""
        path = self.root / ".localcloud/requests.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [entry for entry in map(json.loads, lines) if entry["client"] == "product"]


def asked(entries: list[dict[str, Any]], service: str, method: str, part: str = "") -> list[str]:
    """The paths among `entries` of one service and method that contain `part`."""
    return [
        entry["path"]
        for entry in entries
        if (entry["service"], entry["method"]) == (service, method) and part in entry["path"]
    ]


@contextmanager
def new_checkout(
    folder: Path, cloud: str = FAST_CLOUD, engine: str = "embedded", virtualenv: Path = Path(sys.prefix)
) -> Iterator[Checkout]:
    """A checkout in `folder` with two small jobs, `cat` and `dog`; its cloud is stopped at the end.

    `engine` is `embedded` (then no `pulumi` is on its PATH) or `cli`. `virtualenv` runs `flux` and the program.
    """
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=HALF_WRITTEN)
        else:
            shutil.copy2(source, folder / part)
    (folder / "requirements").mkdir()
    for name in REQUIREMENTS:
        shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(virtualenv)
    (folder / "jobs").mkdir()
    make_job(folder / "jobs", "cat", seed=1)
    make_job(folder / "jobs", "dog", seed=2)
    checkout = Checkout(folder, _environment(folder, cloud, engine))
    checkout.declare(cat={}, dog={})
    try:
        yield checkout
    finally:
        # Without `make`: a test may have broken the checkout, and its cloud must not survive the test.
        lifecycle.stop_cloud(Home(folder / ".localcloud"))


def _environment(folder: Path, cloud: str, engine: str) -> dict[str, str]:
    """Without keys of the user and settings of an outer make; with `pulumi` on the PATH only for the engine `cli`."""
    foreign = ("PULUMI_", "FLUX_", "SALAD_", "AWS_", "MAKE", "MFLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    packages = os.pathsep.join(str(folder / "packages" / name) for name in ("localcloud", "pulumi-embedded"))
    fixed = {
        "ENGINE": engine,
        "LOCALCLOUD": cloud,
        "PULUMI_HOME": str(folder / ".pulumi-home"),
        # The packages of this copy, not those that .venv links to.
        "PYTHONPATH": packages,
    }
    if engine == "cli":
        return {**kept, **fixed}
    folders = [
        entry for entry in kept.get("PATH", "").split(os.pathsep) if not (Path(entry) / "pulumi").exists()
    ]
    return {**kept, **fixed, "PATH": os.pathsep.join(folders)}
