"""Where a plan's pictures come from: links into the repository for a comment on GitHub, the bytes themselves for a page.

GitHub takes `data:` addresses out of Markdown, so a comment can only link to files; from github.com, because that also shows them of a
private repository to whoever may read it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from flux_training.clients.storage import Storage
from flux_training.commands.report.inline_images import embed
from flux_training.training.runs.plan import JobPlan
from flux_training.training.runs.run import Layout
from flux_training.training.train_yml.trainer_config import DATASET_FOLDER

SIDE = 96


class Pictures(Protocol):
    """Addresses of images; None when there is nothing to show."""

    def now(self, job: JobPlan, image: str) -> str | None:
        """The image as it is in the folder."""

    def before(self, job: JobPlan, image: str) -> str | None:
        """The image as the last run had it."""


@dataclass(frozen=True)
class InRepository:
    """Links. `repository` is its address, `commit` what is planned, `base` what was before; the checkout is the repository's root."""

    repository: str
    commit: str
    base: str

    def now(self, job: JobPlan, image: str) -> str | None:
        return self._link(self.commit, job, image)

    def before(self, job: JobPlan, image: str) -> str | None:
        return self._link(self.base, job, image)

    def _link(self, commit: str, job: JobPlan, image: str) -> str | None:
        if not job.folder:
            return None
        path = quote(f"{job.folder}/{DATASET_FOLDER}/{image}")
        return f"{self.repository.rstrip('/')}/blob/{quote(commit, safe='')}/{path}?raw=true"


@dataclass(frozen=True)
class OnPage:
    """Small copies in the page itself: from the folder, and of what was there before from the bucket."""

    root: Path
    storage: Storage
    layout: Layout

    def now(self, job: JobPlan, image: str) -> str | None:
        path = self.root / job.folder / DATASET_FOLDER / image
        return thumbnail(path.read_bytes) if job.folder and path.is_file() else None

    def before(self, job: JobPlan, image: str) -> str | None:
        key = f"{self.layout.dataset(job.dataset)}{image}"
        return thumbnail(lambda: self.storage.get_bytes(key) or b"") if job.dataset else None


def thumbnail(read: Callable[[], bytes]) -> str | None:
    """A `data:` address with a picture of at most SIDE pixels, twice that for fine screens; None for what is no image."""
    try:
        raw = read()
    except OSError:
        return None
    picture = embed(io.BytesIO(raw), 2 * SIDE)
    return picture.uri if picture else None
