"""Reads files for tests that search them for secrets."""

import gzip
from pathlib import Path


def readable(path: Path) -> bytes:
    """The bytes of a file, and their content if it is gzipped. Raises OSError for a damaged file."""
    content = path.read_bytes()
    # Not by name: beside a gzipped state the CLI writes a `.gz.attrs` file in plain JSON.
    return content + gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
