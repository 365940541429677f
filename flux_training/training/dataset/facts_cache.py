"""Facts of files that have not changed, kept in `.flux-cache/` of the checkout.

A file is taken for unchanged while its size, its times (to the nanosecond) and its inode are what they were: one stat a file. A broken or
foreign cache is as good as none; it can be deleted at any time. Of whole folders flux_training/training/dataset/file_cache.py keeps what they come to.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import PIL

from flux_training.training.dataset.file_cache import CACHE_FOLDER, are_settled, keep
from flux_training.training.dataset.image_facts import ImageFacts

CACHE_FILE = "images.json"
# Raise it when ImageFacts or what stands in it changes.
VERSION = f"2 Pillow {PIL.__version__}"

Stamp = tuple[int, int, int, int]


def stamp_of(path: Path) -> Stamp | None:
    """(size, mtime, ctime, inode); None when there is no such file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def is_settled(stamp: Stamp) -> bool:
    """Whether a change from now on would show in the stamp."""
    return are_settled(stamp[1:3])


class FactsCache:
    """Facts by folder and name, read at the first question. `save` writes them when there is something new."""

    def __init__(self, root: Path) -> None:
        self._path = root / CACHE_FOLDER / CACHE_FILE
        self._changed = False

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
        """Keep facts that were gathered after a settled `stamp` was taken, if the file is still the same."""
        if stamp_of(path) != stamp:
            return
        self._folders.setdefault(_key(path.parent), {})[path.name] = [*stamp, asdict(facts)]
        self._changed = True

    def keep_only(self, folder: Path, names: set[str]) -> None:
        """Forget the files of a folder that are gone."""
        entries = self._folders.get(_key(folder), {})
        for name in entries.keys() - names:
            del entries[name]
            self._changed = True

    def save(self) -> None:
        """A checkout that cannot be written to has no cache."""
        if not self._changed:
            return
        text = json.dumps({"version": VERSION, "folders": self._folders}, separators=(",", ":"))
        self._changed = not keep(self._path, text.encode())


def _key(folder: Path) -> str:
    return str(folder.absolute())


def _load(path: Path) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != VERSION:
            return {}
        folders = document["folders"]
        return {folder: dict(entries) for folder, entries in folders.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
