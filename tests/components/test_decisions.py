"""What the providers decide, without any service: diffs, claims, adoption, sizes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from components.dataset import DatasetProvider
from components.declared_runs import unfinished_jobs
from components.node_environment import given_keys, node_environment
from components.node_keys import NodeKeysArgs, NodeKeysProvider, token_name
from components.properties import from_props
from components.provider import home
from components.training_job import TrainingJobProvider
from flux_training.clients.connection import Connection
from flux_training.clients.kelpie import Job, Sync, SyncRule
from flux_training.clients.own_jobs import RunPlace, choose_job
from flux_training.training.errors import FluxError

KEY = "canary-5d1e-secret-key"


def test_a_stack_is_not_mistaken_for_one_of_another_organization() -> None:
    provider = TrainingJobProvider()
    provider.connection = connection()
    olds = {"home": home(provider.connection), "bucket": "b", "prefix": "", "runId": "a", "reason": ""}
    provider.connection = connection(organization="another")
    for act in (
        lambda: provider.diff("id", olds, olds),
        lambda: provider.read("id", olds),
        lambda: provider.delete("id", olds),
    ):
        with pytest.raises(FluxError, match="this stack lives in o/p at"):
            act()


@pytest.mark.parametrize("field", ["bucket", "prefixes", "credentials", "rotate", "parent"])
def test_what_replaces_the_nodes_token_gives_it_another_name(field: str) -> None:
    """Of the same name the old one would be deleted before the container group has the new one."""
    olds: dict[str, Any] = {"owner": "p/s", "bucket": "b", "prefixes": "a/, b/", "credentials": "token"}
    olds |= {"end": "", "rotate": 1.0, "parent": "0a", "keys": {}}
    news = olds | {field: 2.0 if field == "rotate" else "other"}
    provider = NodeKeysProvider()
    provider.connection = connection()
    place = {"home": home(provider.connection)}
    assert provider.diff("id", place | olds, place | news).replaces == [field]
    before, after = (from_props(NodeKeysArgs, place | props) for props in (olds, news))
    assert token_name(before) != token_name(after)


PLACE = RunPlace("cat", "run", "bucket", "runs/cat/run/output/", "runs/cat/")


def job(job_id: str, status: str, run: str = "run", prefix: str = "") -> Job:
    rule = {
        "bucket": "bucket",
        "prefix": f"{prefix}runs/cat/{run}/output/",
        "local_path": "o/",
        "direction": "upload",
    }
    environment = {"FLUX_RUN_ID": run, "FLUX_JOB": "cat"}
    return Job(
        id=job_id, container_group_id="g", status=status, environment=environment, sync={"during": [rule]}
    )


@pytest.mark.parametrize(
    ("found", "superseded"),
    [
        (job("1", "pending", "older"), True),
        (job("1", "running", "older"), True),
        (job("1", "completed", "older"), False),
        (job("1", "pending"), False),
        (job("1", "pending", "older", prefix="elsewhere/"), False),
    ],
)
def test_which_jobs_a_new_run_takes_the_place_of(found: Job, superseded: bool) -> None:
    assert PLACE.is_superseded(found) == superseded


@pytest.mark.parametrize(
    ("jobs", "chosen"),
    [
        ([], None),
        ([job("1", "pending", "other")], None),
        ([job("1", "canceled")], None),
        ([job("1", "completed"), job("2", "running")], "2"),
        ([job("1", "failed"), job("2", "completed")], "2"),
        ([job("1", "canceled"), job("2", "pending")], "2"),
        ([job("1", "completed", prefix="elsewhere/")], None),
        ([job("2", "pending"), job("1", "pending")], "1"),
    ],
)
def test_which_job_of_the_queue_is_the_runs_own(jobs: list[Job], chosen: str | None) -> None:
    found = choose_job(jobs, PLACE)
    assert (found.id if found else None) == chosen


def connection(**changes: Any) -> Connection:
    values: dict[str, Any] = {
        "cloud": "salad",
        "kelpie_url": "http://127.0.0.1:1",
        "salad_url": "http://127.0.0.1:1",
        "api_key": "salad-key-canary",
        "organization": "o",
        "project": "p",
        "s3_endpoint": "http://127.0.0.1:1",
        "s3_access_key_id": "id",
        "s3_secret_access_key": KEY,
    }
    return Connection(**(values | changes))


def test_the_salad_key_never_goes_to_a_node() -> None:
    environment = {**node_environment(connection()), **given_keys(connection())}
    plain = [
        value.get_secret_value() if isinstance(value, SecretStr) else value for value in environment.values()
    ]
    assert KEY in plain
    assert "salad-key-canary" not in plain
    assert KEY not in repr(environment)
    assert all(1 <= len(value) <= 1000 for value in plain)


def queued(job: str, status: str = "pending", bucket: str = "b", prefix: str = "p/runs/cat/x/output/") -> Job:
    rule = SyncRule(bucket=bucket, prefix=prefix, local_path="output/cat/", direction="upload")
    environment = {"FLUX_RUN_ID": job, "FLUX_JOB": "cat"} if job else {}
    return Job(
        id=job, container_group_id="g", status=status, environment=environment, sync=Sync(during=[rule])
    )


@pytest.mark.parametrize(
    ("job", "found"),
    [
        (queued("was declared"), True),
        (queued("was declared", status="running"), True),
        (queued("another checkout's"), False),
        (queued("was declared", status="completed"), False),
        (queued("was declared", bucket="another"), False),
        (queued("was declared", prefix="other-stack/runs/cat/x/output/"), False),
        (queued(""), False),
    ],
)
def test_only_what_this_state_declared_before_is_dropped(job: Job, found: bool) -> None:
    assert unfinished_jobs([job], "b", "p/runs/", {"was declared"}) == ([job] if found else [])


class HandedBack:
    """A queue whose one job is handed back by its node after the first look."""

    def __init__(self) -> None:
        self.looks = 0

    def list_jobs(self, status: str | None = None) -> list[Job]:
        self.looks += 1
        now = "running" if self.looks == 1 else "pending"
        rule = SyncRule(bucket="b", prefix="datasets/d/", local_path="dataset/", direction="download")
        job = Job(id="1", container_group_id="g", status=now, sync=Sync(before=[rule]))
        return [job] if status in (None, now) else []


def test_a_job_that_changes_hands_keeps_its_images() -> None:
    queue = HandedBack()
    provider = DatasetProvider()
    provider.connection = SimpleNamespace(kelpie=lambda: queue)  # type: ignore[assignment]  # all that is asked for
    assert provider._is_in_use("b", "datasets/d/")
    assert not provider._is_in_use("b", "datasets/other/")
