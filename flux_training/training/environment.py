"""The environment that child processes and libraries get, and the name of the program `pulumi` in it."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

PULUMI = "pulumi"
# `flux` sets this variable for the Pulumi program while it refreshes a stack, because Pulumi does
# not tell the program.
REFRESH_VARIABLE = "FLUX_REFRESH"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PACKAGES = ("components", "flux_training")


def pulumi_command(arguments: str, stack: str = "") -> str:
    """The command as a user can type it: with the CLI on the PATH, or else with the `pulumi` beside this Python.

    Without `stack`, it is about the stack that is selected.
    """
    found, script = shutil.which(PULUMI), Path(sys.executable).with_name(PULUMI)
    program = PULUMI
    if script.is_file() and (found is None or Path(found) == script):
        here = Path.cwd()
        program = str(script.relative_to(here) if script.is_relative_to(here) else script)
    return f"`{program} {arguments}{f' --stack {stack}' if stack else ''}`"


def find_shadowing_packages(root: Path, tool: Path) -> list[str]:
    """A finding for each file or folder of a user's own project that is named like one of the tool's packages.

    `tool`: the folder of the program. Providers run in the project's folder and would import from there instead.
    """
    if root.resolve() == tool.resolve():
        return []
    return [
        f"{root / name}: flux-training has a package with this name; rename the file or folder"
        for name in PACKAGES
        if (root / name).exists()
    ]


def bypass_proxy_for_loopback(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that keep libraries and child processes from using the user's proxy for addresses on this machine.

    Libraries read one or the other spelling of no_proxy; gRPC ignores both if no_grpc_proxy is set.
    """
    exempt = environ.get("no_proxy") or environ.get("NO_PROXY")
    hosts = _add_loopback_to_no_proxy(exempt)
    return {
        "no_proxy": hosts,
        "NO_PROXY": hosts,
        "no_grpc_proxy": _add_loopback_to_no_proxy(environ.get("no_grpc_proxy") or exempt),
    }


def _add_loopback_to_no_proxy(hosts: str | None) -> str:
    present = [host.strip() for host in (hosts or "").split(",") if host.strip()]
    return ",".join(dict.fromkeys((*present, *LOOPBACK)))


def pulumi_home_or_fallback(environ: Mapping[str, str], fallback: Path) -> dict[str, str]:
    """Pulumi's folder in `fallback` if the user has no home folder, or one that cannot be written; nothing otherwise.

    Containers often run as a user without a passwd entry and with HOME=/ or no HOME at all.
    """
    if environ.get("PULUMI_HOME"):
        return {}
    try:
        home = Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        return {"PULUMI_HOME": str(fallback), "HOME": str(fallback)}
    place = home / ".pulumi"
    if os.access(place if place.exists() else home, os.W_OK | os.X_OK):
        return {}
    return {"PULUMI_HOME": str(fallback)}
