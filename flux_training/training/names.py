"""The names that a job folder and its files may have."""

from __future__ import annotations

import re

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CAPTION_SUFFIX = ".txt"
# The first 12 hex digits of a SHA-256 (flux_training/training/runs/run.py).
RUN_ID = re.compile(r"[0-9a-f]{12}")
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# ai-toolkit takes every file that begins with the job's name for a checkpoint of it: these lie beside the checkpoints.
TAKEN_NAMES = ("run.json", "progress.json", "loss.csv", "config.yaml", "samples", "optimizer.pt")
