"""Remembers the facts of unchanged images in `.flux-cache/`, so that only new images are decoded.

A file counts as unchanged while its size, mtime, ctime and inode are the same. mtime alone is not enough: `cp -p`, `touch -d` and
archives set it to any value, while the kernel sets ctime at every change. `--no-cache` or FLUX_NO_CACHE=1 reads everything again, and
the folder can be deleted at any time. A cache that cannot be read or written is ignored.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import PIL

from flux_training.training.dataset.image_facts import ImageFacts
from flux_training.training.files import write_atomically

CACHE_FOLDER = ".flux-cache"
CACHE_FILE = "images.json"
NO_CACHE_VARIABLE = "FLUX_NO_CACHE"
# Raise the cache version when ImageFacts changes, or when its values are computed differently.
VERSION = f"5 Pillow {PIL.__version__}"
# Files changed less than this long ago are not cached: two writes within one tick of the file system's
# clock (2 seconds on FAT) have the same timestamp, so the second would go unnoticed.
SETTLED_SECONDS = 2.5

Stamp = tuple[int, int, int, int]


def is_cache_off(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user switched the cache off. `FLUX_NO_CACHE=0` leaves it on."""
    return environ.get(NO_CACHE_VARIABLE, "") not in ("", "0")


def file_stamp(path: Path) -> Stamp | None:
    """(size, mtime, ctime, inode); None when there is no such file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def is_old_enough_to_cache(stamp: Stamp) -> bool:
    """Whether any later change of the file gives it another stamp."""
    return max(stamp[1:3]) < time.time_ns() - int(SETTLED_SECONDS * 1e9)


def write_cache_file(path: Path, data: bytes) -> bool:
    """Write a cache file atomically; False when that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data, lasting=False)
    except OSError:
        return False
    return True


class ImageCache:
    """Image facts by folder and file name. The file is read at the first question; `save` writes it if something is new."""

    def __init__(self, root: Path) -> None:
        self._path = root / CACHE_FOLDER / CACHE_FILE
        self._changed = False

    @staticmethod
    def of(root: Path = Path()) -> ImageCache | None:
        """The cache of a checkout; None when the user switched it off."""
        return None if is_cache_off() else ImageCache(root)

    @cached_property
    def _folders(self) -> dict[str, dict[str, Any]]:
        return _load(self._path)

    def get(self, path: Path, stamp: Stamp) -> ImageFacts | None:
        entry = self._folders.get(_key(path.parent), {}).get(path.name)
        if not isinstance(entry, list) or tuple(entry[:4]) != stamp:
            return None
        try:
            return ImageFacts(**entry[4])
        except (TypeError, IndexError):
            return None

    def put(self, path: Path, stamp: Stamp, facts: ImageFacts) -> None:
        """Keep facts that were read after a settled `stamp` was taken, unless the file has changed since."""
        if file_stamp(path) == stamp:
            self._folders.setdefault(_key(path.parent), {})[path.name] = [*stamp, asdict(facts)]
            self._changed = True

    def forget_other_images(self, folder: Path, names: set[str]) -> None:
        """Forget the images of a folder that are gone."""
        entries = self._folders.get(_key(folder), {})
        for name in entries.keys() - names:
            del entries[name]
            self._changed = True

    def save(self) -> None:
        if self._changed:
            text = json.dumps({"version": VERSION, "folders": self._folders}, separators=(",", ":"))
            self._changed = not write_cache_file(self._path, text.encode())


def _key(folder: Path) -> str:
    return str(folder.absolute())


def _load(path: Path) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != VERSION:
            return {}
        return {folder: dict(entries) for folder, entries in document["folders"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
