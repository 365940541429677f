"""This machine and this checkout: Python, packages, which Pulumi, the stack's file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from flux_training.commands.doctor.finding import Finding, bad, note, ok
from flux_training.commands.stack.engine import EMBEDDED, Engine
from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.settings import StackSettings

LEAST_PYTHON = (3, 11)
AWS_MODULE = "pulumi_aws"
PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")


def check_python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        return [bad("Python", version, "install Python 3.11 or newer, delete .venv, run `make up`")]
    return [ok("Python", version)]


def check_packages(root: Path) -> list[Finding]:
    """What the requirements pin against what is installed; of pulumi-aws only its version, for who has it."""
    pins = dict(PIN.findall((root / "requirements.txt").read_text(encoding="utf-8")))
    if find_spec(AWS_MODULE) is None:
        pins.pop("pulumi-aws", None)
    missing, other = [], []
    for name, wanted in pins.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if found != wanted:
            other.append(f"{name} {found} instead of {wanted}")
    mend = "`rm -f .venv/ready; make ready`"
    if missing:
        return [bad("Packages", f"missing: {', '.join(missing)}", mend)]
    if other:
        return [note("Packages", f"other versions than pinned: {', '.join(other)}", mend)]
    return [ok("Packages", f"all {len(pins)} as pinned")]


def check_aws_package(settings: StackSettings) -> list[Finding]:
    """Only a stack on AWS is asked for it."""
    if settings.storage.kind != "aws":
        return []
    if find_spec(AWS_MODULE) is None:
        return [
            bad("AWS package", "pulumi-aws, which storage.kind aws needs, is not installed", "`make aws`")
        ]
    return [ok("AWS package", "pulumi-aws is installed")]


def check_engine(engine: Engine) -> list[Finding]:
    if engine.command == EMBEDDED:
        reason = "" if shutil.which("pulumi") else ": no `pulumi` is on the PATH"
        return [ok("Engine", f"the embedded one{reason}")]
    done = subprocess.run(  # noqa: S603 - the pulumi of the user's own PATH
        [*engine.command, "version"], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        return [
            bad(
                "Engine",
                f"`{engine.command[0]} version` failed",
                "mend the Pulumi CLI or use ENGINE=embedded",
            )
        ]
    pinned = metadata.version("pulumi")
    words = f"Pulumi CLI {done.stdout.strip()}, SDK {pinned}"
    same = done.stdout.strip().lstrip("v").split(".")[0] == pinned.split(".")[0]
    return [ok("Engine", words) if same else note("Engine", words, "use a CLI of the SDK's major version")]


def in_number(jobs: Sequence[DeclaredJob]) -> str:
    images = sum(len(job.image_set.images) for job in jobs)
    return f"{len(jobs)} declared, {images} images, every folder can be trained"


def check_disk(root: Path) -> list[Finding]:
    free = shutil.disk_usage(root).free / 1024**3
    if free < 1:
        return [bad("Disk", f"{free:.1f} GiB free where outputs/ and the state lie", "make room")]
    return [ok("Disk", f"{free:.0f} GiB free")]
