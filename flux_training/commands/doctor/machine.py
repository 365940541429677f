"""Checks of this machine and this checkout: Python, packages, disk, engine."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from flux_training.commands.doctor.result import CheckResult, bad, note, ok
from flux_training.commands.stack.engine import EMBEDDED, Engine
from flux_training.commands.stack.project import PACKAGE, TOOL_FOLDER
from flux_training.training.errors import BadInput
from flux_training.training.finding import group_findings
from flux_training.training.jobs.declare import DeclaredJob, declare_jobs
from flux_training.training.jobs.examine import Examiner
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.settings import StackSettings

MIN_PYTHON = (3, 11)
AWS_MODULE = "pulumi_aws"
PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")


def check_python(root: Path) -> list[CheckResult]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        fix = f"install Python 3.11 or newer, then `rm -rf {_tool(root)}.venv; make ready`"
        return [bad("Python", version, fix)]
    return [ok("Python", version)]


def check_packages(root: Path) -> list[CheckResult]:
    """Compare the installed packages with the tool's requirements.txt; pulumi-aws only if it is installed."""
    tool = _tool(root)
    requirements = f"{tool}requirements.txt"
    pins = dict(PIN.findall((root / requirements).read_text(encoding="utf-8")))
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
    fix = f"`rm -f {tool}.venv/ready; make ready`"
    if missing:
        return [bad("Packages", f"missing: {', '.join(missing)}", fix)]
    if other:
        return [note("Packages", f"versions differ from {requirements}: {', '.join(other)}", fix)]
    return [ok("Packages", f"all {len(pins)} have the versions of {requirements}")]


def _tool(root: Path) -> str:
    """`flux-training/` in a project of your own; empty in this repository."""
    return f"{TOOL_FOLDER}/" if (root / TOOL_FOLDER / PACKAGE).is_dir() else ""


def check_aws_package(settings: StackSettings) -> list[CheckResult]:
    """Only for a stack on AWS."""
    if settings.storage.kind != "aws":
        return []
    if find_spec(AWS_MODULE) is None:
        message = "pulumi-aws, which storage.kind aws needs, is not installed"
        return [bad("AWS package", message, "`make aws`")]
    return [ok("AWS package", "pulumi-aws is installed")]


def check_engine(engine: Engine) -> list[CheckResult]:
    if engine.command == EMBEDDED:
        reason = "" if shutil.which("pulumi") else ": no `pulumi` is on the PATH"
        return [ok("Engine", f"embedded{reason}")]
    done = subprocess.run(  # noqa: S603 - the pulumi of the user's own PATH
        [*engine.command, "version"], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        message = f"`{engine.command[0]} version` failed"
        return [bad("Engine", message, "reinstall the Pulumi CLI or use ENGINE=embedded")]
    sdk, cli = metadata.version("pulumi"), done.stdout.strip()
    message = f"Pulumi CLI {cli}, SDK {sdk}"
    if cli.lstrip("v").split(".")[0] == sdk.split(".")[0]:
        return [ok("Engine", message)]
    return [note("Engine", message, "install a CLI with the SDK's major version")]


def declared_jobs(settings: StackSettings, stack: str) -> list[DeclaredJob]:
    """The stack's jobs. Raises BadInput with one finding for each broken rule, as `flux lint` prints them."""
    examiner = Examiner.of()
    if errors := lint_jobs(settings, examiner=examiner).errors:
        raise BadInput([str(group) for group in group_findings(errors, stack)])
    return declare_jobs(settings, examiner=examiner)


def summarise_jobs(jobs: Sequence[DeclaredJob]) -> str:
    images = sum(len(job.image_set.images) for job in jobs)
    return f"{len(jobs)} declared, {images} images, all can be trained"


def check_disk(root: Path) -> list[CheckResult]:
    free = shutil.disk_usage(root).free / 1024**3
    if free < 1:
        return [bad("Disk", f"{free:.1f} GiB free for outputs/ and the state", "free some disk space")]
    return [ok("Disk", f"{free:.0f} GiB free")]
