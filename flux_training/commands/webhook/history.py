"""A file with the notices sent so far, so that a restart repeats none."""

import json
from collections.abc import Mapping
from pathlib import Path

from flux_training.training.errors import FluxError
from flux_training.training.files import write_atomically

VERSION = 1
# The maximum number of entries. The oldest are deleted: Kelpie no longer sends calls for them.
MAX_JOBS = 5000


class NoticeHistory:
    """The reported statuses by Kelpie job id. Written before a notice is sent, so that a crash cannot cause a second one."""

    def __init__(self, path: Path) -> None:
        """Raises FluxError if the file exists and is not a history."""
        self._path = path
        self.is_new = not path.exists()
        self.statuses: dict[str, list[str]] = {} if self.is_new else _read(path)

    def record_baseline(self, statuses: Mapping[str, str]) -> None:
        """Record what happened before there was a history; it is not reported. Raises OSError."""
        self.statuses = {job: [status] for job, status in list(statuses.items())[-MAX_JOBS:]}
        self._save()

    def add(self, kelpie_id: str, status: str) -> None:
        """Raises OSError."""
        self.statuses[kelpie_id] = [*self.statuses.pop(kelpie_id, []), status]
        for oldest in list(self.statuses)[:-MAX_JOBS]:
            del self.statuses[oldest]
        self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps({"version": VERSION, "told": self.statuses}, indent=1) + "\n")
        self.is_new = False


def _read(path: Path) -> dict[str, list[str]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["version"] != VERSION:
            raise ValueError
        return {str(job): [str(status) for status in statuses] for job, statuses in value["told"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise FluxError(
            f"{path} is not a history file of `flux webhook`",
            "without its history, jobs would be reported again",
            "delete it (what happened before is then not reported), or give another file with --state",
        ) from None
