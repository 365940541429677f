"""What is readable in a file, for tests that look for what must not be there."""

from __future__ import annotations

import gzip
from pathlib import Path


def readable(path: Path) -> bytes:
    """Its bytes, and what they are packed from, as states are. Raises OSError for a damaged one."""
    content = path.read_bytes()
    # By its bytes: beside a packed state the CLI puts one of the same name and .attrs, in plain JSON.
    return content + gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
