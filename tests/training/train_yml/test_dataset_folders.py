"""Which folders a train.yml uses."""

from typing import Any

import pytest

from flux_training.training.train_yml.dataset_folders import (
    DATASET_ALONE,
    FolderKind,
    FolderUse,
    folder_name,
    folder_uses,
    sample_controls,
)

TRAINING, CONTROL = FolderKind.TRAINING, FolderKind.CONTROL


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *(("control", "control"), ("./control/", "control"), ("reg_1", "reg_1"), ("dataset", "dataset")),
        *(
            ("/control", ""),
            ("control/x", ""),
            ("../control", ""),
            ("Control", ""),
            ("toolkit", ""),
            (7, ""),
            (None, ""),
        ),
    ],
)
def test_names_of_folders(path: object, name: str) -> None:
    assert folder_name(path) == name


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, [("dataset", TRAINING)]),
        ({"is_reg": True}, [("dataset", FolderKind.REGULARIZATION)]),
        ({"control_path": "control"}, [("dataset", TRAINING), ("control", CONTROL)]),
        (
            {"control_path": ["control", "reg"]},
            [("dataset", TRAINING), ("control", CONTROL), ("reg", CONTROL)],
        ),
        # ai-toolkit ignores control_path beside these.
        (
            {"control_path": "mask", "control_path_1": "control", "control_path_3": "control-b"},
            [("dataset", TRAINING), ("control", CONTROL), ("control-b", CONTROL)],
        ),
        ({"control_path": "", "mask_path": "mask"}, [("dataset", TRAINING), ("mask", FolderKind.MASK)]),
        ({"control_path": "/elsewhere"}, [("dataset", TRAINING)]),
    ],
)
def test_uses_of_one_dataset(entry: dict[str, Any], expected: list[tuple[str, FolderKind]]) -> None:
    uses = folder_uses({"datasets": [{"folder_path": "dataset", **entry}]})
    assert uses == tuple(FolderUse(folder, kind, "dataset") for folder, kind in expected)


@pytest.mark.parametrize(
    "process", [{}, {"datasets": None}, {"datasets": ["dataset", {"folder_path": "/data"}]}]
)
def test_without_a_valid_folder_the_dataset_is_trained(process: dict[str, Any]) -> None:
    assert folder_uses(process) == DATASET_ALONE


def test_control_images_of_samples() -> None:
    """In both forms that ai-toolkit reads; it ignores `prompts` beside `samples`."""
    prompts = ["a cat --ctrl_img control/1.png --w 512", "a dog", 7]
    assert list(sample_controls({"sample": {"prompts": prompts}})) == [
        (("sample", "prompts", "0"), "control/1.png")
    ]
    samples = [{"prompt": "a cat", "ctrl_img": "reg/1.png", "ctrl_img_2": ""}]
    found = list(sample_controls({"sample": {"prompts": prompts, "samples": samples}}))
    assert found == [(("sample", "samples", "0", "ctrl_img"), "reg/1.png")]
