"""If `up` is killed at any moment, or runs twice at once, the next `up` leaves every declared run queued exactly once.

FLUX_TEST_KILLS and FLUX_TEST_PAIRS set how many seeds `make test-long` tries, from FLUX_TEST_FIRST_SEED on. `make test` tries the first few.
"""

import os
import random
import time
from pathlib import Path

import pytest

from tests.life.stacks import Stack, kill_with_children, new_stack
from tests.support.seeds import seeds

KILLS = seeds(int(os.environ.get("FLUX_TEST_KILLS", "25")), short=2)
PAIRS = seeds(int(os.environ.get("FLUX_TEST_PAIRS", "4")), short=1)
# Longer than an `up` takes here, so that some seeds kill nothing.
LONGEST_SECONDS = {"embedded": 2.5, "cli": 8.0}


def killed_up(stack: Stack, chance: random.Random) -> None:
    """Start an `up` and kill it after a random time or a random number of requests."""
    log = stack.cloud / "requests.jsonl"
    process = stack.begin("up", "--yes", "--skip-preview")
    longest = LONGEST_SECONDS[stack.engine]
    until = time.monotonic() + longest
    if chance.random() < 0.5:
        until = time.monotonic() + chance.uniform(0, longest)
        reached = lambda: False  # noqa: E731 - the other of two ways to choose the moment
    else:
        marks = log.read_bytes().count(b"\n") + chance.randint(1, 60)
        reached = lambda: log.read_bytes().count(b"\n") >= marks  # noqa: E731 - see above
    while time.monotonic() < until and process.poll() is None and not reached():
        time.sleep(0.005)
    kill_with_children(process, and_providers=chance.random() < 0.5)
    stack.state()


@pytest.mark.parametrize("seed", KILLS)
def test_killed_at_any_moment_each_run_is_queued_once(
    seed: int, engine: str, cloud: Path, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    stack = new_stack(
        tmp_path / "stack", cloud, f"kill{seed}", {"cat": 2 * seed, "dog": 2 * seed + 1}, engine
    )
    for _ in range(chance.randint(1, 2)):
        killed_up(stack, chance)
    if chance.random() < 0.3:
        (stack.root / "jobs/cat/dataset/00001.txt").write_text(
            "tr1gger, edited after the kill", encoding="utf-8"
        )
    stack.up()
    assert stack.live_runs() == stack.declared_runs()
    assert len(stack.declared_runs()) == 2
    assert "unchanged" in stack.up()
    assert stack.live_runs() == stack.declared_runs()
    stack.destroy()
    assert stack.live_runs() == []


@pytest.mark.parametrize("seed", PAIRS)
def test_two_checkouts_at_once_queue_each_run_once(
    seed: int, engine: str, cloud: Path, tmp_path: Path
) -> None:
    """They share no state and no lock: only the claim in the bucket prevents a second paid job."""
    chance = random.Random(seed)
    jobs = {"cat": 2 * seed, "dog": 2 * seed + 1}
    pair = [new_stack(tmp_path / side, cloud, f"pair{seed}", jobs, engine) for side in ("one", "other")]
    first = pair[0].begin("up", "--yes", "--skip-preview")
    time.sleep(chance.uniform(0, 1))
    second = pair[1].begin("up", "--yes", "--skip-preview")
    for process in (first, second):
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == 0, printed
    assert pair[0].declared_runs() == pair[1].declared_runs()
    assert pair[0].live_runs() == pair[0].declared_runs()
    assert pair[0].outputs() == pair[1].outputs()
