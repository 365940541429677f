"""The `during` sync: uploads changed files of a folder, and deletes from the bucket what is deleted locally.

It behaves like chokidar in the worker (src/files.ts, src/index.ts):
- A folder that does not exist at the start is never watched.
- Files that exist at the start are uploaded only after they change.
- A file is uploaded when its size has not changed for 0.2 s, and after 5 s in any case, even if it is still being written.
- A change during the upload of the same file is lost.
- After the command has ended, changes are ignored, but uploads that have begun continue.
"""

import contextlib
import logging
import os
import re
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from localcloud.node.transfers import Transfers

log = logging.getLogger(__name__)

SCAN_SECONDS = 0.2
STABLE_SECONDS, STABLE_CHECKS, MAX_WAIT_SECONDS = 0.05, 4, 5.0
Fingerprint = tuple[int, int, int]  # mtime, size, inode


class FolderWatch:
    """Watches the folder of one `during` entry until `stop()`."""

    def __init__(
        self, folder: Path, entry: dict[str, Any], transfers: Transfers, *, compressed: bool
    ) -> None:
        self._folder, self._entry, self._transfers, self._compressed = folder, entry, transfers, compressed
        self._known: dict[Path, Fingerprint] = {}
        self._busy: set[Path] = set()
        self._waiting: dict[Path, Future[None]] = {}
        self._stop = threading.Event()
        self._pool, self._uploads = ThreadPoolExecutor(16), ThreadPoolExecutor(8)
        self._thread = threading.Thread(target=self._watch, daemon=True, name=f"watch-{folder.name}")
        if entry["local_path"].startswith(".") or not folder.is_dir():
            log.warning("%s does not exist: nothing will be uploaded from it", entry["local_path"])
            return
        self._thread.start()

    def _scan(self) -> dict[Path, Fingerprint]:
        found: dict[Path, Fingerprint] = {}
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        return found

    def _watch(self) -> None:
        self._known = self._scan()
        while not self._stop.wait(SCAN_SECONDS):
            found = self._scan()
            for path, fingerprint in found.items():
                if (
                    self._known.get(path) != fingerprint
                    and path not in self._waiting
                    and self._matches_pattern(path)
                ):
                    self._waiting[path] = self._pool.submit(self._on_change, path)
            for path in self._known.keys() - found.keys():
                if self._matches_pattern(path):
                    key = self._key(path) + (".gz" if self._compressed else "")
                    self._waiting[path] = self._pool.submit(self._on_deletion, path, key)
            self._known = found

    def _matches_pattern(self, path: Path) -> bool:
        pattern = self._entry.get("pattern")
        return not pattern or re.search(pattern, path.relative_to(self._folder).as_posix()) is not None

    def _key(self, path: Path) -> str:
        return str(self._entry["prefix"]) + path.relative_to(self._folder).as_posix()

    def _on_change(self, path: Path) -> None:
        wait_until_stable(path)
        self._waiting.pop(path, None)
        if path in self._busy:
            log.info("a change of %s is lost, because it is being uploaded", path.name)
        elif path.exists():
            self._busy.add(path)
            self._uploads.submit(self._upload, path)

    def _upload(self, path: Path) -> None:
        self._transfers.upload(path, self._entry["bucket"], self._key(path), compressed=self._compressed)
        self._busy.discard(path)

    def _on_deletion(self, path: Path, key: str) -> None:
        self._transfers.delete(self._entry["bucket"], key)
        self._waiting.pop(path, None)

    def stop(self) -> None:
        """Stop; wait until pending files are stable and for deletions, but not for uploads."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        wait(list(self._waiting.values()))
        self._pool.shutdown(wait=True)
        self._uploads.shutdown(wait=False)


def wait_until_stable(path: Path) -> None:
    """Wait until the size has been the same at STABLE_CHECKS checks, for at most MAX_WAIT_SECONDS, or until the file is deleted."""
    last, same, deadline = -1, 0, time.monotonic() + MAX_WAIT_SECONDS
    while same < STABLE_CHECKS and time.monotonic() < deadline:
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        same = same + 1 if size == last else 0
        last = size
        time.sleep(STABLE_SECONDS)
