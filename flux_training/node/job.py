"""What a queued job has to carry for the launcher (docs/node.md). No Kelpie client: plain values only."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flux_training.node.bundle import LauncherBundle
from flux_training.node.launcher.settings import CONFIG_FOLDER, LIMIT_RANGES, MODEL_FOLDER, UPLOAD_FOLDER

LIMITS_FILE = "launch.json"
CONFIG_FILES = ("train.yml", "manifest.json", LIMITS_FILE)
# This key is only in the launch.json of jobs that an older version queued.
OLD_FORMAT_KEY = "contract"


@dataclass(frozen=True)
class NodeJob:
    """One run as its node sees it. Prefixes are keys that end in a slash."""

    job: str
    run_id: str
    attempt: int
    steps: int
    save_every: int
    bucket: str
    run_prefix: str
    dataset_prefix: str
    config_sha256: str
    parent_prefix: str | None = None
    max_hours: float | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the job: nodes cannot write it. No secrets: Kelpie stores it as plain text."""
        environment = {
            "FLUX_JOB": self.job,
            "FLUX_RUN_ID": self.run_id,
            "FLUX_ATTEMPT": str(self.attempt),
            "FLUX_STEPS": str(self.steps),
            "FLUX_SAVE_EVERY": str(self.save_every),
            "FLUX_BUCKET": self.bucket,
            "FLUX_RUN_PREFIX": self.run_prefix,
            "FLUX_DATASET_PREFIX": self.dataset_prefix,
            "FLUX_CONFIG_SHA256": self.config_sha256,
        }
        if self.parent_prefix:
            environment["FLUX_PARENT_PREFIX"] = self.parent_prefix
        if self.max_hours is not None:
            environment["FLUX_MAX_HOURS"] = f"{min(self.max_hours, LIMIT_RANGES['max_hours'].highest):.6f}"
        return environment

    def sync(self, bundle: LauncherBundle) -> dict[str, list[dict[str, str]]]:
        """Kelpie's sync rules.

        `before` has patterns: a key like `…/config/../run.py`, which a node could place, would replace the trainer.
        It brings run.json into upload/, because the worker only watches a folder that exists at the start.
        """
        config, output = f"{self.run_prefix}config/", f"{self.run_prefix}output/"
        return {
            "before": [
                self._rule("download", config, CONFIG_FOLDER.name)
                | _only(config, *CONFIG_FILES, bundle.file_name),
                self._rule("download", output, UPLOAD_FOLDER.name) | _only(output, "run.json"),
            ],
            "during": [self._rule("upload", output, UPLOAD_FOLDER.name)],
            "after": [self._rule("upload", f"{self.run_prefix}model/", MODEL_FOLDER.name)],
        }

    def _rule(self, direction: str, prefix: str, folder: str) -> dict[str, str]:
        return {"bucket": self.bucket, "prefix": prefix, "local_path": f"{folder}/", "direction": direction}


def launch_limits(max_hours: float | None, stall_minutes: float) -> bytes:
    """launch.json. The launcher refuses values out of range, so larger ones become the largest."""
    return changed_limits({}, max_hours, stall_minutes)


def changed_limits(present: Mapping[str, Any], max_hours: float | None, stall_minutes: float) -> bytes:
    """launch.json with new limits. A job that an older version queued has all of its settings there: they are kept."""
    kept = present if OLD_FORMAT_KEY in present else {}
    limits = {"max_hours": max_hours, "stall_minutes": stall_minutes}
    bounded = {name: value and min(value, LIMIT_RANGES[name].highest) for name, value in limits.items()}
    return json.dumps({**kept, **bounded}, sort_keys=True).encode()


def _only(prefix: str, *names: str) -> dict[str, str]:
    """A pattern for whole keys, in the syntax that JavaScript and Python share."""
    escaped = [re.sub(r"([.*+?^${}()|\[\]\\/-])", r"\\\1", text) for text in (prefix, *names)]
    return {"pattern": f"^{escaped[0]}({'|'.join(escaped[1:])})$"}
