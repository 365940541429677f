"""Records what is queued in the bucket, and keeps the stacks that share it within the limits of a day and a month.

Each queued job has an entry (flux_training/training/budget/entries.py), also one with which a watcher replaces another. It is written before the totals are listed, and the job is
posted only if they are within the limits. Of two updates at the same time, the one whose entry is written last therefore sees both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from threading import Lock
from typing import Any

from pydantic import ValidationError

from flux_training.clients.errors import Conflict
from flux_training.clients.results import posted_job_id, read_json
from flux_training.clients.storage import Storage
from flux_training.training.budget.entries import (
    SpendingEntry,
    hash_of_previous_job,
    hash_of_run,
    month_prefix,
    read_entries,
    spent_on,
)
from flux_training.training.budget.limits import describe_exceeded_limit
from flux_training.training.cluster_settings import BudgetSettings
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import Layout, RunKeys

# The threads of one update reserve one after the other: they would see each other's entries, and both would give up.
_reserving = Lock()


@dataclass(frozen=True)
class Reservation:
    """What queueing a run counts against the limits, in dollars."""

    usd: float
    budget: BudgetSettings

    @property
    def to_details(self) -> dict[str, Any]:
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
    return read_entries(item.key for item in storage.list(month_prefix(day)))


def keep_entries_of_deleted_runs(storage: Storage, layout: Layout) -> None:
    """Rename this month's entries of the stack's queued runs, before their records are deleted.

    Without its records, a run that is queued again would write its first entry once more, and count once.
    """
    posted = [item.key for item in storage.list(layout.run_records) if item.key.endswith("/posted.json")]
    entries = read_spending(storage, today()) if posted else []
    for key in posted:
        job, run = key.removeprefix(layout.run_records).split("/")[:2]
        mark = hash_of_run(layout.prefix, job, run)
        for entry in [one for one in entries if one.run == mark]:
            kept = replace(
                entry, run=hash_of_run(mark, "deleted", posted_job_id(storage, layout.run(job, run)))
            )
            storage.put_bytes(kept.key, canonical_json({"job": job, "run": run, "usd": entry.usd}))
            storage.delete_many([entry.key])


def reserve(
    storage: Storage,
    prefix: str,
    keys: RunKeys,
    reservation: Reservation,
    again: str,
    replaced: str = "",
) -> None:
    """Record that the run is queued. Raises FluxError if it does not fit any more; `again`: the command to suggest.

    `replaced`: the id of the run's last job in the queue; by default the last one that is recorded, which is none if an update was
    killed right after its post.
    """
    after = hash_of_previous_job(replaced or posted_job_id(storage, keys))
    entry = SpendingEntry(today(), hash_of_run(prefix, keys.job, keys.run), after, reservation.usd)
    body = canonical_json({"job": keys.job, "run": keys.run, "prefix": prefix} | reservation.to_details)
    with _reserving:
        is_new = _write_unless_exists(storage, entry.key, body)
        if not reservation.budget.has_spending_limits:
            return
        found = read_spending(storage, entry.day)
        why = _why_over_budget(found, entry, reservation.budget)
        if not why:
            # An update that was killed may have left entries of this job with an older estimate, so they are deleted.
            storage.delete_many([one.key for one in found if one.is_same_job(entry) and one.key != entry.key])
            return
        # Keep entries that existed before: the update that wrote one may have posted the job before it was killed.
        storage.delete_many([entry.key] if is_new else [])
    raise _over_budget_error(keys, why, again)


def _why_over_budget(found: Sequence[SpendingEntry], entry: SpendingEntry, budget: BudgetSettings) -> str:
    others = [one for one in found if not one.is_same_job(entry)]
    return describe_exceeded_limit(entry.usd, spent_on(entry.day, others), budget)


def _over_budget_error(keys: RunKeys, why: str, again: str) -> FluxError:
    return FluxError(
        f"{keys.job} no longer fits in the budget: other jobs have been queued in the meantime",
        why,
        f"run {again} again: it queues the jobs that fit, and lists those that wait",
    )


def _write_unless_exists(storage: Storage, key: str, body: bytes) -> bool:
    """False if the object was there."""
    try:
        storage.put_bytes(key, body, if_none_match=True)
    except Conflict:
        return False
    return True


def reserve_budget_again(storage: Storage, prefix: str, keys: RunKeys, replaced: str, again: str) -> None:
    """Record that a watcher queues the run once more, with the cost and the limits of its last entry.

    `replaced`: the job that was canceled for that. Nothing is recorded for a run without an entry this month or last month, whose cost
    is unknown. Raises FluxError if it does not fit.
    """
    mark, day = hash_of_run(prefix, keys.job, keys.run), today()
    found = read_spending(storage, day)
    last_month = read_spending(storage, day.replace(day=1) - timedelta(days=1))
    own = [entry for entry in (*last_month, *found) if entry.run == mark]
    if not own:
        return
    last = max(own, key=lambda entry: entry.day)
    reservation = Reservation(last.usd, _limits_of(storage, last))
    # Check the limits before writing anything, because a watcher tries again at each poll.
    entry = SpendingEntry(day, mark, hash_of_previous_job(replaced), last.usd)
    if why := _why_over_budget(found, entry, reservation.budget):
        raise _over_budget_error(keys, why, again)
    reserve(storage, prefix, keys, reservation, again, replaced)


def _limits_of(storage: Storage, entry: SpendingEntry) -> BudgetSettings:
    """Those of the update that wrote the entry; none in entries of earlier versions."""
    try:
        return BudgetSettings.model_validate((read_json(storage, entry.key) or {}).get("budget", {}))
    except ValidationError:
        return BudgetSettings()
