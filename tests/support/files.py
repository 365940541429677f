"""What is readable in a file, for tests that look for what must not be there."""

from __future__ import annotations

import gzip
from pathlib import Path


def readable(path: Path) -> bytes:
    """Its bytes, and what they are packed from: a state ends in .gz. Raises OSError for a damaged one."""
    content = path.read_bytes()
    return content + gzip.decompress(content) if path.suffix == ".gz" or ".gz." in path.name else content
