"""The launcher interrupted, with damaged inputs, and under every Python that is found.

FLUX_TEST_INTERRUPTIONS and FLUX_TEST_FUZZ set how many seeds and inputs are tried.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flux_training.node import bundle
from tests.node.runs import ROOT, Node

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def pythons() -> list[str]:
    """Every Python 3.10 or newer of the PATH and of pyenv, one of each minor version.

    Their names tell the version, because each worker asks for them. A shim of pyenv may stand for a Python that is not there.
    """
    found = {sys.version_info.minor: sys.executable}
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = {path.parts[-3]: str(path) for path in sorted(pyenv.glob("versions/3.*/bin/python"))}
    for minor in range(10, 20):
        on_path = shutil.which(f"python3.{minor}")
        if on_path and "shims" not in Path(on_path).parts:
            found.setdefault(minor, on_path)
        for version, path in installed.items():
            if re.match(rf"3\.{minor}\b", version):
                found.setdefault(minor, path)
    return list(found.values())


def run_module(name: str, *arguments: str) -> str:
    """Run `python -m tests.node.NAME`; what it printed."""
    command = [sys.executable, "-m", f"tests.node.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@LINUX
@pytest.mark.parametrize("count", [3, pytest.param(30, marks=pytest.mark.long)])
def test_interrupted_at_any_moment_every_job_ends_with_sound_weights(count: int) -> None:
    count = int(os.environ.get("FLUX_TEST_INTERRUPTIONS", count))
    printed = run_module("interruptions", "--seeds", str(count), "--at-once", "3")
    assert f"{count} jobs ended with sound weights" in printed


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.long)])
def test_damaged_inputs_cause_no_fault(count: int) -> None:
    count = int(os.environ.get("FLUX_TEST_FUZZ", count))
    assert f"{count} mutated inputs, 0 faults" in run_module("fuzz", "--count", str(count))


@pytest.mark.parametrize("python", pythons())
def test_under_every_python_without_site_packages(python: str, tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-9", "save:8", "steps:9-20", "final:20")
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
    sources = [*(bundle.HERE / "launcher").glob("*.py"), bundle.HERE / "archive_main.py"]
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
