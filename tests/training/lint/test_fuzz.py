"""A short run of `python -m tests.training.lint.fuzz_folders --seeds 20000`."""

from pathlib import Path

from flux_training.training.jobs.lint import lint_jobs
from tests.training.lint.fuzz_folders import bomb, try_seeds
from tests.training.lint_folders import make_clean_job, stack

SEEDS = range(500_000, 500_150)


def test_random_folders_are_valid_or_reported() -> None:
    outcomes, rules, faults = try_seeds(SEEDS)
    print(f"\n{len(SEEDS)} folders: {dict(outcomes)}, {len(rules)} rules with findings")
    assert faults == []
    assert outcomes["valid"]
    assert outcomes["explained"]


def test_aliases_that_expand_to_a_billion_values_are_rejected(tmp_path: Path) -> None:
    folder = make_clean_job(tmp_path / "jobs", "cat")
    (folder / "train.yml").write_bytes(bomb())
    (finding,) = lint_jobs(stack(cat={}), tmp_path).errors
    assert (finding.code, finding.line is not None) == ("config-value", True)
