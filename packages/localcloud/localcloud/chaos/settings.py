"""The active faults in HOME/chaos.json, which `localcloud chaos` writes and the daemon reads.

`kelpie-403`, `salad-html`: the next N requests fail, or a share of them.
`bad-gpu`, `full-disk`, `slow-network`: affect a share of the machines that are rented from then on.
`interrupt`: takes each node away N times an hour on average.

Shares and times are drawn with a seed.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

from localcloud.home import read_json

REQUESTS = ("kelpie-403", "salad-html")
# For each fault of a machine: the unit of its amount (None if it has no amount), and the default amount.
CONDITIONS: dict[str, tuple[str | None, int]] = {
    "bad-gpu": (None, 0),
    "full-disk": ("maximum size of a file in kilobytes", 64),
    "slow-network": ("kilobytes a second", 50),
}
INTERRUPT = "interrupt"
SECONDS_AN_HOUR = 3600

Entry = dict[str, Any]


class Chaos:
    """Reads the file again whenever it changes. A draw depends on the seed and the number of earlier draws."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int] | None = None
        self._entries: dict[str, Entry] = {}
        self._draws: Counter[str] = Counter()

    def is_due(self, what: str) -> bool:
        """Whether this request fails. Each call counts as a request."""
        entry = self._entry(what)
        if entry is None:
            return False
        self._draws[what] += 1
        if "next" in entry:
            return self._draws[what] <= int(entry["next"])
        return self._random(what, entry).random() < float(entry["rate"])

    def draw_conditions(self) -> str:
        """The conditions of a new node, such as `bad-gpu,slow-network=50`; empty for a good one."""
        found = []
        for what, (unit, default) in CONDITIONS.items():
            entry = self._entry(what)
            if entry is None:
                continue
            self._draws[what] += 1
            if self._random(what, entry).random() < float(entry.get("share", 1)):
                found.append(f"{what}={entry.get('amount', default)}" if unit else what)
        return ",".join(found)

    def draw_lifetime(self) -> float | None:
        """Seconds until a new node is taken away, or None."""
        entry = self._entry(INTERRUPT)
        if entry is None:
            return None
        self._draws[INTERRUPT] += 1
        return self._random(INTERRUPT, entry).expovariate(float(entry["per_hour"]) / SECONDS_AN_HOUR)

    def _random(self, what: str, entry: Entry) -> random.Random:
        return random.Random(f"{entry.get('seed', 0)} {what} {self._draws[what]}")  # noqa: S311 (not for cryptography)

    def _entry(self, what: str) -> Entry | None:
        try:
            status = self._path.stat()
            version = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            version = None
        if version != self._version:
            before, self._version = self._entries, version
            self._entries = read_json(self._path)
            for name in self._entries.keys() | before.keys():
                if self._entries.get(name) != before.get(name):
                    del self._draws[name]
        return self._entries.get(what)
