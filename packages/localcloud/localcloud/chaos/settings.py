"""What is to go wrong in a local cloud, as HOME/chaos.json says; `python -m localcloud chaos` writes it, the daemon reads it.

Requests: `kelpie-403`, `salad-html`: the next N, or a seeded rate of them.
Nodes: `bad-gpu`, `full-disk`, `slow-network`: a seeded share of the machines that are rented from then on.
`interrupt`: nodes are taken away, so many an hour and node, at seeded times.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

from localcloud.home import read_json

REQUESTS = ("kelpie-403", "salad-html")
# condition of a node -> the unit of its amount (None: it has none), and the amount when none is given
CONDITIONS: dict[str, tuple[str | None, int]] = {
    "bad-gpu": (None, 0),
    "full-disk": ("kilobytes a file can still grow to", 64),
    "slow-network": ("kilobytes a second", 50),
}
INTERRUPT = "interrupt"
SECONDS_AN_HOUR = 3600

Entry = dict[str, Any]


class Chaos:
    """The file, read again whenever it has changed. Draws depend on the seed and on how many there were before.

    Used from the daemon's event loop only.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int] | None = None
        self._entries: dict[str, Entry] = {}
        self._draws: Counter[str] = Counter()

    def strikes(self, what: str) -> bool:
        """Whether this request is struck; asking counts as a request."""
        entry = self._entry(what)
        if entry is None:
            return False
        self._draws[what] += 1
        if "next" in entry:
            return self._draws[what] <= int(entry["next"])
        return self._dice(what, entry).random() < float(entry["rate"])

    def conditions(self) -> str:
        """For a node that is being started: `bad-gpu,slow-network=50`, empty for a sound one."""
        found = []
        for what, (unit, usual) in CONDITIONS.items():
            entry = self._entry(what)
            if entry is None:
                continue
            self._draws[what] += 1
            if self._dice(what, entry).random() < float(entry.get("share", 1)):
                found.append(f"{what}={entry.get('amount', usual)}" if unit else what)
        return ",".join(found)

    def lifetime(self) -> float | None:
        """Seconds until a node that is being started will be taken away; None: nothing will."""
        entry = self._entry(INTERRUPT)
        if entry is None:
            return None
        self._draws[INTERRUPT] += 1
        return self._dice(INTERRUPT, entry).expovariate(float(entry["per_hour"]) / SECONDS_AN_HOUR)

    def _dice(self, what: str, entry: Entry) -> random.Random:
        return random.Random(f"{entry.get('seed', 0)} {what} {self._draws[what]}")  # noqa: S311 - dice, no cryptography

    def _entry(self, what: str) -> Entry | None:
        try:
            status = self._path.stat()
            mark = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            mark = None
        if mark != self._mark:
            before, self._mark = self._entries, mark
            self._entries = read_json(self._path)
            for name in self._entries.keys() | before.keys():
                if self._entries.get(name) != before.get(name):
                    del self._draws[name]
        return self._entries.get(what)
