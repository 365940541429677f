"""Addresses of a plan's pictures: links into the repository for a comment on GitHub, the bytes themselves for a page.

GitHub removes `data:` addresses from Markdown, so a comment can only link to files. Links to github.com also work in private
repositories, for those who may read them.
"""

import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from flux_training.clients.records import read_bounded
from flux_training.clients.storage import Storage
from flux_training.commands.report.inline_images import embed_image
from flux_training.training.names import VIDEO_SUFFIXES, path_in_job_folder
from flux_training.training.opening import read_regular_file
from flux_training.training.runs.plan import JobPlan
from flux_training.training.runs.run import Layout

SIDE = 96
# The maximum size of an image: a node may have replaced the image in the bucket.
MAX_IMAGE_BYTES = 64 * 1024 * 1024


class Pictures:
    """Addresses of images; None if there is nothing to show. This base class has none."""

    def now(self, _job: JobPlan, _image: str) -> str | None:
        """The image in the job's folder."""

    def before(self, _job: JobPlan, _image: str) -> str | None:
        """The image of the last run."""


@dataclass(frozen=True)
class RepositoryPictures(Pictures):
    """Links. `repository` is its address, `commit` the planned commit, `base` the one before. The checkout is the repository's root."""

    repository: str
    commit: str
    base: str

    def now(self, job: JobPlan, image: str) -> str | None:
        return self._link(self.commit, job, image)

    def before(self, job: JobPlan, image: str) -> str | None:
        return self._link(self.base, job, image)

    def _link(self, commit: str, job: JobPlan, image: str) -> str | None:
        if not job.folder or image.lower().endswith(VIDEO_SUFFIXES):
            return None
        path = quote(f"{job.folder}/{path_in_job_folder(image)}")
        return f"{self.repository.rstrip('/')}/blob/{quote(commit, safe='')}/{path}?raw=true"


@dataclass(frozen=True)
class EmbeddedPictures(Pictures):
    """Thumbnails in the page itself: of images in the folder, and of the last run's images in the bucket."""

    root: Path
    storage: Storage
    layout: Layout

    def now(self, job: JobPlan, image: str) -> str | None:
        path = self.root / job.folder / path_in_job_folder(image)
        return thumbnail(lambda: read_regular_file(path)) if job.folder and path.is_file() else None

    def before(self, job: JobPlan, image: str) -> str | None:
        key = f"{self.layout.dataset(job.dataset)}{image}"
        if not job.dataset:
            return None
        return thumbnail(lambda: read_bounded(self.storage, key, MAX_IMAGE_BYTES) or b"")


def last_commit_of_folder(folder: Path) -> str:
    """The id of the last commit in the folder's git repository; empty without one, or without git."""
    command = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - arguments of our own
    except OSError:
        return ""
    return done.stdout.strip()


def thumbnail(read: Callable[[], bytes]) -> str | None:
    """A `data:` address of a picture with at most 2 * SIDE pixels a side (for high-density screens); None if it is no image."""
    try:
        raw = read()
    except OSError:
        return None
    picture = embed_image(io.BytesIO(raw), 2 * SIDE)
    return picture.uri if picture else None
