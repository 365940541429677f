"""Buckets whose place or layout changes: results are neither deleted nor trained again, and a newer layout is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import count

import pytest
from localcloud.testing import running_cloud

from components.bucket import BucketProvider
from components.declared_runs import DeclaredRunsProvider
from components.properties import Props
from components.provider import home
from flux_training.clients.connection import Connection, connect
from flux_training.clients.storage import Storage
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import Layout

OWNER = "flux-training/dev"
RUN = "0123456789ab"
_numbers = count()


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    place = tmp_path_factory.mktemp("cloud")
    with running_cloud(place, nodes=0):
        yield connect("local", {}, {"FLUX_LOCAL_CLOUD": str(place / "connection.json")})


@pytest.fixture
def storage(connection: Connection) -> Storage:
    return connection.storage(f"moved-{os.getpid()}-{next(_numbers)}")


def buckets_of(connection: Connection) -> BucketProvider:
    made = BucketProvider()
    made.connection = connection
    return made


def bucket_props(connection: Connection, storage: Storage, prefix: str, results: str) -> Props:
    place = {"home": home(connection), "kind": "s3", "bucket": storage.bucket, "prefix": prefix}
    return {
        **place,
        "location": None,
        "owner": OWNER,
        "adopt": False,
        "results": results,
        "retention": None,
    }


def put_run(storage: Storage, prefix: str, done: bool = True) -> None:
    keys = Layout(prefix).run("cat", RUN)
    for key in (keys.record, *([keys.weights, keys.done] if done else [])):
        storage.put_bytes(key, b"{}")


def test_results_are_not_deleted_because_a_setting_changed(connection: Connection, storage: Storage) -> None:
    buckets = buckets_of(connection)
    olds = buckets.create(bucket_props(connection, storage, "one/", "delete")).outs
    put_run(storage, "one/")
    # `keep` in the same change comes too late: the old one is deleted as it was at the last `up`.
    for news in (
        bucket_props(connection, storage, "two/", "delete"),
        bucket_props(connection, storage, "two/", "keep"),
        olds | {"bucket": "another"},
    ):
        with pytest.raises(FluxError, match=f"results are in s3://{storage.bucket}/one/runs/"):
            buckets.diff(storage.bucket, olds, news)


def test_a_place_without_results_or_that_keeps_them_may_change(
    connection: Connection, storage: Storage
) -> None:
    buckets = buckets_of(connection)
    olds = buckets.create(bucket_props(connection, storage, "one/", "delete")).outs
    news = bucket_props(connection, storage, "two/", "delete")
    assert buckets.diff(storage.bucket, olds, news).replaces == ["prefix"]
    put_run(storage, "one/")
    assert buckets.diff(storage.bucket, olds, olds).replaces == []
    assert buckets.diff(storage.bucket, olds | {"results": "keep"}, news).replaces == ["prefix"]


def test_a_finished_run_stops_the_move_before_running_jobs_are_canceled(
    connection: Connection, storage: Storage
) -> None:
    storage.create_bucket()
    put_run(storage, "one/")
    provider = DeclaredRunsProvider()
    provider.connection = connection
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
    buckets, props = buckets_of(connection), bucket_props(connection, storage, "", "keep")
    buckets.create(props)
    mark = json.loads(storage.get_bytes(".flux/owner.json") or b"")
    assert mark == {"version": 1, "layout": 1, "owner": OWNER, "made": True}
    without_layout = {key: value for key, value in mark.items() if key != "layout"}
    storage.put_bytes(".flux/owner.json", json.dumps(without_layout).encode())
    assert buckets.read(storage.bucket, props).id == storage.bucket
    storage.put_bytes(".flux/owner.json", json.dumps(mark | {"layout": 2}).encode())
    for act in (
        buckets.create,
        lambda props: buckets.read("", props),
        lambda props: buckets.delete("", props),
    ):
        with pytest.raises(FluxError, match=r"has layout 2; .* knows layout 1; update flux-training"):
            act(props)
