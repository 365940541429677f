"""The `during` sync: what changes in a folder goes to the bucket, what is deleted is deleted there.

As the worker does with chokidar (src/files.ts, src/index.ts):
- a folder that does not exist when the watch begins is never looked at;
- files that are there when it begins are not uploaded until they change;
- a file is uploaded once its size has not changed for 0.2 s, after 5 s in any case: a file that is written for
  longer than that arrives cut;
- a change that comes while the same file is being uploaded is lost;
- when the command has ended nothing more is noticed, but uploads that have begun go on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from localcloud.worker.transfer import Transfers

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
STABLE_SECONDS, STABLE_CHECKS, MOST_WAIT_SECONDS = 0.05, 4, 5.0
Mark = tuple[int, int, int]


class FolderWatch:
    """One `during` entry, from its making to `stop()`."""

    def __init__(
        self, folder: Path, entry: dict[str, Any], transfers: Transfers, *, compressed: bool
    ) -> None:
        self._folder, self._entry, self._transfers, self._compressed = folder, entry, transfers, compressed
        self._seen: dict[Path, Mark] = {}
        self._busy: set[Path] = set()
        self._waiting: dict[Path, Future[None]] = {}
        self._stop = threading.Event()
        self._pool, self._uploads = ThreadPoolExecutor(16), ThreadPoolExecutor(8)
        self._thread = threading.Thread(target=self._look, daemon=True, name=f"watch-{folder.name}")
        if entry["local_path"].startswith(".") or not folder.is_dir():
            log.warning("%s is not there: nothing of it will be uploaded", entry["local_path"])
            return
        self._thread.start()

    def _scan(self) -> dict[Path, Mark]:
        found: dict[Path, Mark] = {}
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        return found

    def _look(self) -> None:
        self._seen = self._scan()
        while not self._stop.wait(LOOK_SECONDS):
            found = self._scan()
            for path, mark in found.items():
                if self._seen.get(path) != mark and path not in self._waiting and self._wanted(path):
                    self._waiting[path] = self._pool.submit(self._changed, path)
            for path in self._seen.keys() - found.keys():
                if self._wanted(path):
                    key = self._key(path) + (".gz" if self._compressed else "")
                    self._waiting[path] = self._pool.submit(self._gone, path, key)
            self._seen = found

    def _wanted(self, path: Path) -> bool:
        pattern = self._entry.get("pattern")
        return not pattern or re.search(pattern, path.relative_to(self._folder).as_posix()) is not None

    def _key(self, path: Path) -> str:
        return str(self._entry["prefix"]) + path.relative_to(self._folder).as_posix()

    def _changed(self, path: Path) -> None:
        wait_until_stable(path)
        self._waiting.pop(path, None)
        if path in self._busy:
            log.info("a change of %s is lost: it is being uploaded", path.name)
        elif path.exists():
            self._busy.add(path)
            self._uploads.submit(self._upload, path)

    def _upload(self, path: Path) -> None:
        self._transfers.upload(path, self._entry["bucket"], self._key(path), compressed=self._compressed)
        self._busy.discard(path)

    def _gone(self, path: Path, key: str) -> None:
        self._transfers.delete(self._entry["bucket"], key)
        self._waiting.pop(path, None)

    def stop(self) -> None:
        """Waits for files that are to become stable and for deletions, not for uploads."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        wait(list(self._waiting.values()))
        self._pool.shutdown(wait=True)
        self._uploads.shutdown(wait=False)


def wait_until_stable(path: Path) -> None:
    """Until four looks in a row show the same size, or MOST_WAIT_SECONDS are over, or the file is gone."""
    last, same, deadline = -1, 0, time.monotonic() + MOST_WAIT_SECONDS
    while same < STABLE_CHECKS and time.monotonic() < deadline:
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        same = same + 1 if size == last else 0
        last = size
        time.sleep(STABLE_SECONDS)
