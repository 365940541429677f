"""With a fifth of all requests failing, `up` → change → `up` → `destroy` ends as it does without faults.

FLUX_FAULT_SEEDS (`1-3`, `1-200`, `7,9`) says which seeds; many at once: `python -m tests.faults.story 1-200`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.faults.story import play, problems, seeds_of
from tests.support.contracts import unaccepted

SEEDS = os.environ.get("FLUX_FAULT_SEEDS", "1-3")


@pytest.mark.timeout(0)  # as long as the seeds take; each command has a limit of its own
def test_seeded_faults_change_nothing_in_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    without = play(tmp_path / "without", None)
    assert without.leaks == []
    assert set(without.posts.values()) == {1}
    # What the product asks and what it is answered, as a user's day goes: as the services' own documents say.
    assert unaccepted(without.exchanges) == set()
    for seed in seeds_of(SEEDS):
        story = play(tmp_path / str(seed), seed)
        assert problems(story, without.pictures) == [], story.output
        with capfd.disabled():
            print(f"\n{request.node.name}: {story.line}", file=sys.stderr)
