"""The stand-in trainer names its results as the table of models says."""

import runpy
from pathlib import Path

import localcloud
import pytest

from flux_training.training.models.table import MODELS, TrainableModel

KINDS = runpy.run_path(str(Path(localcloud.__file__).parent / "trainer/kinds.py"))
TABLE = list(MODELS.values())


@pytest.mark.parametrize("model", TABLE, ids=lambda model: model.name)
def test_tensors_begin_as_the_table_says(model: TrainableModel) -> None:
    for arch in model.archs:
        # Flex.1 is also loaded as FLUX.1, and named like it.
        names = KINDS["names_of"]({"arch": arch})
        assert arch in KINDS["KINDS"]
        assert names.prefix == model.tensor_prefix
        assert list(names.stages) == list(model.result_endings)
        assert len(set(names.modules)) == 6 // len(names.stages)


@pytest.mark.parametrize(
    ("section", "base"),
    [
        ({"is_flux": True}, "flux1"),
        ({"is_xl": True}, "sdxl_1.0"),
        ({"arch": "wan21:14b", "is_flux": True}, "wan_2.1"),
        ({}, "sd_1.5"),
        ({"arch": "krea2"}, "flux1"),
    ],
)
def test_the_kind_is_chosen_as_the_trainer_chooses(section: dict[str, object], base: str) -> None:
    assert KINDS["names_of"](section).base == base
