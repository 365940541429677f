"""The locks: requirements-*.lock, which `make lock` makes of requirements*.txt."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# In the order of what a person installs first. The last holds all of the others.
LOCAL, AWS, UV, DEV = (ROOT / f"requirements-{name}.lock" for name in ("local", "aws", "uv", "dev"))
LOCKED = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)


def locked(lock: Path) -> dict[str, str]:
    """Package → version."""
    return dict(LOCKED.findall(lock.read_text(encoding="utf-8")))
