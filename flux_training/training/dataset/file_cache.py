"""A dataset folder that was found sound, remembered in `.flux-cache/` so that an unchanged one costs a stat a file and no read.

A file counts as unchanged when size, mtime, ctime, inode and mode are what they were. Size and mtime can be forged (`cp -p`, `touch -d`,
archives, some editors); ctime cannot: the kernel sets it at every write, rename over or change of attributes, and offers no way to set it
back. A file touched less than SETTLED_SECONDS before it was looked at is not remembered: within one tick of the file system's clock a
second write would leave no trace. `--no-cache` or FLUX_NO_CACHE=1 reads everything again; deleting the folder does no harm either.

A cache that cannot be read, or not be written, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_training.training.files import write_atomically

CACHE_FOLDER = ".flux-cache"
NO_CACHE_VARIABLE = "FLUX_NO_CACHE"
VERSION = 1
# Longer than the ticks of any file system's clock (FAT: 2 seconds).
SETTLED_SECONDS = 2.5


def is_off(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether everything is read again: `FLUX_NO_CACHE=0` is as good as nothing."""
    return environ.get(NO_CACHE_VARIABLE, "") not in ("", "0")


def scan(folder: Path) -> list[tuple[Any, ...]]:
    """One stat for each entry that is not hidden, by name: (name, mode, size, mtime_ns, ctime_ns, inode); none without a folder."""
    found = []
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            s = entry.stat()
        except OSError:
            # A link that leads nowhere.
            found.append((entry.name, 0, 0, 0, 0, 0))
            continue
        found.append((entry.name, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino))
    found.sort()
    return found


@dataclass(frozen=True)
class FolderCache:
    """What is remembered of one folder, whole, under its signature. `place` None: nothing is."""

    place: Path | None

    @staticmethod
    def of(
        folder: Path, root: Path = Path(), kind: str = "folders", environ: Mapping[str, str] = os.environ
    ) -> FolderCache:
        """The cache of a folder, below `root`: the checkout. None is used when the environment says so."""
        if is_off(environ):
            return FolderCache(None)
        name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:24]
        return FolderCache(root / CACHE_FOLDER / kind / name)

    def load(self, signature: str) -> tuple[dict[str, Any], bytes] | None:
        """(facts, content) as they were kept for this signature; None when they are not, or not sound."""
        if self.place is None:
            return None
        try:
            head, _, content = self.place.read_bytes().partition(b"\n")
            facts = json.loads(head)
            if (facts["version"], facts["signature"]) != (VERSION, signature):
                return None
            return (facts, content) if facts["sha256"] == hashlib.sha256(content).hexdigest() else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def save(self, signature: str, facts: Mapping[str, Any], content: bytes) -> None:
        if self.place is None:
            return
        digest = hashlib.sha256(content).hexdigest()
        head = {**facts, "version": VERSION, "signature": signature, "sha256": digest}
        keep(self.place, json.dumps(head).encode() + b"\n" + content)


def signature_of(scanned: list[tuple[Any, ...]]) -> str:
    """Another one as soon as anything in the folder is: 64 hex digits."""
    # repr: a name may be no UTF-8.
    return hashlib.sha256(repr(scanned).encode()).hexdigest()


def all_settled(scanned: list[tuple[Any, ...]]) -> bool:
    """Whether the signature of these is sure to change with the next write to any of them."""
    return are_settled([time_ns for entry in scanned for time_ns in entry[3:5]])


def are_settled(times_ns: Iterable[int]) -> bool:
    """Whether a write from now on gives a file another time than any of these."""
    limit = time.time_ns() - int(SETTLED_SECONDS * 1e9)
    return max(times_ns, default=0) < limit


def keep(path: Path, data: bytes) -> bool:
    """Written whole and put in place at once; False where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data, lasting=False)
    except OSError:
        return False
    return True
