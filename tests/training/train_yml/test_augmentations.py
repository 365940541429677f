"""Augmentations that albumentations stops at. Methods and parameters are those of version 1.4.15."""

from typing import Any

import pytest

from flux_training.training.train_yml.augmentations import augmentation_faults


@pytest.mark.parametrize(
    ("augmentation", "faults"),
    [
        ({"method": "HorizontalFlip"}, []),
        ({"method": "HorizontalFlip", "params": {"p": 0.5}}, []),
        ({"method": "RandomCrop", "params": {"height": 64, "width": 64}}, []),
        (
            {"method": "HorizontalFlp"},
            ["albumentations has no method 'HorizontalFlp' (did you mean `HorizontalFlip`?)"],
        ),
        ({}, ["albumentations has no method None"]),
        ({"method": ["a"]}, ["albumentations has no method ['a']"]),
        (
            {"method": "HorizontalFlip", "params": [1]},
            ["params of HorizontalFlip is [1]: must be a section with keys of its own"],
        ),
        ({"method": "HorizontalFlip", "params": {"q": 1}}, ["HorizontalFlip has no parameter q"]),
        (
            {"method": "RandomCrop", "params": {"height": 64}},
            ["RandomCrop needs the parameter width"],
        ),
    ],
)
def test_methods_and_parameters_are_checked(augmentation: dict[str, Any], faults: list[str]) -> None:
    assert list(augmentation_faults(augmentation)) == faults
