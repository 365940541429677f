from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from training.lineage import PastRun, choose_parent
from training.run import run_id

parts = st.tuples(st.binary(max_size=8), st.binary(max_size=8), st.integers(1, 3))
past_runs = st.lists(
    st.builds(
        PastRun,
        st.text("0123456789abcdef", min_size=12, max_size=12),
        st.sampled_from(["2026-01", "2026-02", "2026-03"]),
    ),
    unique_by=lambda run: run.run_id,
    max_size=5,
)


def test_a_job_without_a_run_has_no_parent() -> None:
    assert choose_parent(b"m", b"c", 1, []) is None


@given(parts, past_runs.filter(bool))
def test_the_newest_run_is_the_parent(of: tuple[bytes, bytes, int], past: list[PastRun]) -> None:
    parent = choose_parent(*of, past)
    chosen = next(run for run in past if run.run_id == parent)
    assert chosen.created_at == max(run.created_at for run in past)


@given(parts, past_runs.filter(bool))
def test_once_made_a_run_keeps_its_parent(of: tuple[bytes, bytes, int], past: list[PastRun]) -> None:
    parent = choose_parent(*of, past)
    made = PastRun(run_id(*of, parent), "2026-04")
    assert choose_parent(*of, [*past, made]) == parent
    later = PastRun("f" * 12, "2026-05")
    assert choose_parent(*of, [later, *past, made]) == parent
