"""Which layers of FLUX.1 are trained."""

import pytest

from flux_training.training.models.layers import FLUX_LAYERS, chosen_layers


@pytest.mark.parametrize(
    ("only", "ignored", "count"),
    [
        (None, [], 19 * 14 + 38 * 6),
        (None, ["single_transformer_blocks"], 19 * 14),
        (["transformer.single_transformer_blocks.7.proj_out"], [], 1),
        (["transformer$$single_transformer_blocks$$7$$proj_out"], [], 1),
        (["single"], ["single"], 0),
        (["to_k", "to_q"], ["attn"], 0),
        (["transformer.single_transformer_blocks.38."], [], 0),
    ],
)
def test_layers_are_chosen_by_parts_of_their_names(
    only: list[str] | None, ignored: list[str], count: int
) -> None:
    found = chosen_layers(only, ignored)
    assert len(found) == count
    assert set(found) <= set(FLUX_LAYERS)
