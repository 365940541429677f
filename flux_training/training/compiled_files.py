"""Python's compiled files, which a full disk can damage. Standard library only: other imports may be what fails."""

import os
import shlex
import shutil
import sys
import traceback
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2]
MIN_FREE_BYTES = 64 * 1024**2


def disable_bytecode_if_disk_is_full() -> None:
    """Python keeps a compiled file that a full disk has cut off, and cannot import it afterwards."""
    if shutil.disk_usage(TOOL).free < MIN_FREE_BYTES:
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def describe_damaged_bytecode(error: BaseException | None) -> str:
    """What to tell the user if an import failed because a compiled file is cut off; empty for any other error."""
    if not isinstance(error, EOFError):
        return ""
    frames = [frame for frame, _line in traceback.walk_tb(error.__traceback__)]
    readers = [frame for frame in frames if frame.f_code.co_name == "get_code"]
    damaged = readers[-1].f_locals.get("bytecode_path") if readers else None
    if not damaged:
        return ""
    remedy = f"`find {shlex.quote(str(TOOL))} -name '*.pyc' -delete`"
    return f"{damaged} is cut off, as a full disk leaves it; free some space, run {remedy}, then the same command again"
