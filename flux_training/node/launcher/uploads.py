"""Puts what the trainer has finished into the folder that the worker uploads from.

The worker uploads each change in that folder and deletes in the bucket what is deleted there. It would upload a file that
is still being written, so files appear there whole, by a rename:
- weights and samples as hard links, since the trainer never changes them once they are written;
- everything else as a copy: ai-toolkit rewrites optimizer.pt in place.
Checkpoints that are not sound are never put there. Restored files are not either, so they are not uploaded again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from flux_training.node.launcher.errors import RunEndedError, UnsoundFileError
from flux_training.node.launcher.process import say
from flux_training.node.launcher.restore import OPTIMIZER
from flux_training.node.launcher.settings import UPLOAD_FOLDER, WEIGHTS_SUFFIX, RunSettings
from flux_training.node.launcher.weights import is_whole_zip, sha256, weights_step

STAGING_FOLDER = Path(".upload-staging")
# The trainer's folder for unfinished samples: ai-toolkit writes them there and then renames them.
TEMPORARY_FOLDER = ".tmp"
SAMPLES_FOLDER = "samples"
RESEND_SECONDS = 60.0
MAX_FILES = 20_000


@dataclass(frozen=True)
class FileVersion:
    """Tells one state of a file from another."""

    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> FileVersion:
        status = path.lstat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class UploadFolder:
    """Mirrors the trainer's output folder, in a thread between `start` and `stop`.

    `on_pruned` is called with the name of a restored file that the trainer has deleted. `digests` gets the SHA-256 of each
    checkpoint.
    """

    def __init__(
        self,
        settings: RunSettings,
        restored: Iterable[str],
        on_pruned: Callable[[str], None],
        digests: dict[str, str],
    ) -> None:
        self._job, self._source, self._on_pruned = settings.job, settings.output_folder, on_pruned
        self._restored, self._digests = set(restored), digests
        self._pause = settings.limits.scan_seconds
        self._seen = self._scan()
        # The versions of files that need no further action: they were put into the upload folder, restored or refused.
        self._done = dict(self._seen)
        self._put_at: dict[str, float] = {}
        self._resend_at: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Call it once the trainer has ended: all it has written is complete now."""
        self._ended.set()
        self._thread.join()
        try:
            self._update(self._scan(), is_final=True)
        # The weights of a finished run are not affected: they are uploaded from another folder.
        except OSError as error:
            say(f"launch: the last files are not uploaded: {error}")
        shutil.rmtree(STAGING_FOLDER, ignore_errors=True)

    def abandon(self) -> None:
        """Puts nothing more: the worker uploads nothing after a cancel or an interruption."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._pause):
            try:
                self._update(self._scan(), is_final=False)
            except RunEndedError:
                return
            except Exception as error:  # noqa: BLE001 - the next scan may succeed, and training must go on
                say(f"launch: uploads: {type(error).__name__}: {error}")

    def _scan(self) -> dict[str, FileVersion]:
        found: dict[str, FileVersion] = {}
        for folder, folders, names in os.walk(self._source, onerror=_raise_unless_deleted):
            folders[:] = [name for name in folders if name != TEMPORARY_FOLDER]
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    if stat.S_ISREG(path.lstat().st_mode) and len(found) < MAX_FILES:
                        found[path.relative_to(self._source).as_posix()] = FileVersion.of(path)
        return found

    def _update(self, found: dict[str, FileVersion], *, is_final: bool) -> None:
        for name in sorted(self._done.keys() - found.keys() - (set() if is_final else self._seen.keys())):
            self._remove(name)
        # Put the oldest files first: linking a file sets its ctime to now, and ai-toolkit resumes from the file with the newest
        # ctime (restore.py).
        for name, version in sorted(found.items(), key=lambda item: item[1].modified_ns):
            is_settled = is_final or self._seen.get(name) == version
            if is_settled and self._done.get(name) != version and self._put(name, version):
                self._done[name] = version
        self._resend()
        self._seen = found

    def _remove(self, name: str) -> None:
        del self._done[name]
        self._put_at.pop(name, None)
        self._resend_at.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            (UPLOAD_FOLDER / name).unlink()
        if name in self._restored:
            self._restored.discard(name)
            self._on_pruned(name)

    def _put(self, name: str, version: FileVersion) -> bool:
        """True when this version needs nothing more. False when the file has changed meanwhile."""
        staged = STAGING_FOLDER / name.replace("/", "__")
        STAGING_FOLDER.mkdir(exist_ok=True)
        try:
            self._stage(name, staged)
            if FileVersion.of(self._source / name) != version:
                return False
            if fault := self._fault(name, staged):
                say(f"launch: {name} is not uploaded: {fault}")
                return True
            if self._is_checkpoint(name):
                self._digests[name] = sha256(staged)
            (UPLOAD_FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
            staged.replace(UPLOAD_FOLDER / name)
        except FileNotFoundError:
            return False
        finally:
            # The staged file still exists if both names were hard links to the same file: renaming does nothing then.
            staged.unlink(missing_ok=True)
        # From now on the worker itself deletes the object if the file is deleted.
        self._restored.discard(name)
        self._note_put(name)
        return True

    def _stage(self, name: str, staged: Path) -> None:
        source = self._source / name
        if name.endswith(WEIGHTS_SUFFIX) or name.startswith(f"{SAMPLES_FOLDER}/"):
            # A hard link fails on another device, or if the file system has none.
            with contextlib.suppress(OSError):
                os.link(source, staged)
                return
        shutil.copyfile(source, staged)

    def _fault(self, name: str, staged: Path) -> str | None:
        if name == OPTIMIZER and not is_whole_zip(staged):
            return "it is not complete"
        if self._is_checkpoint(name):
            try:
                weights_step(staged)
            except UnsoundFileError as error:
                return str(error)
        return None

    def _is_checkpoint(self, name: str) -> bool:
        return name.startswith(self._job) and name.endswith(WEIGHTS_SUFFIX)

    def _note_put(self, name: str) -> None:
        """The worker drops a change that comes while it uploads the file. So a copy that changed soon again is sent twice."""
        at = time.monotonic()
        if at - self._put_at.get(name, -RESEND_SECONDS) < RESEND_SECONDS:
            self._resend_at[name] = at + RESEND_SECONDS
        self._put_at[name] = at

    def _resend(self) -> None:
        for name, due in list(self._resend_at.items()):
            if time.monotonic() >= due:
                del self._resend_at[name]
                with contextlib.suppress(FileNotFoundError):
                    os.utime(UPLOAD_FOLDER / name)


def _raise_unless_deleted(error: OSError) -> None:
    """A folder that cannot be read does not mean that its files were deleted."""
    if not isinstance(error, FileNotFoundError):
        raise error
