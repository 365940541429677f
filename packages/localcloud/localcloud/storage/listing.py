"""The keys of a bucket's folder in S3's order, and their pages."""

import base64
import binascii
import os
from dataclasses import dataclass, field
from pathlib import Path

from nanio.errors import InvalidArgument

INTERNAL = ".nanio"  # prefix of nanio's metadata folder in a bucket; object keys cannot begin with it


@dataclass
class ListingPage:
    """`token` is for the next page; None on the last one."""

    keys: list[str] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    token: str | None = None


def walk_keys(folder: Path, prefix: str) -> list[str]:
    """All keys in a bucket's folder that begin with `prefix`, sorted by their UTF-8 bytes."""
    keys: list[str] = []
    pending = [prefix.rpartition("/")[0]]
    while pending:
        inside = pending.pop()
        try:
            entries = list(os.scandir(folder / inside if inside else folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if not inside and entry.name.startswith(INTERNAL):
                continue
            key = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                if key.startswith(prefix) or prefix.startswith(f"{key}/"):
                    pending.append(key)
            elif entry.is_file(follow_symlinks=False) and key.startswith(prefix):
                keys.append(key)
    return sorted(keys, key=str.encode)


def page_of(
    keys: list[str],
    prefix: str,
    delimiter: str | None,
    limit: int,
    token: str | None,
    start_after: str | None,
) -> ListingPage:
    """The page after `token` (or `start_after`). Raises nanio's InvalidArgument for an invalid token."""
    after = _decode(token) if token else (start_after or "").encode()
    page = ListingPage()
    last = b""
    for key in keys:
        entry, is_prefix = _entry(key, prefix, delimiter)
        place = entry.encode()
        if key.encode() <= after or place in (after, last):
            continue
        if len(page.keys) + len(page.prefixes) >= limit:
            page.token = base64.urlsafe_b64encode(last).decode() if limit else None
            break
        (page.prefixes if is_prefix else page.keys).append(entry)
        last = place
    return page


def _entry(key: str, prefix: str, delimiter: str | None) -> tuple[str, bool]:
    """What the key is listed as: (itself, False), or (its common prefix, True)."""
    if not delimiter:
        return key, False
    head, found, _ = key[len(prefix) :].partition(delimiter)
    return (f"{prefix}{head}{found}", True) if found else (key, False)


def _decode(token: str) -> bytes:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(f"invalid continuation token: {token!r}") from None
