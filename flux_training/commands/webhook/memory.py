"""What was told already, in a small file, so that a restart tells nothing twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from flux_training.training.errors import FluxError
from flux_training.training.files import write_atomically

VERSION = 1
# The oldest are forgotten: Kelpie has long stopped calling for them.
MOST_JOBS = 5000


class Memory:
    """Statuses by Kelpie's job id. Written before anything is told: what a crash interrupts is told once or never, not twice."""

    def __init__(self, path: Path) -> None:
        """Raises FluxError when the file is there and is none of ours."""
        self._path = path
        self.fresh = not path.exists()
        self.told: dict[str, list[str]] = {} if self.fresh else _read(path)

    def begin_with(self, statuses: Mapping[str, str]) -> None:
        """What happened before there was a memory is no news. Raises OSError."""
        self.told = {job: [status] for job, status in list(statuses.items())[-MOST_JOBS:]}
        self._save()

    def note(self, kelpie_id: str, status: str) -> None:
        """Raises OSError."""
        statuses = self.told.pop(kelpie_id, [])
        self.told[kelpie_id] = [*statuses, status]
        for oldest in list(self.told)[:-MOST_JOBS]:
            del self.told[oldest]
        self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps({"version": VERSION, "told": self.told}, indent=1) + "\n")
        self.fresh = False


def _read(path: Path) -> dict[str, list[str]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["version"] != VERSION:
            raise ValueError
        return {str(job): [str(status) for status in statuses] for job, statuses in value["told"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise FluxError(
            f"{path} is no memory of `flux webhook`",
            "without it jobs would be told of again",
            "delete it, then nothing that happened before is told, or choose another with --state",
        ) from None
