"""Stacks with several named clusters."""

from pathlib import Path
from typing import Any

import pytest

from tests.life.stacks import Stack, new_stack

JOBS = {"cat-1": 1, "cat-2": 2, "dog": 3, "clip": 4, "pan": 5}
PLACES = {"cat-*": "flux", "dog": "flux", "clip": "video", "pan": "edit"}


@pytest.fixture
def stack(cloud: Path, tmp_path: Path, request: pytest.FixtureRequest, engine: str) -> Stack:
    name = request.function.__name__.removeprefix("test_").replace("_", "-")[:24].strip("-")
    return new_stack(tmp_path / "stack", cloud, name, JOBS, engine)


def clusters_of(stack: Stack) -> dict[str, dict[str, Any]]:
    return {
        "flux": {"name": f"{stack.place}-f", "maxReplicas": 2},
        "video": {"name": f"{stack.place}-v", "image": "my/wan:1", "gpu": "RTX 4090", "storage": 120},
        "edit": {"name": f"{stack.place}-e", "minReplicas": 1, "maxReplicas": 4},
    }


def declare(stack: Stack, places: dict[str, str], clusters: dict[str, dict[str, Any]]) -> None:
    jobs = {name: {"cluster": cluster} for name, cluster in places.items()}
    stack.configure(jobs, {"clusters": clusters}, single=False)


def queued_in(stack: Stack) -> dict[str, list[str]]:
    """The jobs that wait in the queue of each cluster."""
    clusters = stack.outputs()["clusters"]
    return {
        name: sorted(
            job.environment["FLUX_JOB"]
            for job in stack.jobs()
            if job.unfinished and job.container_group_id == one["id"]
        )
        for name, one in clusters.items()
    }


def test_three_clusters_train_five_jobs_and_leave_nothing_behind(stack: Stack) -> None:
    clusters = clusters_of(stack)
    declare(stack, PLACES, clusters)
    printed = stack.up()
    salad, kelpie = stack.connection.salad(), stack.connection.kelpie()
    assert "Cluster video: Estimated cost on RTX 4090 (24 GB)" in printed
    assert "All clusters together: $" in printed
    assert queued_in(stack) == {"flux": ["cat-1", "cat-2", "dog"], "video": ["clip"], "edit": ["pan"]}
    sizes = {name: tuple(one["size"].values()) for name, one in stack.outputs()["clusters"].items()}
    assert sizes == {"flux": (True, 2, 0), "video": (True, 1, 0), "edit": (True, 1, 1)}
    rules = [kelpie.get_rule(one["id"]) for one in stack.outputs()["clusters"].values()]
    assert sorted((rule.min_replicas, rule.max_replicas) for rule in rules if rule) == [
        (0, 1),
        (0, 2),
        (1, 1),
    ]
    video = salad.get_group(clusters["video"]["name"])
    assert video is not None
    assert (video.container.image, video.container.resources.storage_amount) == ("my/wan:1", 120 * 1024**3)
    assert "unchanged" in stack.run("preview", "--expect-no-changes")

    declare(stack, {**PLACES, "dog": "edit"}, clusters)
    stack.up()
    assert queued_in(stack) == {"flux": ["cat-1", "cat-2"], "video": ["clip"], "edit": ["dog", "pan"]}
    assert stack.live_runs() == stack.declared_runs()

    declare(
        stack,
        {"cat-*": "flux", "dog": "edit", "pan": "edit"},
        {name: clusters[name] for name in ("flux", "edit")},
    )
    stack.up()
    assert queued_in(stack) == {"flux": ["cat-1", "cat-2"], "edit": ["dog", "pan"]}
    assert salad.get_group(clusters["video"]["name"]) is None

    stack.destroy()
    assert not stack.live_runs()
    assert [group.name for group in salad.list_groups() if group.name.startswith(stack.place)] == []
    groups = {job.container_group_id for job in stack.jobs()}
    assert not any(kelpie.get_rule(group) for group in groups)


@pytest.mark.long
def test_jobs_of_three_architectures_go_where_the_image_holds_their_model(stack: Stack) -> None:
    clusters = clusters_of(stack)
    clusters["video"]["model"] = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    clusters["edit"] |= {"image": "my/chroma:1", "model": "lodestones/Chroma1-Base", "minReplicas": 0}
    for name, arch in (("clip", "wan21"), ("pan", "chroma")):
        config = stack.root / "jobs" / name / "train.yml"
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace("is_flux: true", f"arch: {arch}"), encoding="utf-8")
    stack.configure({name: {} for name in JOBS}, {"clusters": clusters}, single=False)
    stack.up()
    assert queued_in(stack) == {"flux": ["cat-1", "cat-2", "dog"], "video": ["clip"], "edit": ["pan"]}
    sizes = {name: tuple(one["size"].values()) for name, one in stack.outputs()["clusters"].items()}
    assert sizes == {"flux": (True, 2, 0), "video": (True, 1, 0), "edit": (True, 1, 0)}
    assert "unchanged" in stack.run("preview", "--expect-no-changes")
    stack.destroy()
    assert not stack.live_runs()
    groups = stack.connection.salad().list_groups()
    assert [group.name for group in groups if group.name.startswith(stack.place)] == []


@pytest.mark.long
def test_a_single_cluster_becomes_one_of_several(stack: Stack) -> None:
    """Its group cannot be taken over, because the update would delete it; its jobs move to the new group."""
    stack.up()
    runs = stack.declared_runs()
    places = dict.fromkeys(JOBS, "flux")
    declare(stack, places, {"flux": {"name": stack.place}})
    refused = stack.run("preview", code=1)
    assert f"container group {stack.place} belongs to this stack's single `cluster`" in refused
    assert "set another clusters.flux.name" in refused

    declare(stack, places, {"flux": {"name": f"{stack.place}-f"}})
    stack.up()
    assert stack.connection.salad().get_group(stack.place) is None
    assert queued_in(stack) == {"flux": sorted(JOBS)}
    assert stack.live_runs() == runs


def test_a_single_cluster_has_the_resources_and_inputs_of_earlier_versions(stack: Stack) -> None:
    """What is added for several clusters must not appear in stacks with one: it would change or replace their resources."""
    stack.configure({"dog": {}})
    stack.up()
    resources = stack.state()["checkpoint"]["latest"]["resources"]
    ours = {one["urn"].rpartition("$")[2]: one.get("inputs", {}) for one in resources if "$" in one["urn"]}
    names = {urn.rpartition(":")[2] for urn in ours}
    assert names == {"bucket", "cluster", "dog", "runs", "scaling"}
    (group,) = (inputs for urn, inputs in ours.items() if urn.endswith("::cluster"))
    assert sorted(group) == sorted(
        [
            "__provider",
            "adopt",
            "autoscale",
            "cpu",
            "credentials",
            "gpu",
            "home",
            "image",
            "memory",
            "name",
            "owner",
            "priority",
            "replicas",
            "storage",
            "variables",
        ]
    )
    found = stack.connection.salad().get_group(stack.place)
    assert found is not None
    assert "FLUX_CLUSTER" not in found.container.environment_variables
    assert sorted(stack.outputs()) == [
        "bucket",
        "clusterSize",
        "containerGroup",
        "cost",
        "jobs",
        "prefix",
    ]
    assert "cluster" not in stack.outputs()["jobs"]["dog"]
