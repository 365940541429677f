"""The names that job folders and their files may have."""

import re
from pathlib import Path

# ai-toolkit replaces both by the trigger word (inject_trigger_into_prompt in toolkit/prompt_utils.py).
PLACEHOLDERS = ("[trigger]", "[name]")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CAPTION_SUFFIX = ".txt"
# The first 12 hex digits of a SHA-256 (flux_training/training/runs/run.py).
RUN_ID = re.compile(r"[0-9a-f]{12}")
MAX_JOB_NAME = 63
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Files beside the checkpoints. ai-toolkit treats every file whose name begins with the job's name as its checkpoint.
TAKEN_NAMES = (
    "run.json",
    "progress.json",
    "loss.csv",
    "config.yaml",
    "samples",
    "optimizer.pt",
    "loss_log.db",
)
# Of the 255 bytes that file systems allow; the rest is for the names of temporary files.
MAX_NAME_BYTES = 200


def is_plain_name(name: str) -> bool:
    """Whether this is the name of one visible file: no path, no control character, not too long, valid in UTF-8."""
    return (
        name.isprintable()
        and not name.startswith(".")
        and not any(separator in name for separator in "/\\:")
        and 0 < len(name.encode()) <= MAX_NAME_BYTES
    )


def path_below(folder: Path, *names: str) -> Path | None:
    """The file `folder`/`names` for names that someone else chose; None if one of them is not a plain name."""
    return folder.joinpath(*names) if all(map(is_plain_name, names)) else None
