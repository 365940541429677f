"""A stack whose bucket has layout 1, as older versions left it: a preview changes and trains nothing, and an `up` moves the records."""

import json
from pathlib import Path

from tests.life.stacks import Stack, new_stack
from tests.life.test_requests import finish_all


def make_old(stack: Stack) -> None:
    """Put claims and posted jobs where layout 1 had them, and take the ETags out of the datasets' records."""
    storage = stack.connection.storage("life")
    own = f"{stack.place}/.flux/"
    for item in list(storage.list(f"{own}runs/")):
        storage.put_bytes(item.key.replace("/.flux/runs/", "/runs/"), storage.get_bytes(item.key) or b"")
        storage.delete_many([item.key])
    for item in list(storage.list(f"{own}datasets/")):
        record = json.loads(storage.get_bytes(item.key) or b"")
        for image in record["images"].values():
            del image["etag"]
        storage.delete_many([item.key])
        storage.put_bytes(item.key, json.dumps(record).encode())
    mark = json.loads(storage.get_bytes(f"{own}owner.json") or b"")
    storage.delete_many([f"{own}owner.json"])
    storage.put_bytes(f"{own}owner.json", json.dumps(mark | {"layout": 1}).encode())


def test_a_bucket_of_an_older_version_is_moved_by_the_next_up(
    engine: str, cloud: Path, tmp_path: Path
) -> None:
    stack = new_stack(tmp_path / "stack", cloud, "earlier", {"cat": 1, "dog": 2}, engine)
    stack.up()
    finish_all(stack, only="cat")
    queued = stack.jobs()
    make_old(stack)
    storage = stack.connection.storage("life")
    before = {item.key: item.etag for item in storage.list(f"{stack.place}/")}

    printed = stack.run("preview")
    assert "unchanged" in printed
    assert "created" not in printed
    assert {item.key: item.etag for item in storage.list(f"{stack.place}/")} == before

    assert "unchanged" in stack.up()
    mark = json.loads(storage.get_bytes(f"{stack.place}/.flux/owner.json") or b"")
    assert mark["layout"] == 2
    moved = [item.key.rpartition("/")[2] for item in storage.list(f"{stack.place}/.flux/runs/")]
    assert moved == ["claim.json", "posted.json", "results.json", "claim.json", "posted.json"]
    assert [(job.id, job.status) for job in stack.jobs()] == [(job.id, job.status) for job in queued]
