"""The table of ai-toolkit's keys fits the images, the stand-in trainer and the settings of a stack."""

import re
from pathlib import Path

import pytest

from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.jobs.declare import trainer_date
from flux_training.training.settings import ImageSettings, StackSettings, StorageSettings
from flux_training.training.train_yml.trainer_keys import DATE, TRAINER_KEYS, VERSION, KeyType, entries
from flux_training.training.train_yml.trainer_version import (
    PINNED_DATE,
    PINNED_VERSION,
    PUBLIC_IMAGE_DATE,
    version_warning,
)

ROOT = Path(__file__).resolve().parents[3]


def test_the_stand_in_is_of_the_tables_version() -> None:
    text = (ROOT / "packages/localcloud/localcloud/trainer/version.py").read_text(encoding="utf-8")
    assert f'VERSION = "{VERSION}"' in text


def test_the_pinned_version_is_that_of_the_image() -> None:
    commit = re.search(
        r"AI_TOOLKIT_COMMIT=(\w{8})", (ROOT / "docker/Dockerfile.base").read_text(encoding="utf-8")
    )
    assert commit
    readme = (ROOT / "docker/README.md").read_text(encoding="utf-8")
    assert f"commit {commit[1]} ({PINNED_VERSION}, {PINNED_DATE})" in readme


@pytest.mark.parametrize(
    ("cloud", "cluster", "builds", "expected"),
    [
        ("local", {}, False, DATE),
        ("salad", {}, False, PUBLIC_IMAGE_DATE),
        ("salad", {"image": "docker.io/me/trainer:1"}, False, DATE),
        ("salad", {"image": "docker.io/me/trainer:1", "trainerDate": "2026-01-01"}, False, "2026-01-01"),
        ("salad", {}, True, PINNED_DATE),
    ],
)
def test_the_stacks_image_tells_the_trainers_date(
    cloud: str, cluster: dict[str, str], builds: bool, expected: str
) -> None:
    settings = StackSettings.model_construct(
        cloud=cloud,
        cluster=ClusterSettings.model_validate(cluster),
        image=ImageSettings.model_construct(build=builds),
        storage=StorageSettings(bucket="bucket"),
    )
    assert trainer_date(settings, "") == expected


@pytest.mark.parametrize(
    ("reported", "warns"),
    [("", False), (VERSION, False), (f"{VERSION} 27a03a91", False), (PINNED_VERSION, False), ("0.5.1", True)],
)
def test_a_version_that_lint_does_not_know_is_a_warning(reported: str, warns: bool) -> None:
    assert bool(version_warning(reported)) == warns


def test_choices_and_conditions_of_the_table_make_sense() -> None:
    for section, keys in TRAINER_KEYS.items():
        for key, spec in keys.items():
            assert not spec.choices or spec.type in (KeyType.CHOICE, KeyType.LIST), (section, key)
            assert spec.choices_since.keys() <= set(spec.choices), (section, key)
            assert {condition.partition("=")[0] for condition in spec.when} <= keys.keys(), (section, key)


def test_entries_name_unknown_keys_and_places() -> None:
    process = {"train": {"stepz": 1}, "datasets": [{"resolution": 512}], "sample": {"samples": [{"seed": 1}]}}
    found = {entry.name: entry.spec is not None for entry in entries(process)}
    assert found == {
        "train": True,
        "train.stepz": False,
        "datasets": True,
        "datasets[0].resolution": True,
        "sample": True,
        "sample.samples": True,
        "sample.samples[0].seed": True,
    }
