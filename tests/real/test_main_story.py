"""`up`, waiting, `up` again, `destroy`: against the local cloud, or the real Kelpie API and worker (conftest.py)."""

from pathlib import Path

import pytest

from flux_training.commands.watch.follow import follow_until_ended
from flux_training.commands.watch.watcher import Watcher
from flux_training.training.runs.run_state import RunState
from tests.life.conftest import virtualenv  # noqa: F401 - a fixture of this module: its interpreters start faster
from tests.life.stacks import new_stack
from tests.real.training import NodeServices


@pytest.mark.timeout(600)
def test_up_trains_each_job_once_and_a_second_up_trains_nothing(
    services: NodeServices, tmp_path: Path
) -> None:
    stack = new_stack(tmp_path / "stack", services.home, "main", {"cat": 1, "dog": 2})
    stack.up()
    found = follow_until_ended(Watcher(stack.connection, stack.outputs()))
    assert {row.name: row.status.state for row in found.rows} == {
        "cat": RunState.COMPLETED,
        "dog": RunState.COMPLETED,
    }
    assert found.is_well
    stack.refresh()
    stack.up()
    assert sorted(job.status for job in stack.jobs()) == ["completed", "completed"]
    stack.destroy()
    assert stack.connection.salad().get_group(stack.place) is None
