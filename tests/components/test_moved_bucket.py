"""Buckets whose place or layout changes: results are neither deleted nor trained again, and a newer layout is refused."""

import json

import pytest

from components.bucket import BucketProvider
from components.declared_runs import DeclaredRunsProvider
from components.provider import home
from flux_training.clients.connection import Connection
from flux_training.clients.storage import Storage
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import Layout
from tests.components.groups import OWNER, bucket_props, new_name, provider_of

RUN = "0123456789ab"


@pytest.fixture
def storage(connection: Connection) -> Storage:
    return connection.storage(new_name())


def put_run(storage: Storage, prefix: str, done: bool = True) -> None:
    keys = Layout(prefix).run("cat", RUN)
    for key in (keys.record, *([keys.weights, keys.done] if done else [])):
        storage.put_bytes(key, b"{}")


def test_results_are_not_deleted_because_a_setting_changed(connection: Connection, storage: Storage) -> None:
    buckets = provider_of(BucketProvider, connection)
    olds = buckets.create(bucket_props(connection, storage.bucket, prefix="one/", results="delete")).outs
    put_run(storage, "one/")
    # `keep` in the same change comes too late: the old resource is deleted with the settings of the last `up`.
    for news in (
        bucket_props(connection, storage.bucket, prefix="two/", results="delete"),
        bucket_props(connection, storage.bucket, prefix="two/", results="keep"),
        olds | {"bucket": "another"},
    ):
        with pytest.raises(FluxError, match=f"results are in s3://{storage.bucket}/one/runs/"):
            buckets.diff(storage.bucket, olds, news)


def test_a_place_without_results_or_that_keeps_them_may_change(
    connection: Connection, storage: Storage
) -> None:
    buckets = provider_of(BucketProvider, connection)
    olds = buckets.create(bucket_props(connection, storage.bucket, prefix="one/", results="delete")).outs
    news = bucket_props(connection, storage.bucket, prefix="two/", results="delete")
    assert buckets.diff(storage.bucket, olds, news).replaces == ["prefix"]
    put_run(storage, "one/")
    assert buckets.diff(storage.bucket, olds, olds).replaces == []
    assert buckets.diff(storage.bucket, olds | {"results": "keep"}, news).replaces == ["prefix"]


def test_a_finished_run_stops_the_move_before_running_jobs_are_canceled(
    connection: Connection, storage: Storage
) -> None:
    storage.create_bucket()
    put_run(storage, "one/")
    provider = provider_of(DeclaredRunsProvider, connection)
    runs = {"cat": RUN, "dog": "ba9876543210"}
    place = {"home": home(connection), "groupId": "g", "bucket": storage.bucket, "runs": runs}
    olds, news = {**place, "prefix": "one/"}, {**place, "prefix": "two/"}
    with pytest.raises(FluxError, match=r"^cat: the results are in s3://.*/one/runs/"):
        provider.diff("g", olds, news)
    other_run = {**news, "runs": {**runs, "cat": "0" * 12}}
    assert provider.diff("g", olds, other_run).replaces == ["prefix"]
    put_run(storage, "two/")
    assert provider.diff("g", olds, news).replaces == ["prefix"]


def test_a_bucket_of_an_older_version_is_ours_and_of_a_newer_one_is_refused(
    connection: Connection, storage: Storage
) -> None:
    buckets, props = (
        provider_of(BucketProvider, connection),
        bucket_props(connection, storage.bucket, prefix="", results="keep"),
    )
    buckets.create(props)
    mark = json.loads(storage.get_bytes(".flux/owner.json") or b"")
    assert mark == {"version": 1, "layout": 2, "owner": OWNER, "made": True}
    for old in ({}, {"layout": 1}):
        without_layout = {key: value for key, value in mark.items() if key != "layout"}
        storage.put_bytes(".flux/owner.json", json.dumps(without_layout | old).encode())
        assert buckets.read(storage.bucket, props).id == storage.bucket
    storage.put_bytes(".flux/owner.json", json.dumps(mark | {"layout": 3}).encode())
    for act in (
        buckets.create,
        lambda props: buckets.read("", props),
        lambda props: buckets.delete("", props),
    ):
        with pytest.raises(FluxError, match=r"has layout 3; .* knows layout 2; update flux-training"):
            act(props)


@pytest.mark.parametrize(
    "odd",
    [{"layout": 0}, {"layout": "2"}, {"layout": 10**30}, {"layout": [1]}, {"made": "yes"}, {"owner": 7}, {"owner": ""}],
    ids=str,
)  # fmt: skip
def test_a_mark_with_an_invalid_field_is_none_and_its_bucket_is_refused(
    odd: dict[str, object], connection: Connection, storage: Storage
) -> None:
    """Only nodes with keys for the whole bucket can write it. An invalid layout must not become layout 1, whose records they write."""
    storage.ensure()
    mark = {"version": 1, "layout": 2, "owner": OWNER, "made": True} | odd
    storage.put_bytes(".flux/owner.json", json.dumps(mark).encode())
    props = bucket_props(connection, storage.bucket, prefix="", results="keep")
    with pytest.raises(
        FluxError,
        match=r"holds objects of other programs.* or set `.*:adopt: true` under `config:`",
    ):
        provider_of(BucketProvider, connection).create(props)
