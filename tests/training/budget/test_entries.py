"""The names of the entries of what was queued."""

from datetime import date

import pytest

from flux_training.training.budget.entries import (
    SpendingEntry,
    Spent,
    hash_of_previous_job,
    hash_of_run,
    month_prefix,
    read_entries,
    spent_on,
)

DAY = date(2026, 11, 30)
MARK = hash_of_run("team/", "cat", "0123456789ab")


@pytest.mark.parametrize("usd", [0.0, 0.000001, 0.83125, 12345.678901, 1e9, 1e12])
def test_a_name_holds_day_run_and_dollars(usd: float) -> None:
    entry = SpendingEntry(DAY, MARK, hash_of_previous_job("job-1"), usd)
    assert read_entries([entry.key]) == [entry]
    assert entry.key.startswith(month_prefix(DAY))


def test_a_repeated_update_writes_the_same_entry_and_a_run_queued_again_another() -> None:
    first = SpendingEntry(DAY, MARK, hash_of_previous_job(""), 1.0)
    assert first.key.endswith(f"/{MARK}-first-0001000000.json")
    assert first.key != SpendingEntry(DAY, MARK, hash_of_previous_job("job-1"), 1.0).key
    assert hash_of_run("", "cat", "0123456789ab") != MARK


def test_other_objects_are_ignored() -> None:
    keys = (
        ".flux/spending/2026-11-30/notes.txt",
        f".flux/spending/2026-02-31/{MARK}-first-0001000000.json",
        f"team/.flux/spending/2026-11-30/{MARK}-first-0001000000.json",
    )
    assert read_entries(keys) == []


def test_a_month_has_its_days_and_no_others() -> None:
    days = (date(2026, 10, 30), date(2026, 11, 1), DAY, date(2025, 11, 30))
    entries = [SpendingEntry(day, MARK, "first", 1.0) for day in days]
    assert spent_on(DAY, entries) == Spent(day=1.0, month=2.0)
