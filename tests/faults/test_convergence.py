"""With a fifth of all requests failing, `up`, a change, another `up` and `destroy` end as they do without faults.

FLUX_TEST_FAULT_SEEDS sets how many seeds `make test-long` tries. Many at once: `python -m tests.faults.story 1-200`.
"""

import os
from pathlib import Path

import pytest

from tests.faults.story import Story, play, problems
from tests.support.contracts import unaccepted
from tests.support.seeds import seeds

SEEDS = seeds(int(os.environ.get("FLUX_TEST_FAULT_SEEDS", "4")), short=0, first=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return play(tmp_path_factory.mktemp("undisturbed") / "story", None)


@pytest.mark.long
def test_without_faults_each_run_is_posted_once_in_requests_that_the_services_document(
    undisturbed: Story,
) -> None:
    assert undisturbed.leaks == []
    assert set(undisturbed.posts.values()) == {1}
    assert unaccepted(undisturbed.exchanges) == set()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_faults_change_nothing_in_the_end(seed: int, undisturbed: Story, tmp_path: Path) -> None:
    story = play(tmp_path / "story", seed)
    print(story.line)
    assert problems(story, undisturbed.contents) == [], story.output
