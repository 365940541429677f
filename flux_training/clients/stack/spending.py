"""Records what is queued in the bucket, and keeps the stacks that share it within the limits of a day and a month.

Each queued job has an entry (flux_training/training/budget/entries.py). It is written before the totals are listed, and the job is
posted only if they are within the limits. Of two updates at the same time, the one whose entry is written last therefore sees both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from threading import Lock
from typing import Any

from flux_training.clients.results import posted_id
from flux_training.clients.storage import Storage
from flux_training.training.budget.entries import (
    SpendingEntry,
    month_folder,
    queued_after,
    read_entries,
    run_mark,
    spent_on,
)
from flux_training.training.budget.limits import does_not_fit
from flux_training.training.cluster_settings import BudgetSettings
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import Layout, RunKeys

# Two threads of one update would see each other's entry, and both give up.
_reserving = Lock()


@dataclass(frozen=True)
class Reservation:
    """What queueing a run counts against the limits, in dollars."""

    usd: float
    budget: BudgetSettings

    @property
    def in_details(self) -> dict[str, Any]:
        """As prepared runs store it."""
        return {"usd": self.usd, "budget": self.budget.model_dump(by_alias=True)}

    @staticmethod
    def from_details(found: Mapping[str, Any] | None) -> "Reservation | None":
        return (
            Reservation(float(found["usd"]), BudgetSettings.model_validate(found["budget"]))
            if found
            else None
        )


def today() -> date:
    return datetime.now(UTC).date()


def read_spending(storage: Storage, day: date) -> list[SpendingEntry]:
    """What all stacks of the bucket queued in the day's month."""
    return read_entries(item.key for item in storage.list(month_folder(day)))


def keep_entries_of_deleted_runs(storage: Storage, layout: Layout) -> None:
    """Rename this month's entries of the stack's queued runs, before their records are deleted.

    Without its records, a run that is queued again would write its first entry once more, and count once.
    """
    posted = [item.key for item in storage.list(layout.run_records) if item.key.endswith("/posted.json")]
    entries = read_spending(storage, today()) if posted else []
    for key in posted:
        job, run = key.removeprefix(layout.run_records).split("/")[:2]
        mark = run_mark(layout.prefix, job, run)
        for entry in [one for one in entries if one.run == mark]:
            kept = replace(entry, run=run_mark(mark, "deleted", posted_id(storage, layout.run(job, run))))
            storage.put_bytes(kept.key, canonical_json({"job": job, "run": run, "usd": entry.usd}))
            storage.delete_many([entry.key])


def reserve(storage: Storage, prefix: str, keys: RunKeys, reservation: Reservation, again: str) -> None:
    """Record that the run is queued. Raises FluxError if it does not fit any more; `again`: the command to suggest."""
    after = queued_after(posted_id(storage, keys))
    entry = SpendingEntry(today(), run_mark(prefix, keys.job, keys.run), after, reservation.usd)
    body = canonical_json({"job": keys.job, "run": keys.run, "prefix": prefix, "usd": reservation.usd})
    with _reserving:
        storage.put_bytes(entry.key, body)
        if not reservation.budget.limits_spending:
            return
        found = read_spending(storage, entry.day)
        others = [one for one in found if not one.is_same_job(entry)]
        why = does_not_fit(entry.usd, spent_on(entry.day, others), reservation.budget)
        # Of a killed update, with an older estimate.
        replaced = [one.key for one in found if one.is_same_job(entry) and one != entry]
        storage.delete_many([*replaced, entry.key] if why else replaced)
        if not why:
            return
    raise FluxError(
        f"{keys.job} no longer fits in the budget: another update has queued jobs in the meantime",
        why,
        f"run {again} again: it queues what fits, and says what waits",
    )
