"""The names that job folders and their files may have."""

import re

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CAPTION_SUFFIX = ".txt"
# The first 12 hex digits of a SHA-256 (flux_training/training/runs/run.py).
RUN_ID = re.compile(r"[0-9a-f]{12}")
MAX_JOB_NAME = 63
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Files beside the checkpoints. ai-toolkit treats every file whose name begins with the job's name as its checkpoint.
TAKEN_NAMES = ("run.json", "progress.json", "loss.csv", "config.yaml", "samples", "optimizer.pt")
