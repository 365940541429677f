"""The settings of a stack: valid combinations and error messages."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from flux_training.training.errors import BadInput
from flux_training.training.settings import StackSettings, parse_stack_settings

DIGEST = "a" * 64
CANARY = "canary-settings-2ee1"
SECTIONS = [
    name
    for name, field in StackSettings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
]
BUILD = {"build": True, "repository": "docker.io/me/x", "kelpieSha256": DIGEST}


def parse(**settings: Any) -> StackSettings:
    base = {"cloud": "salad", "storage": {"bucket": "weights"}, "jobs": {}}
    texts = {
        f"p:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in (base | settings).items()
    }
    return parse_stack_settings("p", texts)


def findings(**settings: Any) -> list[str]:
    with pytest.raises(BadInput) as caught:
        parse(**settings)
    return caught.value.findings


MINIMAL = {"my-loras:cloud": "local", "my-loras:storage": '{"bucket": "loras"}', "my-loras:jobs": "{}"}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("flux-training:budget", "write `my-loras:budget`"),
        ("flux-trainig:budget", "write `my-loras:budget`"),
        ("my-lora:maxSteps", "write `my-loras:maxSteps`"),
        ("other:maxSteps", "write `my-loras:maxSteps`"),
        ("flux-training:budgett", "`budgett` is none of them (did you mean `budget`?)"),
        ("My_Loras:anything", "`anything` is none of them"),
    ],
)
def test_a_setting_under_another_namespace_is_an_error(key: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_stack_settings("my-loras", MINIMAL | {key: "1"})
    (finding,) = caught.value.findings
    assert finding.startswith(f"{key}: would be ignored")
    assert words in finding


def test_settings_of_other_packages_are_accepted() -> None:
    others = ["aws:region", "pulumi:tags", "pulumi-command:x", "kubernetes:cluster", "my-lora-tools:size"]
    for project in ("my-loras", "aws2", "pulumi-commands"):
        config = {key.replace("my-loras", project): text for key, text in MINIMAL.items()}
        assert parse_stack_settings(project, config | dict.fromkeys(others, "1")).cloud == "local"


def test_misplaced_and_missing_settings_are_found_together() -> None:
    config = {key.replace("my-loras", "flux-training"): text for key, text in MINIMAL.items()}
    with pytest.raises(BadInput) as caught:
        parse_stack_settings("my-loras", config)
    assert len(caught.value.findings) == 6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gpu": "RTX 5090"}, "p:gpu: unknown key (did you mean `cluster.gpu` or `dev.gpu`?)"),
        ({"clowd": "local"}, "p:clowd: unknown key (did you mean `cloud`?)"),
        ({"jobs": {"cat": {"atempt": 2}}}, "p:jobs.cat.atempt: unknown key (did you mean `attempt`?)"),
        (
            {"storage": {"bucket": "flux", "prefiks": ""}},
            "p:storage.prefiks: unknown key (did you mean `prefix`?)",
        ),
        ({"cluster": {"maxReplikas": 2}}, "p:cluster.maxReplikas: unknown key (did you mean `maxReplicas`?)"),
        ({"cluster": {"minReplicas": 3, "maxReplicas": 2}}, "minReplicas (3) is above maxReplicas (2)"),
        ({"cloud": "moon"}, "p:cloud: must be 'local' or 'salad' (it is 'moon')"),
        ({"jobs": {"cat": {"attempt": 0}}}, "p:jobs.cat.attempt"),
        ({"jobs": {"cat": {"attempt": True}}}, "p:jobs.cat.attempt: must be a number (it is True)"),
        ({"jobs": {"cat": {"maxHours": True}}}, "p:jobs.cat.maxHours: must be a number"),
        (
            {"storage": {"bucket": "flux", "prefix": "../x"}},
            "p:storage.prefix: must not contain `.` or `..`",
        ),
        ({"storage": {"bucket": "flux", "prefix": "a/./b"}}, "(it is 'a/./b')"),
        ({"storage": {"bucket": "b-1", "kind": "s3", "rotate": 2}}, "rotate has no effect with kind s3"),
        (
            {"storage": {"bucket": "b-1", "kind": "aws", "location": "weur"}},
            "location has no effect with kind aws",
        ),
        ({"storage": {"bucket": "b-1", "kind": "r2", "credentialHours": 169}}, "(it is 169)"),
        ({"storage": {"bucket": "b-1", "kind": "r3"}}, "'r2', 'aws' or 's3'"),
        ({"image": {"build": True}}, "needs repository and kelpieSha256"),
        ({"image": {**BUILD, "repository": "me/x:latest"}}, "repository"),
        ({"image": {**BUILD, "kelpieSha256": "abc"}}, "(it is 'abc')"),
        ({"image": BUILD, "cluster": {"image": "a/b"}}, "are incompatible; remove one"),
        ({"dev": {"enabled": True}, "image": BUILD}, "needs image.vscodeSha256"),
        ({"dev": {"enabled": True, "image": "x", "tunnel": "A"}}, "(it is 'A')"),
        ({"dev": {"enabled": True, "image": "x"}, "cluster": {"name": "n" * 62}}, "too long; shorten it"),
        ({"keep": {"datasetsDays": 0}}, "(it is 0)"),
        (
            {"cloud": "local", "storage": {"bucket": "b-1", "kind": "aws"}},
            "does not emulate AWS; use s3 or r2",
        ),
    ],
)
def test_invalid_settings_are_reported(settings: dict[str, Any], words: str) -> None:
    (finding,) = findings(**settings)
    assert words in finding


def test_all_incompatible_settings_are_reported_together() -> None:
    (finding,) = findings(dev={"enabled": True}, cloud="local", storage={"bucket": "b-1", "kind": "aws"})
    assert "does not emulate AWS" in finding
    assert "dev.enabled needs dev.image" in finding
    assert len(findings(keep={"datasetsDays": 0, "checkpointsDays": 0}, dev={"tunnel": "A"})) == 3


def test_image_build_and_dev_group_can_be_combined() -> None:
    settings = parse(image={**BUILD, "vscodeSha256": DIGEST}, dev={"enabled": True})
    assert settings.dev_group_name == "flux-training-dev"
    assert settings.image.vscode_version == "latest"


def test_defaults_are_stable() -> None:
    settings = parse()
    assert (settings.storage.kind, settings.image.build, settings.dev.enabled) == ("s3", False, False)
    assert (settings.keep.checkpoints_days, settings.keep.datasets_days) == (None, None)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"keep": {"checkpointDays": 3}},
            "p:keep.checkpointDays: unknown key (did you mean `checkpointsDays`?); known keys: checkpointsDays, datasetsDays",
        ),
        (
            {"jobs": {"cat": {"stall": 5}}},
            "p:jobs.cat.stall: unknown key (did you mean `stallMinutes`?); "
            "known keys: attempt, cluster, dataset, lint, maxHours, model, priority, resume, skip, stallMinutes, webhook",
        ),
        ({"storage": {}}, "p:storage.bucket: is missing; set it in the stack's configuration"),
        ({"webhook": {"url": "x"}}, "p:webhook: must be text, not a map; write the value on the same line"),
        (
            {"dev": {"enabled": True}},
            "p: dev.enabled needs dev.image, or image.build: true to build it",
        ),
    ],
)
def test_setting_errors_are_exact(settings: dict[str, Any], told: str) -> None:
    assert findings(**settings) == [told]


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_keys_are_reported_in_every_section(section: str) -> None:
    base = {"bucket": "weights"} if section == "storage" else {}
    (finding,) = findings(**{section: base | {"xyzzy": 1}})
    assert finding.startswith(f"p:{section}.xyzzy: unknown key; known keys: ")


@pytest.mark.parametrize(
    "values",
    [
        {"cloudflareApiToken": {"a": CANARY}},
        {"storage": {"bucket": "b-1", "secret": CANARY}},
        {"saladApiKey": {"key": CANARY}},
        {"s3SecretAccessKey": [CANARY]},
        {"cluster": CANARY},
        {"cluster": {"environment": CANARY}},
        {"cluster": {"environment": {"TOKEN": {"a": CANARY}}}},
        {"cluster": {"environment": {"memory": [CANARY]}}},
        {"cluster": {"maxReplicas": [CANARY]}},
        {"jobs": {"cat": {"lint": {"silence": CANARY}}}},
        {"s3EndpointUrl": [CANARY]},
        {"jobs": CANARY, "keep": CANARY},
        {"webhok": CANARY},
        {"cluster": {"environment": {"TOKEN": CANARY * 100}}},
        {"cluster": {"environment": {"TOKEN": f"two\n{CANARY}"}}},
        {"cluster": {"environment": {"AWS_TOKEN": CANARY}}},
        {"webhook": {"url": CANARY}},
        {"jobs": {"cat": {"webhook": [CANARY]}}},
    ],
)
def test_possible_secrets_are_not_shown(values: dict[str, object]) -> None:
    assert CANARY not in "\n".join(findings(**values))


def test_a_job_without_settings_may_be_null() -> None:
    assert parse(jobs={"cat": None}).jobs["cat"].attempt == 1


@pytest.mark.parametrize("entry", [False, True, 0, "", [], "no"])
def test_a_job_entry_must_be_a_map(entry: object) -> None:
    with pytest.raises(
        BadInput, match=r"p:jobs\.cat: is not a map of settings; .*`\{skip: true\}` to leave it out"
    ):
        parse(jobs={"cat": entry, "dog": {}})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"jobs": None}, "p:jobs: must be a map, one `name: value` on each line below it, but has no value"),
        ({"jobs": ["a"]}, "p:jobs: must be a map, one `name: value` on each line below it, not a list"),
        ({"storage": "flux"}, "p:storage: must be a map"),
        ({"storage": {"bucket": 12}}, "p:storage.bucket: must be text; put it in quotes (it is 12)"),
        ({"storage": {"bucket": None}}, "p:storage.bucket: must be text, but has no value"),
        (
            {"cluster": {"memory": "30 GB"}},
            "p:cluster.memory: must be a whole number without a unit (it is '30 GB')",
        ),
        ({"cluster": {"maxReplicas": 2.5}}, "p:cluster.maxReplicas: must be a whole number (it is 2.5)"),
        ({"cluster": {"maxReplicas": 501}}, "p:cluster.maxReplicas: must be at most 500 (it is 501)"),
        ({"cluster": {"image": ["a/b"]}}, "p:cluster.image: must be text, not a list; write one value"),
        *(
            (
                {"cluster": {"gpu": gpu}},
                "p:cluster.gpu: a list of GPUs has one or more names, such as `[RTX 5090, RTX 4090]`",
            )
            for gpu in ([], [5090], [""], ["RTX 5090", "cheapest"])
        ),
        ({"cluster": {"environment": {"A": 1}}}, "p:cluster.environment.A: must be text; put it in quotes"),
        (
            {"cluster": {"gpu": " "}},
            "p:cluster.gpu: is empty; write a name such as `RTX 5090`, or remove the key",
        ),
        ({"budget": {"maxUsdPerDay": "1e400"}}, "p:budget.maxUsdPerDay: must be"),
        ({"budget": {"maxUsd": "ten"}}, "p:budget.maxUsd: must be a number without a unit (it is 'ten')"),
        ({"cloud": ["local"]}, "p:cloud: must be 'local' or 'salad'"),
        ({"adopt": "maybe"}, "p:adopt: must be true or false (it is 'maybe')"),
        ({"adopt": {"x": 1}}, "p:adopt: must be true or false, not a map; write the value on the same line"),
    ],
)
def test_a_value_of_the_wrong_shape_is_described_with_what_to_write(
    settings: dict[str, Any], told: str
) -> None:
    (finding,) = findings(**settings)
    assert finding.startswith(told)
    assert "Input should" not in finding


def test_a_list_of_gpus_is_one_text() -> None:
    found = StackSettings.model_validate(
        {
            "cloud": "local",
            "storage": {"bucket": "abc"},
            "jobs": {},
            "cluster": {"gpu": ["RTX 5090", "RTX 4090 "]},
        }
    )
    assert found.cluster.gpu == "RTX 5090, RTX 4090"
