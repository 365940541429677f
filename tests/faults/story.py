"""Runs `up`, a change, `up` and `destroy` through a proxy that makes requests fail, and records what exists after each step.

`python -m tests.faults.story 1-200 [PROCESSES]` plays many seeds and prints a line for each.
"""

import json
import os
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from localcloud.chaos.plan import Faults
from localcloud.chaos.proxy import Exchange, Proxy, api_service, connection_through_proxy, s3_service
from localcloud.testing import running_cloud, wait_until

from flux_training.clients.waiting import SCALE_VARIABLE
from tests.e2e.checkout import Checkout, new_checkout
from tests.support.files import readable
from tests.training.job_folders import make_job, write_image

RATE = 0.2
MAX_TRIES = 5  # of one command, as a user would repeat it
# The retries converge at any pace.
WAIT_SCALE = "0.01"

CloudContents = dict[str, Any]


@dataclass
class Story:
    """What happened with one seed. Seed None has no faults."""

    seed: int | None
    contents: dict[str, CloudContents] = field(default_factory=dict)
    commands: Counter[str] = field(default_factory=Counter)
    posts: Counter[str] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    exchanges: list[Exchange] = field(default_factory=list)
    output: str = ""

    @property
    def line(self) -> str:
        """The seed and its faults, for people."""
        failed = sum(count for kind, count in self.met.items() if kind != "none")
        kinds = ", ".join(f"{kind} {self.met[kind]}" for kind in sorted(self.met) if kind != "none")
        again = sum(self.commands.values()) - len(self.commands)
        return (
            f"seed {self.seed}: {failed} of {self.met.total()} requests failed ({kinds}); "
            f"{again} commands typed again; {len(self.posts)} runs posted {self.posts.total()} times"
        )


@dataclass(frozen=True)
class Stage:
    """A checkout whose cloud is behind proxies."""

    checkout: Checkout
    home: Path
    connection: dict[str, Any]

    def run(self, story: Story, *arguments: str) -> None:
        """Type a command until it succeeds. Raises AssertionError after MAX_TRIES."""
        for _ in range(MAX_TRIES):
            done = self.checkout.run_engine(*arguments)
            story.commands[arguments[0] + str(len(story.contents))] += 1
            story.output += f"$ {' '.join(arguments)} ({done.returncode})\n{done.stdout}{done.stderr}"
            if done.returncode == 0:
                return
        raise AssertionError(f"seed {story.seed}: {arguments[0]} never succeeded:\n{story.output}")

    def cloud_contents(self) -> CloudContents:
        """Everything that exists, without what differs between runs (ids, times, addresses)."""
        with sqlite3.connect(self.home / "cloud.db") as database:
            database.row_factory = sqlite3.Row
            jobs = database.execute("SELECT * FROM jobs").fetchall()
            groups = database.execute("SELECT * FROM groups WHERE deleting IS NULL").fetchall()
            rules = database.execute("SELECT * FROM scaling_rules").fetchall()
        bucket = self.home / "s3/flux-training"
        state = json.loads(self.checkout.engine("stack", "export"))["deployment"]
        return {
            "jobs": sorted((run_of(job), job["status"]) for job in jobs),
            "groups": [(group["name"], described(group["body"])) for group in groups],
            "rules": [(rule["min_replicas"], rule["max_replicas"]) for rule in rules],
            "objects": sorted(
                path.relative_to(bucket).as_posix()
                for path in bucket.rglob("*")
                if path.is_file() and path.relative_to(bucket).parts[0] != ".nanio-meta"
            ),
            "resources": sorted(resource["urn"] for resource in state.get("resources") or []),
            "pending operations": state.get("pending_operations") or [],
        }

    def posts(self) -> Counter[str]:
        """How often each run was queued."""
        with sqlite3.connect(self.home / "cloud.db") as database:
            database.row_factory = sqlite3.Row
            return Counter(run_of(job) for job in database.execute("SELECT body FROM jobs"))

    def leaks(self, output: str) -> list[str]:
        """Places that contain a key of the cloud but must not."""
        keys = (self.connection["salad"]["api_key"], self.connection["s3"]["secret_access_key"])
        found = [f"output: {key[:6]}…" for key in keys if key in output]
        for place in (self.checkout.root / ".pulumi", self.home / "s3", self.home / "log"):
            for path in place.rglob("*"):
                if path.is_file() and any(key.encode() in readable(path) for key in keys):
                    found.append(str(path))
        return found


def run_of(job: sqlite3.Row) -> str:
    return str(json.loads(job["body"])["environment"]["FLUX_RUN_ID"])


def described(body: str) -> CloudContents:
    """A group without the keys and addresses in its environment."""
    group = json.loads(body)
    container = group["container"]
    container["environment_variables"] = sorted(container["environment_variables"])
    return {name: value for name, value in group.items() if name != "container_version"}


@contextmanager
def stage(folder: Path, faults: Faults | None, seen: Callable[[Exchange], None]) -> Iterator[Stage]:
    """A checkout and a cloud without nodes, with proxies between them."""
    home = folder / "cloud"
    # R2 allows one write of a key per second; shortened like the product's waits.
    with (
        running_cloud(home, nodes=0, key_write_seconds=0.01) as connection,
        new_checkout(folder / "checkout") as checkout,
    ):
        page, s3 = connection["page"].rstrip("/"), connection["s3"]["url"]
        with Proxy(page, api_service, faults, seen) as api, Proxy(s3, s3_service, faults) as storage:
            known = folder / "connection.json"
            known.write_text(json.dumps(connection_through_proxy(connection, api.url, storage.url)))
            environment = {
                **checkout.environment,
                "FLUX_LOCAL_CLOUD": str(known),
                SCALE_VARIABLE: WAIT_SCALE,
            }
            yield Stage(replace(checkout, environment=environment), home, connection)


def play(folder: Path, seed: int | None) -> Story:
    """Play one seed in `folder`. Raises AssertionError when a command never succeeds."""
    faults = None if seed is None else Faults(RATE, seed, delays=0.05)
    story = Story(seed)
    with stage(folder, faults, story.exchanges.append) as there:
        there.run(story, "stack", "select", "--create")
        there.run(story, "up", "--yes", "--skip-preview")
        story.contents["after the first up"] = there.cloud_contents()
        change(there.checkout)
        there.run(story, "up", "--yes", "--skip-preview")
        story.contents["after the change"] = there.cloud_contents()
        there.run(story, "destroy", "--yes", "--skip-preview")
        wait_until(lambda: not there.cloud_contents()["groups"])
        story.contents["after destroy"] = there.cloud_contents()
        story.posts = there.posts()
        story.leaks = there.leaks(story.output)
        story.met = faults.counts if faults else Counter()
    return story


def change(checkout: Checkout) -> None:
    """Edit a caption of `cat`, add an image to `dog`, add the job `owl`, and resize the cluster."""
    (checkout.root / "jobs/cat/dataset/00001.txt").write_text("tr1gger, asleep\n", encoding="utf-8")
    write_image(checkout.root / "jobs/dog/dataset/00004.jpg", 999)
    (checkout.root / "jobs/dog/dataset/00004.txt").write_text("tr1gger, again\n", encoding="utf-8")
    make_job(checkout.root / "jobs", "owl", seed=3)
    checkout.declare(cat={}, dog={}, owl={})
    checkout.configure("cluster", {"gpu": "RTX 5090", "maxReplicas": 3, "memory": 20})


def problems(story: Story, expected: dict[str, CloudContents]) -> list[str]:
    """How a story differs from one without faults."""
    found = [
        f"{when}, {what}: {difference(story.contents[when][what], wanted)}"
        for when, snapshot in expected.items()
        for what, wanted in snapshot.items()
        if story.contents[when][what] != wanted
    ]
    found += [f"run {run} was posted {count} times" for run, count in story.posts.items() if count != 1]
    return [*found, *(f"a key stands in {place}" for place in story.leaks)]


def difference(seen: list[Any], wanted: list[Any]) -> str:
    """What is there but not expected, and what is missing."""
    extra = [one for one in seen if seen.count(one) > wanted.count(one)]
    return f"too much {extra}, missing {[one for one in wanted if wanted.count(one) > seen.count(one)]}"


def seeds_of(text: str) -> list[int]:
    """`1-3,8` → [1, 2, 3, 8]."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def main(text: str, processes: int) -> int:
    """Play and print the seeds, `processes` at a time; the number that went wrong."""

    def one(seed: int | None) -> tuple[Story, str]:
        with tempfile.TemporaryDirectory(prefix="flux-story-") as folder:
            try:
                return play(Path(folder), seed), ""
            except Exception as error:  # noqa: BLE001 - a seed that breaks the harness is a finding too
                return Story(seed), f"{type(error).__name__}: {error}"

    reference, broken = one(None)
    if broken:
        raise AssertionError(broken)
    seeds, wrong = seeds_of(text), []
    with ThreadPoolExecutor(processes) as pool:
        for story, failure in pool.map(one, seeds):
            found = [failure] if failure else problems(story, reference.contents)
            print(story.line, flush=True)
            for problem in found:
                print(f"  WRONG: {problem}", flush=True)
            if found and os.environ.get("FLUX_FAULT_OUTPUT"):
                print(story.output, flush=True)
            wrong += [story.seed] if found else []
    print(f"{len(seeds)} seeds ({text}), {len(seeds) - len(wrong)} converged; wrong: {wrong or 'none'}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1) > 0)
