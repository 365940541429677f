"""Requests with odd values are answered as the real Kelpie API answered them (odd_requests.py)."""

import json
from pathlib import Path

from group_body import group_body
from localcloud.testing import running_cloud, salad_client
from odd_requests import OddRequests

RECORDING = Path(__file__).with_name("data") / "kelpie-odd-requests.jsonl"


def test_all_353_odd_requests_are_answered_as_recorded(tmp_path: Path) -> None:
    steps = [json.loads(line) for line in RECORDING.read_text(encoding="utf-8").splitlines()]
    with (
        running_cloud(tmp_path / "cloud", nodes=0, autoscaler_seconds=3600) as connection,
        salad_client(connection) as salad,
    ):
        body = group_body("odd-0123abcd", replicas=0)
        player = OddRequests(connection, salad.post("/containers", json=body).json()["id"])
        wrong = [
            (step["name"], step["answer"], answer)
            for step in steps
            if (answer := player.play(step)) != step["answer"]
        ]
    assert (len(steps), wrong) == (353, [])
