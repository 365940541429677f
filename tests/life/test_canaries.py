"""Uses 30 secrets in a stack, from the first preview to destroy: none is found in plain text where it must not be.

Allowed places are the container group's environment (what the nodes need), and a webhook's address in its Kelpie job.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from localcloud.home import Home, HomeState
from localcloud.testing import running_cloud
from pulumi_embedded.project.secrets import Crypter, Passphrase

from flux_training.clients.connection import Connection, connect
from flux_training.training.runs.run import Layout
from tests.life.nodes import leave_weights, report
from tests.life.stacks import ROOT, as_real, new_stack
from tests.support.files import readable

ENGINES = {"embedded": [sys.executable, "-m", "pulumi_embedded"], "cli": ["pulumi"]}
CONFIGURED = {
    # setting → path below it, as `config set --path` takes it
    "saladApiKey": "saladApiKey",
    "s3SecretAccessKey": "s3SecretAccessKey",
    "cloudflareApiToken": "cloudflareApiToken",
    "nodeSecretAccessKey": "nodeSecretAccessKey",
    "webhook": "webhook",
    "job webhook": "jobs.cat.webhook",
    **{f"variable {letter}": f"cluster.environment.SECRET_{letter}" for letter in "ABCDEFGH"},
}
SURROUNDING = (
    "FLUX_NODE_ACCESS_KEY_ID",
    "HF_TOKEN",
    "OPENAI_API_KEY",
    "GITHUB_TOKEN",
    "VSCODE_CLI_ACCESS_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)


def canary(name: str) -> str:
    return f"canary-{name.replace(' ', '-').replace('_', '-').lower()}-x7q"


WRONG = canary("wrong key")


@dataclass
class Watch:
    """Everything that was printed or stored, and the arguments of all processes."""

    canaries: dict[str, str]
    places: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, place: str, content: str | bytes) -> None:
        self.places.setdefault(place, []).append(content.encode() if isinstance(content, str) else content)

    def add_folder(self, place: str, folder: Path, but: tuple[str, ...] = ()) -> int:
        """Add all files except symbolic links; their number."""
        count = 0
        for root, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not (Path(root) / name).is_symlink()]
            for name in files:
                path = Path(root) / name
                if not path.is_symlink() and name not in but:
                    self.add(f"{place}: {path.relative_to(folder)}", readable(path))
                    count += 1
        return count

    def found(self, but: dict[str, tuple[str, ...]] | None = None) -> set[tuple[str, str]]:
        """(canary, place) for each canary that appears there, as it is or in base64."""
        return {
            (name, place)
            for place, contents in self.places.items()
            for name, value in self.canaries.items()
            if name not in (but or {}).get(place, ())
            for form in (value.encode(), base64.b64encode(value.encode()).rstrip(b"=")[:-1])
            if any(form in content for content in contents)
        }


@contextmanager
def arguments_watched(watch: Watch) -> Iterator[None]:
    """Record the command lines of all processes that start meanwhile, by looking 20 times per second."""
    over = threading.Event()
    before = {path.name for path in Path("/proc").iterdir() if path.name.isdigit()}

    def look() -> None:
        while not over.wait(0.05):
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and process.name not in before:
                    try:
                        line = (process / "cmdline").read_bytes()
                    except OSError:
                        continue
                    if line not in watch.places.get("arguments", []):
                        watch.add("arguments", line)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass
class CanaryStack:
    """A stack whose whole output is watched."""

    root: Path
    name: str
    environment: dict[str, str]
    watch: Watch

    @property
    def home(self) -> Path:
        return Path(self.environment["HOME"])

    @property
    def engine(self) -> list[str]:
        return ENGINES[self.name]

    def run(self, *arguments: str, code: int = 0) -> str:
        stack = [] if arguments[:2] == ("stack", "select") else ["--stack", "dev"]
        done = subprocess.run(
            [*self.engine, *arguments, *stack, "--non-interactive"],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
        self.watch.add("printed", done.stdout + done.stderr)
        return done.stdout + done.stderr

    def flux(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> None:
        """Run a command of `flux` with this engine."""
        done = subprocess.run(
            [sys.executable, "-m", "flux_training.commands", *arguments],
            cwd=self.root,
            env={**self.environment, "ENGINE": self.name},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode in codes, done.stdout + done.stderr
        self.watch.add("printed", done.stdout + done.stderr)

    def edit(self, key: str, **changes: object) -> None:
        """Change an object of the configuration and keep its encrypted values."""
        path = self.root / "Pulumi.dev.yaml"
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        document["config"].setdefault(f"flux-training:{key}", {}).update(changes)
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def again(self, **variables: str) -> CanaryStack:
        return CanaryStack(self.root, self.name, {**self.environment, **variables}, self.watch)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A local cloud whose own keys are canaries."""
    folder = Home(tmp_path / "cloud")
    folder.create()
    state = HomeState()
    keys = {name: canary(name) for name in ("salad_api_key", "s3_secret_access_key", "s3_access_key_id")}
    folder.save_state(
        HomeState(**{**state.__dict__, **keys, "cloudflare_api_token": canary("cloudflare_api_token")})
    )
    with running_cloud(folder.path, nodes=0, autoscaler_seconds=0.2):
        yield folder.path


def issued(connection: Connection, number: int) -> dict[str, str]:
    """The secrets in the container group's environment."""
    (group,) = connection.salad().list_groups()
    values = {
        name: group.environment_value(name) or "" for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    }
    assert all(values.values())
    return {f"issued {number} {name}": value for name, value in values.items()}


def begin(tmp_path: Path, home: Path, engine: str) -> tuple[CanaryStack, Connection]:
    connection = connect("local", {}, {"FLUX_LOCAL_CLOUD": str(home / "connection.json")})
    plain = new_stack(tmp_path / "a", home, "canaries", {"cat": 1})
    plain.configure(
        {"cat": {}},
        {"cloud": "salad", "storage": {"kind": "r2", "bucket": "canaries", "prefix": "canaries"}},
    )
    canaries = {
        **{name: canary(name) for name in (*CONFIGURED, *SURROUNDING)},
        **{
            name: canary(name)
            for name in ("salad_api_key", "s3_secret_access_key", "s3_access_key_id", "cloudflare_api_token")
        },
        "passphrase": canary("passphrase"),
        "netrc": canary("netrc"),
    }
    own_home = tmp_path / "home"
    own_home.mkdir()
    (own_home / ".netrc").write_text(f"machine s3 login me password {canaries['netrc']}\n", encoding="utf-8")
    encrypt_into(plain.root / "Pulumi.dev.yaml", canaries)
    shutil.rmtree(plain.root / ".pulumi")
    environment = {
        **plain.environment,
        **as_real(connection),
        **{name: canaries[name] for name in SURROUNDING},
        "HOME": str(own_home),
        "PULUMI_CONFIG_PASSPHRASE": canaries["passphrase"],
        "PULUMI_SKIP_UPDATE_CHECK": "true",
    }
    # Not a link: `flux` works in the folder that contains its code.
    (plain.root / "flux_training").unlink()
    shutil.copytree(
        ROOT / "flux_training", plain.root / "flux_training", ignore=shutil.ignore_patterns("__pycache__")
    )
    life = CanaryStack(plain.root, engine, environment, Watch(canaries))
    life.run("stack", "select", "--create", "dev")
    return life, connection


def encrypt_into(path: Path, canaries: dict[str, str]) -> None:
    """Put the secrets into the stack's file, as `config set --secret --path` would."""
    crypter = Crypter.new(Passphrase(canaries["passphrase"], "a test", "dev"))
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["encryptionsalt"] = crypter.salt
    for name, place in CONFIGURED.items():
        first, *rest = place.split(".")
        keys, below = [f"flux-training:{first}", *rest], document["config"]
        for key in keys[:-1]:
            below = below.setdefault(key, {})
        web = "http://127.0.0.1:9/" if "webhook" in name else ""
        below[keys[-1]] = {"secure": crypter.encrypt(web + canaries[name])}
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_secret_is_stored_or_printed_in_plain_text(engine: str, tmp_path: Path, home: Path) -> None:
    life, connection = begin(tmp_path, home, engine)
    watch = life.watch
    with arguments_watched(watch):
        live(life, connection)
        fail_in_other_ways(life)
        finish(life, connection)
    meant = {"group": life_of_group(connection), "jobs": connection.kelpie().list_jobs()[0].webhook or ""}
    look_everywhere(life, connection, home)
    assert len(watch.canaries) >= 30
    assert watch.found() == set()
    # The search itself works: it finds the canaries where they are allowed.
    watch.add("meant to be", json.dumps(meant))
    seen = {name for name, _ in watch.found()}
    assert {"variable A", "variable H", "job webhook"} <= seen


def live(life: CanaryStack, connection: Connection) -> None:
    """preview, up, new keys and a failure."""
    life.run("preview", "--diff")
    link_to_secrets(life)
    life.run("up", "--yes", "--skip-preview")
    life.watch.canaries.update(issued(connection, 1))
    life.edit("storage", rotate=2)
    life.run("up", "--yes", "--skip-preview")
    life.watch.canaries.update(issued(connection, 2))
    use_a_wrong_key(life, "SALAD_API_KEY")
    life.run("stack", "output", "--json")
    life.run("stack", "export")


def link_to_secrets(life: CanaryStack) -> None:
    """Links in job folders to `.netrc` and the environment, as a pull request could bring them: nothing reads them."""
    dataset, train_yml = life.root / "jobs/cat/dataset", life.root / "jobs/cat/train.yml"
    netrc = life.home / ".netrc"
    linked = {
        dataset / "00001.txt": Path("/proc/self/environ"),
        dataset / "00002.txt": netrc,
        dataset / "00003.jpg": netrc,
        train_yml: netrc,
    }
    kept = {path: path.read_bytes() for path in linked if path.exists()}
    for path, target in linked.items():
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    printed = life.run("up", "--yes", "--skip-preview", code=1)
    assert "outside the project" in printed
    commands = [("lint",), ("plan",), ("caption", "cat", "--dry-run"), ("rename", "cat", "--dry-run")]
    for command in commands:
        life.flux(*command, codes=(0, 1))
    photos = life.root.parent / "photos"
    photos.mkdir()
    (photos / "a.txt").symlink_to(netrc)
    (photos / "a.jpg").symlink_to("/proc/self/environ")
    life.flux("new", "shots", "--from", str(photos), "--trigger", "x", codes=(1,))
    for path in linked:
        path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)


def plan(life: CanaryStack) -> None:
    """Make a plan in every format."""
    for options in ((), ("--markdown",), ("--json",), ("--html", str(life.root / "plan.html"))):
        life.flux("plan", *options)
    assert "canary" not in (life.root / "plan.html").read_text(encoding="utf-8")


def finish(life: CanaryStack, connection: Connection) -> None:
    """Finish the run, fetch and report it, and plan a run with a new caption."""
    (job,) = connection.kelpie().list_jobs()
    keys = Layout("canaries/").run("cat", job.environment["FLUX_RUN_ID"])
    leave_weights(connection.storage("canaries"), keys)
    report(connection, job, "completed")
    life.run("refresh", "--yes", "--skip-preview")
    life.flux("fetch")
    life.flux("report")
    life.flux("status")
    life.flux("status", "--json")
    life.flux("doctor", codes=(0, 1))
    assert list((life.root / "outputs").rglob("report.html"))
    (life.root / "jobs/cat/dataset/00001.txt").write_text("tr1gger, edited", encoding="utf-8")
    life.flux("plan", "--markdown", "--html", str(life.root / "plan.html"))


def use_a_wrong_key(life: CanaryStack, name: str) -> None:
    life.watch.canaries["wrong key"] = WRONG
    printed = life.again(**{name: WRONG}).run("up", "--yes", "--skip-preview", code=1)
    assert "401" in printed or "403" in printed, printed


def fail_in_other_ways(life: CanaryStack) -> None:
    plan(life)
    for name in ("FLUX_S3_SECRET_ACCESS_KEY", "CLOUDFLARE_API_TOKEN"):
        life.edit("storage", rotate=3)
        use_a_wrong_key(life, name)
        # Some plans succeed: they do not ask every service.
        life.again(**{name: WRONG}).flux("plan", codes=(0, 1))
    life.edit("cluster", gpu="RTX 9999")
    assert "RTX 9999" in life.run("up", "--yes", "--skip-preview", code=1)
    life.edit("cluster", gpu="RTX 5090", memory=canary("SECRET_A"))
    life.run("preview", code=1)
    life.edit("cluster", memory=30)
    life.again(SALAD_API_KEY=f"{WRONG} with a space").run("up", "--yes", "--skip-preview", code=1)
    path = life.root / "Pulumi.dev.yaml"
    before = path.read_text(encoding="utf-8")
    document = yaml.safe_load(before)
    # Not a canary: the CLI copies the stack file into its history before the program can refuse it.
    document["config"]["flux-training:nodeSecretAccessKey"] = "in plain text by mistake"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert "is stored in plain text" in life.run("up", "--yes", "--skip-preview", code=1)
    path.write_text(before, encoding="utf-8")
    life.run("refresh", "--yes", "--skip-preview")
    life.run("up", "--yes", "--skip-preview")


def look_everywhere(life: CanaryStack, connection: Connection, home: Path) -> None:
    """Search state, backups, journals, history, plan, queue, bucket and logs, before and after `destroy`."""
    watch = life.watch
    life.run("preview", "--json")
    for job in connection.kelpie().list_jobs():
        watch.add("jobs", job.model_dump_json(exclude={"webhook"}))
    bucket = connection.storage("canaries")
    for item in bucket.list(""):
        watch.add(f"bucket: {item.key}", bucket.get_bytes(item.key) or b"")
    assert watch.add_folder("checkout", life.root, but=("Pulumi.dev.yaml",)) > 3
    stack_file = yaml.safe_load((life.root / "Pulumi.dev.yaml").read_text(encoding="utf-8"))
    watch.add("stack file", json.dumps(stack_file))
    watch.add_folder("logs", home / "log")
    watch.add("requests", (home / "requests.jsonl").read_bytes())
    life.run("destroy", "--yes", "--skip-preview")
    watch.add_folder("checkout, destroyed", life.root, but=("Pulumi.dev.yaml",))
    for item in bucket.list("") if bucket.exists() else ():
        watch.add(f"bucket, destroyed: {item.key}", bucket.get_bytes(item.key) or b"")


def life_of_group(connection: Connection) -> dict[str, Any]:
    (group,) = connection.salad().list_groups()
    return {name: value.get_secret_value() for name, value in group.container.environment_variables.items()}
