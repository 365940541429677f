"""Asks the package index for known vulnerabilities of all that is locked (pip-audit). `make audit` runs it, and `make lint` with it.

Where the index tells of none, as a mirror does, or nothing answers, that is said and is no failure: CI on GitHub asks PyPI itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supply.locks import DEV

SECONDS = 120
COMMAND = (
    *(sys.executable, "-m", "pip_audit"),
    # The lock is read and nothing is installed for it.
    *("--disable-pip", "--require-hashes", "--timeout", "5"),
    *("--format", "json", "--progress-spinner", "off"),
)


def ask(lock: Path = DEV, command: Sequence[str] = COMMAND, seconds: float = SECONDS) -> tuple[str, str]:
    """What pip-audit printed, and its complaint."""
    line = [*command, "--requirement", str(lock)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=seconds)  # noqa: S603 - our own words
    except subprocess.TimeoutExpired:
        return "", f"no answer in {seconds:g} seconds"
    return done.stdout, done.stderr


def judge(printed: str, complaint: str) -> tuple[list[str], bool]:
    """(what to say, whether a package is known to be vulnerable)."""
    try:
        packages: list[dict[str, Any]] = json.loads(printed)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = complaint.strip().rpartition("\n")[2] or "it said nothing"
        return [f"skipped pip-audit: {last}; CI asks PyPI"], False
    asked = [package for package in packages if "skip_reason" not in package]
    if not asked:
        return ["skipped pip-audit: the package index here tells of no vulnerabilities; CI asks PyPI"], False
    lines = [
        f"{package['name']} {package['version']}: {fault['id']}, {_mended(fault)}"
        for package in asked
        for fault in package["vulns"]
    ]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        lines.append(f"pip-audit: the package index knows nothing of {', '.join(unknown)}")
    if not any(package["vulns"] for package in asked):
        return [*lines, f"pip-audit: no known vulnerability in {len(asked)} packages"], False
    return [
        *lines,
        "Name a mended version in requirements*.txt, or type `make lock UPGRADE=--upgrade`.",
    ], True


def _mended(fault: dict[str, Any]) -> str:
    versions = fault.get("fix_versions") or []
    return f"mended in {', '.join(versions)}" if versions else "not mended yet"


if __name__ == "__main__":
    said, vulnerable = judge(*ask())
    print("\n".join(said))
    sys.exit(vulnerable)
