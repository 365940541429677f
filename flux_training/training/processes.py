"""Whether a process of this machine still runs: claims and locks name their holder by its number."""

from __future__ import annotations

import os
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether process `pid` runs. One that has ended and is not yet collected (a zombie) does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # Linux: "pid (name) state …". The name may hold any bytes, spaces and brackets too; the state follows the last one.
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state != b"Z"
