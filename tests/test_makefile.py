"""The Makefile beside a virtual environment that belongs to another checkout."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def make(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_linked_environment_is_used_but_never_installed_into(tmp_path: Path) -> None:
    shared, here = tmp_path / "shared", tmp_path / "here"
    (shared / "bin").mkdir(parents=True)
    (shared / "ready").touch()
    here.mkdir()
    shutil.copyfile(ROOT / "Makefile", here / "Makefile")
    (here / ".venv").symlink_to(shared)
    # The lock files, from which `make` installs, do not even exist here.
    code, output = make(here, "ready")
    assert (code, "Installing" in output) == (0, False), output
    code, output = make(here, ".venv/ready-dev")
    assert code == 2
    assert "lacks .venv/ready-dev; run `make .venv/ready-dev` there, or `rm .venv`" in output
