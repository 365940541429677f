"""The table of ai-toolkit's keys fits the images, the stand-in trainer and the settings of a stack."""

import re
from pathlib import Path

import pytest

from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.jobs.declare import trainer_date
from flux_training.training.settings import ImageSettings, StackSettings, StorageSettings
from flux_training.training.train_yml.trainer_keys import (
    DATE,
    LR_SCHEDULERS,
    OPTIMIZERS,
    TRAINER_KEYS,
    VERSION,
    KeySpec,
    KeyType,
    entries,
    parse_condition,
)
from flux_training.training.train_yml.trainer_version import (
    FIRST_DAYS,
    NEWEST,
    PINNED,
    PUBLIC_IMAGE_DATE,
    TrainerCommit,
    version_mismatch,
)

ROOT = Path(__file__).resolve().parents[3]


def test_the_stand_in_is_of_the_tables_version() -> None:
    text = (ROOT / "packages/localcloud/localcloud/trainer/version.py").read_text(encoding="utf-8")
    assert f'VERSION = "{VERSION}"' in text


def test_the_image_has_the_pinned_commit() -> None:
    text = (ROOT / "docker/Dockerfile.base").read_text(encoding="utf-8")
    assert re.findall(r"AI_TOOLKIT_COMMIT=(\w+)", text) == [PINNED.commit]
    readme = (ROOT / "docker/README.md").read_text(encoding="utf-8")
    assert f"commit {PINNED.commit[:8]} ({PINNED.version}, {PINNED.date})" in readme


@pytest.mark.parametrize("commit", [PINNED, NEWEST], ids=lambda commit: commit.version)
def test_versions_and_days_of_the_known_commits_agree(commit: TrainerCommit) -> None:
    assert version_mismatch(f"{commit.version} {commit.commit[:8]}", commit.date) is None


def test_versions_are_listed_in_the_order_of_their_days() -> None:
    assert list(FIRST_DAYS.values()) == sorted(FIRST_DAYS.values())
    assert list(FIRST_DAYS)[-1] == NEWEST.version


@pytest.mark.parametrize(
    ("cloud", "cluster", "builds", "expected"),
    [
        ("local", {}, False, DATE),
        ("salad", {}, False, PUBLIC_IMAGE_DATE),
        ("salad", {"image": "docker.io/me/trainer:1"}, False, DATE),
        ("salad", {"image": "docker.io/me/trainer:1", "trainerDate": "2026-01-01"}, False, "2026-01-01"),
        ("salad", {}, True, PINNED.date),
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
    ("reported", "assumed", "date"),
    [
        ("0.12.26 27a03a91", DATE, None),
        ("0.12.26", "2027-01-01", None),
        ("0.11.0", "2026-07-21", None),
        ("0.11.0", "2026-07-22", None),
        ("0.11.0", DATE, "2026-07-21"),
        ("0.5.0", PUBLIC_IMAGE_DATE, FIRST_DAYS["0.5.0"]),
        ("0.2.0", PUBLIC_IMAGE_DATE, "2025-03-20"),
        ("0.13.0", DATE, ""),
        ("", DATE, None),
    ],
)
def test_a_node_with_another_version_than_lint_assumed_is_noticed(
    reported: str, assumed: str, date: str | None
) -> None:
    found = version_mismatch(reported, assumed)
    assert (found and found.date) == date


def test_choices_and_conditions_of_the_table_make_sense() -> None:
    for section, keys in TRAINER_KEYS.items():
        for key, spec in keys.items():
            assert not spec.choices or spec.type in (KeyType.CHOICE, KeyType.LIST, KeyType.PATH), (
                section,
                key,
            )
            assert spec.choices_since.keys() <= set(spec.choices), (section, key)
            for condition in spec.when:
                above, name, _, _ = parse_condition(condition)
                assert name in TRAINER_KEYS[above or section], (section, key, condition)


def test_a_key_that_takes_any_value_has_a_reason() -> None:
    for table in (TRAINER_KEYS, OPTIMIZERS, LR_SCHEDULERS):
        for section, keys in table.items():
            for key, spec in keys.items():
                assert (spec.type == KeyType.ANY) == bool(spec.why), (section, key)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("use_ema", True),
        ("arch=flux2", True),
        ("arch=flux", False),
        ("num_frames>1", True),
        ("num_frames>2", False),
        ("datasets[].is_reg", True),
        ("datasets[].do_audio", False),
        ("model.compile", False),
    ],
)
def test_keys_are_used_under_conditions(condition: str, holds: bool) -> None:
    section = {"use_ema": 1, "arch": "flux2:tag", "num_frames": 2}
    process = {"datasets": [{}, {"is_reg": True}, "text"], "model": "text"}
    spec = KeySpec(KeyType.NUMBER, when=("nothing", condition))
    assert spec.is_used(section, process) == holds


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
