"""Seeds for tests that try many: a few in `make test`, the rest are `long`."""

import os
from typing import Any

import pytest

FIRST_SEED = int(os.environ.get("FLUX_TEST_FIRST_SEED", "0"))


def seeds(count: int, short: int, first: int = FIRST_SEED) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: `count` seeds, all but the first `short` of them marked `long`."""
    return [
        pytest.param(first + number, marks=[pytest.mark.long] if number >= short else [])
        for number in range(count)
    ]
