"""Short forms of what takes minutes (interruptions, fuzz, cost), every Python found, nothing newer than 3.10."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node.runs import LAUNCHER, Node

ROOT = LAUNCHER.parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def pythons() -> list[str]:
    """Every Python 3.10 or newer of the PATH and of pyenv, one of each minor version."""
    names = [f"python3.{minor}" for minor in range(10, 20)]
    found = [path for name in names if (path := shutil.which(name))]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found += map(str, sorted(pyenv.glob("versions/3.*/bin/python")))
    ask = "import sys; print(sys.version_info >= (3, 10) and sys.version_info[:2])"
    versions = {}
    for path in [sys.executable, *found]:
        answer = subprocess.run([path, "-I", "-S", "-c", ask], capture_output=True, text=True, check=False)
        if answer.stdout.startswith("("):
            versions.setdefault(answer.stdout.strip(), path)
    return list(versions.values())


def module(name: str, *arguments: str) -> str:
    """`python -m tests.node.NAME`, which has to end with 0; its output, which is printed too."""
    command = [sys.executable, "-m", f"tests.node.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@LINUX
def test_interrupted_at_any_moment_every_job_ends_with_sound_weights() -> None:
    seeds = os.environ.get("FLUX_INTERRUPTIONS", "10")
    assert f"{seeds} jobs ended with sound weights" in module(
        "interruptions", "--seeds", seeds, "--at-once", "5"
    )


def test_fuzz() -> None:
    count = os.environ.get("FLUX_FUZZ", "2000")
    assert f"{count} mutated inputs, 0 faults" in module("fuzz", "--count", count)


@LINUX
def test_memory_and_cpu_are_printed() -> None:
    assert "of a core" in module("cost", "--seconds", "2")


@pytest.mark.parametrize("python", pythons())
def test_under_every_python_without_site_packages(python: str, tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-9", "save:8", "steps:9-20", "final:20")
    node.change(
        "launch", trainer=[python, "-I", "-S", "fake.py", "steps:0-9", "save:8", "steps:9-20", "final:20"]
    )
    node.python = python
    first = node.run()
    assert (first.code, first.progress["step"], first.published) == (0, 20, True), first.out
    again = node.run()
    assert (again.code, again.progress["restarts"]) == (0, 1), again.out
    print(python)


def test_nothing_newer_than_python_3_10() -> None:
    pytest.importorskip("vermin", reason="pip install vermin")
    command = [
        sys.executable,
        "-c",
        "import vermin; vermin.main()",
        "-t=3.10-",
        "--violations",
        "--no-tips",
        "--eval-annotations",
    ]
    done = subprocess.run([*command, str(LAUNCHER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
