"""Which earlier run a resumed run continues from."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_training.training.errors import BadInput
from flux_training.training.runs.lineage import Checkpoints, Parent, PastRun, choose_parent, find_past_run
from flux_training.training.runs.run import run_id

declarations = st.tuples(st.binary(max_size=8), st.binary(max_size=8), st.integers(1, 3))
past_runs = st.lists(
    st.builds(
        PastRun,
        st.text("0123456789abcdef", min_size=12, max_size=12),
        st.sampled_from(["2026-01", "2026-02"]),
    ),
    unique_by=lambda run: run.run_id,
    max_size=5,
)


@given(declarations, past_runs, st.data())
def test_an_existing_run_keeps_its_parent(
    of: tuple[bytes, bytes, int], past: list[PastRun], data: st.DataObject
) -> None:
    run_of = partial(run_id, *of)
    assert find_past_run(run_of, past) == (False, None)
    parent = data.draw(st.sampled_from([None, *(run.run_id for run in past)]))
    made = PastRun(run_of(parent), "2026-03")
    assert find_past_run(run_of, [*past, made]) == (True, parent)
    assert find_past_run(run_of, [PastRun("f" * 12, "2026-04"), made, *past]) == (True, parent)


@pytest.mark.parametrize(
    ("made_of", "found"),
    [
        ({}, (False, None)),
        ({None: "b"}, (True, None)),
        ({"a": "b"}, (True, "a")),
        ({"a": "b", None: "a"}, (True, None)),
        ({"x": "a"}, (False, None)),
    ],
)
def test_an_existing_run_is_found_by_its_parent(
    made_of: dict[str | None, str], found: tuple[bool, str | None]
) -> None:
    past = iter([PastRun("a", "2026-01"), PastRun("b", "2026-02")])
    assert find_past_run(lambda parent: made_of.get(parent, "another"), past) == found


PAST = [PastRun("a", "2026-01"), PastRun("b", "2026-02"), PastRun("c", "2026-03")]


@pytest.mark.parametrize(
    ("checkpoints", "parent"),
    [({}, None), ({"a": 5}, "a"), ({"a": 9, "b": 5}, "b"), ({"a": 5, "b": 5, "c": 5}, "c")],
)
def test_the_newest_run_with_a_valid_checkpoint_is_the_parent(
    checkpoints: dict[str, int], parent: str | None
) -> None:
    found = {run: Checkpoints(step, step) for run, step in checkpoints.items()}
    assert choose_parent("cat", 10, PAST, lambda run: found.get(run, Checkpoints())) == Parent(parent)


def test_resuming_a_finished_run_without_steps_left_is_rejected() -> None:
    found = {"a": Checkpoints(5, 5), "b": Checkpoints(10, 8, has_finished=True), "c": Checkpoints()}
    with pytest.raises(BadInput) as caught:
        choose_parent("cat", 10, PAST, found.__getitem__)
    assert caught.value.findings == [
        "job `cat`: `resume: true` would continue from step 10 of run b, but train.steps is 10; raise train.steps"
    ]
    assert choose_parent("cat", 11, PAST, found.__getitem__) == Parent("b")


@pytest.mark.parametrize(
    ("planted_in", "found", "parent"),
    [
        ("b", {"a": Checkpoints(5, 5), "b": Checkpoints(10)}, "a"),
        ("b", {"a": Checkpoints(5, 5), "b": Checkpoints(10**7, 8)}, "b"),
        ("b", {"a": Checkpoints(), "b": Checkpoints(10)}, None),
        ("b", {"a": Checkpoints(11), "b": Checkpoints(10)}, None),
    ],
)
def test_a_checkpoint_without_steps_left_that_anybody_may_have_written_is_a_finding(
    planted_in: str, found: dict[str, Checkpoints], parent: str | None
) -> None:
    chosen = choose_parent("cat", 10, PAST[:2], found.__getitem__)
    assert chosen.run_id == parent
    step = found[planted_in].newest
    assert chosen.finding.startswith(
        f"cat: `resume: true` does not continue from step {step} of run {planted_in},"
    )


def test_ties_between_runs_are_broken_by_run_id() -> None:
    past = [PastRun("b", "2026-01"), PastRun("c", "2026-01"), PastRun("a", "2026-01")]
    assert choose_parent("cat", 10, past, lambda _: Checkpoints(5, 5)) == Parent("c")
