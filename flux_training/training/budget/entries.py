"""What the stacks of a bucket have queued, as the names of small objects: one for each queued job, below SPENDING_FOLDER.

A name holds the day (UTC), the run and the dollars, so that one listing gives the totals of a month:
`.flux/spending/2026-11-30/3f2a…-first-0000831250.json` is $0.83125.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

# Budget entries are shared by all stacks of the bucket, so this folder is not below a stack's prefix.
SPENDING_FOLDER = ".flux/spending/"
MICRO = 1_000_000
ENTRY = re.compile(
    rf"{re.escape(SPENDING_FOLDER)}(\d{{4}}-\d\d-\d\d)/([0-9a-f]{{16}})-(first|[0-9a-f]{{8}})-(\d{{10,25}})\.json"
)


@dataclass(frozen=True)
class SpendingEntry:
    """A run that was queued, or is about to be.

    `after`: which job of the run was queued before it, as a short hash; `first` for none. So an update that was killed and is
    repeated writes the same entry, and a canceled run that is queued again writes another one.
    """

    day: date
    run: str
    after: str
    usd: float

    def is_same_job(self, other: SpendingEntry) -> bool:
        """Whether both are of the same queueing of the same run. The dollars may differ: an estimate changes."""
        return (self.day, self.run, self.after) == (other.day, other.run, other.after)

    @property
    def key(self) -> str:
        micro = round(self.usd * MICRO)
        return f"{SPENDING_FOLDER}{self.day.isoformat()}/{self.run}-{self.after}-{micro:010d}.json"


@dataclass(frozen=True)
class Spent:
    """Dollars queued on a day and in its month."""

    day: float = 0.0
    month: float = 0.0

    def plus(self, usd: float) -> Spent:
        return Spent(self.day + usd, self.month + usd)


def hash_of_run(prefix: str, job: str, run: str) -> str:
    """Identifies a run among all runs of the bucket."""
    return hashlib.sha256(f"{prefix}\0{job}\0{run}".encode()).hexdigest()[:16]


def hash_of_previous_job(kelpie_id: str) -> str:
    """`kelpie_id`: the run's job that was queued last, empty if there is none."""
    return hashlib.sha256(kelpie_id.encode()).hexdigest()[:8] if kelpie_id else "first"


def month_prefix(day: date) -> str:
    """The beginning of the keys of all entries of the day's month."""
    return f"{SPENDING_FOLDER}{day:%Y-%m}-"


def is_spending_entry(key: str) -> bool:
    return key.startswith(SPENDING_FOLDER)


def read_entries(keys: Iterable[str]) -> list[SpendingEntry]:
    """Other objects in the folder are ignored."""
    found = [match for key in keys if (match := ENTRY.fullmatch(key))]
    return [
        SpendingEntry(date.fromisoformat(day), run, after, int(micro) / MICRO)
        for day, run, after, micro in (match.groups() for match in found)
        if _is_date(day)
    ]


def spent_on(day: date, entries: Iterable[SpendingEntry]) -> Spent:
    """The totals of the day and of its month."""
    month = [entry for entry in entries if (entry.day.year, entry.day.month) == (day.year, day.month)]
    return Spent(sum(entry.usd for entry in month if entry.day == day), sum(entry.usd for entry in month))


def recorded_today(day: date, run: str, entries: Iterable[SpendingEntry]) -> float:
    """Dollars of the day's entries of a run that was never queued: a killed update left them."""
    return sum(entry.usd for entry in entries if entry.run == run and entry.day == day)


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
