"""The commands `version`, `whoami`, `login`, `logout`, `install` and `plugin ls`, which need no stack."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from pulumi_embedded import CLI_VERSION
from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.project.config import Project, find_project
from pulumi_embedded.project.selection import current_backend, pulumi_home, set_current_backend
from pulumi_embedded.state.backend import Backend
from pulumi_embedded.state.locks import current_user
from pulumi_embedded.state.stores import FolderStore

HOME_BACKEND = "file://~"
_PLUGIN = re.compile(r"(?P<kind>[a-z]+)-(?P<name>.+)-v(?P<version>\d.*)")


def show_version(_options: argparse.Namespace) -> int:
    print(f"v{CLI_VERSION}")
    return 0


def show_user(options: argparse.Namespace) -> int:
    url, user = _backend_url(), current_user()
    if options.json:
        print(json.dumps({"user": user, "url": url}, indent=2))
    elif options.verbose:
        print(f"User: {user}\nBackend URL: {url}")
    else:
        print(user)
    return 0


def log_in(options: argparse.Namespace) -> int:
    url = HOME_BACKEND if options.local else options.url or _configured_url()
    if not url:
        raise NeedsCliError("Pulumi Cloud", "use a folder or bucket instead: `pulumi login file://FOLDER`")
    backend = Backend.open(url, Path.cwd())
    if isinstance(backend.store, FolderStore) and not backend.store.root.parent.is_dir():
        folder = backend.store.root.parent
        raise EngineError(f"could not log in to {url}: there is no folder {folder}; create it first")
    backend.store.list_keys("stacks")  # raises an error if the bucket cannot be read
    set_current_backend(url)
    print(f"Logged in to {platform.node()} as {current_user()} ({url})")
    return 0


def log_out(options: argparse.Namespace) -> int:
    url = options.url or _configured_url() or current_backend()
    if options.all or url == current_backend():
        set_current_backend(None)
    print("Logged out of everything" if options.all else f"Logged out of {url or 'nothing'}")
    return 0


def install_requirements(_options: argparse.Namespace) -> int:
    """Create the project's virtual environment and install requirements.txt into it, as the CLI does."""
    project = find_project(Path.cwd())
    if not project.virtualenv:
        print(
            "Pulumi.yaml names no `virtualenv`: nothing is installed; the program runs in the active Python"
        )
        return 0
    folder, requirements = project.folder / project.virtualenv, project.program_folder() / "requirements.txt"
    if not folder.exists():
        print(f"Creating virtual environment {folder} ...")
        _run([sys.executable, "-m", "venv", str(folder)])
    if requirements.is_file():
        print(f"Installing {requirements} ...")
        _run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
    return 0


def list_plugins(options: argparse.Namespace) -> int:
    folder = pulumi_home() / "plugins"
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [match for entry in entries if entry.is_dir() and (match := _PLUGIN.fullmatch(entry.name))]
    if options.json:
        print(json.dumps([match.groupdict() for match in found], indent=2))
        return 0
    for columns in [
        ("NAME", "KIND", "VERSION"),
        *(match.group("name", "kind", "version") for match in found),
    ]:
        print("  ".join(f"{column:<10}" for column in columns).rstrip())
    return 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False)  # noqa: S603 - this Python or the project's
    if done.returncode != 0:
        raise EngineError(f"`{' '.join(command)}` failed with exit code {done.returncode}")


def _configured_url() -> str | None:
    """What the environment or the project in this folder says."""
    project: Project | None
    try:
        project = find_project(Path.cwd())
    except EngineError:
        project = None
    return os.environ.get("PULUMI_BACKEND_URL") or (project and project.backend_url) or None


def _backend_url() -> str:
    url = _configured_url() or current_backend()
    if not url:
        raise EngineError("not logged in; `pulumi login file://FOLDER` chooses where states are stored")
    return url
