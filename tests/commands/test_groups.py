"""The container groups in a stack's outputs."""

from typing import Any

import pytest

from flux_training.commands.stack.command import describe_fixed_clusters
from flux_training.commands.watch.groups import StackGroup, stack_groups
from flux_training.commands.watch.job_status import stack_jobs

SCALES = {"min": 0, "max": 1, "autoscale": True}
SINGLE = {"containerGroup": {"id": "g", "name": "mine"}, "clusterSize": {**SCALES, "autoscale": False}}
SEVERAL = {
    "clusters": {
        "flux": {"id": "f", "name": "mine-f", "size": SCALES},
        "video": {"id": "v", "name": "mine-v", "size": {**SCALES, "autoscale": False}},
    }
}


@pytest.mark.parametrize(
    ("outputs", "groups", "fixed"),
    [
        ({}, {}, ""),
        (SINGLE, {"": StackGroup("g", "mine")}, "This cluster does not scale"),
        (
            SEVERAL,
            {"flux": StackGroup("f", "mine-f"), "video": StackGroup("v", "mine-v")},
            "Cluster video does not scale",
        ),
    ],
)
def test_groups_of_a_stack(outputs: dict[str, Any], groups: dict[str, StackGroup], fixed: str) -> None:
    assert stack_groups(outputs) == groups
    assert describe_fixed_clusters(outputs) == fixed


def test_jobs_know_their_cluster() -> None:
    entry = {"runId": "r", "steps": 1, "folder": "runs/cat/r/"}
    jobs = stack_jobs({"jobs": {"cat": entry, "clip": {**entry, "cluster": "video"}}})
    assert [job.cluster for job in jobs] == ["", "video"]
