"""Requests with odd values are answered as the real Kelpie API answered them (odd_requests.py)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from group_body import group_body
from localcloud.testing import running_cloud, salad_client
from odd_requests import OddRequests

RECORDINGS = Path(__file__).with_name("data")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("odd") / "cloud"
    with running_cloud(home, nodes=0, autoscaler_seconds=3600) as connection:
        yield connection


@pytest.mark.parametrize(("name", "count"), [("odd-requests", 353), ("odd-lives", 107)])
def test_all_odd_requests_are_answered_as_recorded(cloud: dict[str, Any], name: str, count: int) -> None:
    lines = (RECORDINGS / f"kelpie-{name}.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    with salad_client(cloud) as salad:
        body = group_body(f"odd-{count:08x}", replicas=0)
        player = OddRequests(cloud, salad.post("/containers", json=body).json()["id"])
        wrong = [
            (step["name"], step["answer"], answer)
            for step in steps
            if (answer := player.play(step)) != step["answer"]
        ]
    assert (len(steps), wrong) == (count, [])
