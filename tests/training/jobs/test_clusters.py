"""Which cluster trains a job, and the settings of several clusters."""

import json
from typing import Any

import pytest

from flux_training.training.errors import BadInput
from flux_training.training.jobs.declare import assign_clusters, weights_in_image
from flux_training.training.settings import (
    SINGLE_CLUSTER,
    JobSettings,
    StackSettings,
    parse_stack_settings,
    with_chosen_machines,
)

TWO: dict[str, Any] = {"flux": {}, "video": {"name": "mine", "gpu": "cheapest"}}


def settings(**values: Any) -> StackSettings:
    base = {"cloud": "local", "storage": {"bucket": "weights"}, "jobs": {}}
    texts = {
        f"p:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in (base | values).items()
    }
    return parse_stack_settings("p", texts)


def test_groups_are_named_after_their_clusters() -> None:
    assert {name: one.name for name, one in settings(clusters=TWO).all_clusters.items()} == {
        "flux": "flux-training-flux",
        "video": "mine",
    }
    assert {name: one.name for name, one in settings().all_clusters.items()} == {
        SINGLE_CLUSTER: "flux-training"
    }


def test_only_what_leaves_a_choice_is_replaced_by_the_chosen_machine() -> None:
    clusters = {**TWO, "list": {"gpu": ["RTX 4090", "RTX 3090"], "priority": ["batch", "low"]}}
    machines = {
        "flux": ("RTX 5090 (32 GB)", "high"),
        "video": ("RTX 4090 (24 GB)", "high"),
        "list": ("RTX 4090 (24 GB) or RTX 3090 (24 GB)", "low"),
    }
    found = with_chosen_machines(settings(clusters=clusters), machines).all_clusters
    assert {name: (one.gpu, one.priority) for name, one in found.items()} == {
        "flux": ("RTX 5090", "high"),
        "video": ("RTX 4090 (24 GB)", "high"),
        "list": ("RTX 4090, RTX 3090", "low"),
    }
    assert found["video"].name == "mine"


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        (
            {"cluster": {}, "clusters": TWO},
            "p: cluster and clusters (flux, video) are both set; move the settings of `cluster` into an entry of `clusters`, such as "
            "`main: {…}`, or remove one of the two",
        ),
        (
            {"clusters": {"Video": {}}},
            "p: clusters: `Video` must be 2 to 32 lower-case letters, digits and hyphens, beginning with a letter",
        ),
        ({"clusters": {}}, "p: clusters names no cluster; add one, such as `flux: {}`, or remove `clusters`"),
        (
            {"clusters": {"aa": {"name": "one"}, "bb": {"name": "one"}}},
            "p: the clusters aa and bb have the same container group one; give each another `name`",
        ),
        (
            {"clusters": {"aa": {"gpus": 1}}},
            "p:clusters.aa.gpus: unknown key (did you mean `gpu`?); known keys: ",
        ),
        (
            {"clusters": TWO, "dev": {"enabled": True, "image": "i"}},
            "p: dev.enabled with several clusters needs dev.cluster; choose one of: flux, video",
        ),
        (
            {"clusters": TWO, "dev": {"cluster": "vidoe"}},
            "p: dev.cluster: `vidoe` is not one of the clusters (did you mean `video`?); there are: flux, video",
        ),
        (
            {"dev": {"cluster": "video"}},
            "p: dev.cluster is `video`, but this stack has no `clusters`; remove it",
        ),
    ],
)
def test_mistakes_in_clusters_are_named(values: dict[str, Any], finding: str) -> None:
    with pytest.raises(BadInput) as caught:
        settings(**values)
    (found,) = caught.value.findings
    assert found.startswith(finding)


def test_only_clusters_without_an_image_get_the_built_one() -> None:
    image = {"build": True, "repository": "me/trainer", "kelpieSha256": "0" * 64}
    found = settings(clusters={"flux": {}, "video": {"image": "my/wan:1"}}, image=image)
    assert {name: found.is_built(name) for name in found.all_clusters} == {"flux": True, "video": False}
    with pytest.raises(BadInput, match=r"clusters\.aa\.image and clusters\.bb\.image and image\.build: true"):
        settings(clusters={"aa": {"image": "i"}, "bb": {"image": "i"}}, image=image)


@pytest.mark.parametrize(
    ("clusters", "wanted", "cluster", "message"),
    [
        (None, None, SINGLE_CLUSTER, ""),
        (
            None,
            "flux",
            None,
            "job `cat`: `flux` is not a cluster; this stack has a single `cluster` without a name",
        ),
        ({"flux": {}}, None, "flux", ""),
        (TWO, "video", "video", ""),
        (TWO, None, None, "job `cat` names none of the clusters: flux, video"),
        (
            TWO,
            "vid",
            None,
            "job `cat`: `vid` is not a cluster (did you mean `video`?); there are: flux, video",
        ),
        (TWO, "", None, "job `cat`: `` is not a cluster; there are: flux, video"),
    ],
)
def test_each_job_gets_its_cluster(
    clusters: dict[str, Any] | None, wanted: str | None, cluster: str | None, message: str
) -> None:
    stack = settings(clusters=clusters) if clusters else settings()
    found, findings = assign_clusters({"cat": JobSettings(cluster=wanted)}, stack, lambda _job: {})
    assert found.get("cat") == cluster
    assert [finding.message for finding in findings] == ([message] if message else [])


WAN = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
FLUX, KONTEXT = {"is_flux": True, "name_or_path": "/model"}, "black-forest-labs/FLUX.1-Kontext-dev"
THREE: dict[str, Any] = {
    "flux": {},
    "video": {"image": "my/wan:1", "model": WAN},
    "edit": {"image": "my/kontext:1", "model": KONTEXT},
    "unknown": {"image": "my/secret:1"},
}


@pytest.mark.parametrize(
    ("section", "cluster", "message"),
    [
        (FLUX, "flux", ""),
        ({"arch": "wan21", "name_or_path": "/model"}, "video", ""),
        ({"arch": "wan21:14b", "name_or_path": WAN}, "video", ""),
        ({"arch": "flux_kontext", "name_or_path": KONTEXT.lower()}, "edit", ""),
        (
            {"arch": "zimage", "name_or_path": "/model"},
            None,
            "; no image of theirs is known to hold its model",
        ),
        (
            {"arch": "zimage", "name_or_path": "me/mine"},
            None,
            "; no image of theirs is known to hold its model",
        ),
        ({}, None, ""),
    ],
)
def test_a_job_is_trained_where_the_image_holds_its_model(
    section: dict[str, Any], cluster: str | None, message: str
) -> None:
    found, findings = assign_clusters({"cat": JobSettings()}, settings(clusters=THREE), lambda _job: section)
    assert found.get("cat") == cluster
    expected = (
        [] if cluster else [f"job `cat` names none of the clusters: flux, video, edit, unknown{message}"]
    )
    assert [finding.message for finding in findings] == expected


def test_two_images_with_the_model_are_named() -> None:
    clusters = {"one": {}, "two": {"gpu": "RTX 4090"}}
    _, findings = assign_clusters({"cat": JobSettings()}, settings(clusters=clusters), lambda _job: FLUX)
    (finding,) = findings
    assert finding.message.endswith("one, two; the images of one and two hold its model")


BUILD: dict[str, Any] = {"build": True, "repository": "r.io/me/trainer", "kelpieSha256": "0" * 64}
QWEN, DEFAULT = "Qwen/Qwen-Image", "black-forest-labs/FLUX.1-dev"
IN_IMAGE = {"arch": "qwen_image", "name_or_path": "/model"}


def test_each_model_has_one_built_image() -> None:
    clusters = {"flux": {}, "qwen": {"model": QWEN}, "more": {"model": QWEN}, "video": {"image": "my/wan:1"}}
    found = settings(clusters=clusters, image=BUILD)
    assert found.built_models == [DEFAULT, QWEN]
    assert {name: weights_in_image(found, name) for name in clusters} == {
        "flux": DEFAULT,
        "qwen": QWEN,
        "more": QWEN,
        "video": "",
    }
    assert settings(clusters={"qwen": {"model": QWEN}}, image=BUILD).built_models == [QWEN]
    assert settings(cluster={"model": QWEN}, image=BUILD | {"model": QWEN}).built_models == [QWEN]
    assert settings(image=BUILD | {"model": QWEN}).built_models == [QWEN]
    assert settings().built_models == []


def test_a_job_is_trained_where_the_built_image_holds_its_model() -> None:
    found = settings(clusters={"flux": {}, "qwen": {"model": QWEN}}, image=BUILD)
    assert assign_clusters({"cat": JobSettings()}, found, lambda _job: IN_IMAGE) == ({"cat": "qwen"}, [])


@pytest.mark.parametrize(
    ("clusters", "model"), [({"qwen": {"model": QWEN}}, QWEN), ({"qwen": {"image": "my/qwen:1"}}, DEFAULT)]
)
def test_the_dev_image_holds_the_model_of_its_cluster(clusters: dict[str, Any], model: str) -> None:
    dev = {"enabled": True, "cluster": "qwen"}
    image = BUILD | {"vscodeSha256": "0" * 64}
    found = settings(clusters={"flux": {}, **clusters}, image=image, dev=dev)
    assert found.built_dev_model == model
    assert settings(clusters=clusters | {"flux": {}}, image=image).built_dev_model is None


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        (
            {"clusters": {"video": {"model": WAN}}},
            f"p: clusters.video.model ({WAN}) says what an image of your own holds; set clusters.video.image as well, or image.build: "
            "true to build it",
        ),
        (
            {
                "clusters": {"qwen": {"model": QWEN}, "video": {"image": "my/wan:1"}},
                "image": BUILD | {"model": DEFAULT},
            },
            f"p: image.model ({DEFAULT}) would not be in any image, because each of these clusters has its own model or image: clusters.qwen and clusters.video; "
            "remove image.model",
        ),
    ],
)
def test_contradictions_about_the_weights_of_images_are_named(values: dict[str, Any], finding: str) -> None:
    with pytest.raises(BadInput) as caught:
        settings(**values)
    assert caught.value.findings == [finding]
