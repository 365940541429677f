"""The Makefile: beside a virtual environment of another checkout, in a project of your own, and `make pictures`."""

import shutil
import subprocess
from pathlib import Path

import pytest

from flux_training.training.errors import BadInput
from tests.support import pictures

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


def test_flux_needs_make_only_for_the_first_start(tmp_path: Path) -> None:
    shutil.copy(ROOT / "flux", tmp_path / "flux")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "started $*"\n')
    python.chmod(0o755)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "dirname").symlink_to(shutil.which("dirname") or "")

    def flux() -> tuple[int, str]:
        command = ["/bin/sh", "./flux", "status"]
        done = subprocess.run(
            command, cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    code, output = flux()
    assert code == 1
    assert "make is missing, which the first start needs" in output
    assert "sudo apt install make" in output
    (tmp_path / ".venv/ready").touch()
    assert flux() == (0, "started -P -m flux_training.commands status\n")


def test_a_project_of_your_own_lists_what_make_does_there(tmp_path: Path) -> None:
    shutil.copy(ROOT / "flux_training/commands/init/templates/Makefile", tmp_path / "Makefile")
    (tmp_path / "flux-training").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path / "flux-training/Makefile")
    code, output = make(tmp_path, "help")
    assert code == 0
    listed = [line.split()[1] for line in output.splitlines() if line.startswith("  make ")]
    assert {"up", "plan", "destroy", "cloud"} <= set(listed)
    targets = (tmp_path / "Makefile").read_text().partition(".PHONY:")[2].splitlines()[0].split()
    assert set(listed) <= set(targets)
    for target in ("aws", "ready"):
        _, output = make(tmp_path, "--dry-run", target)
        assert f"make -s -C flux-training {target}" in output


def test_make_pictures_starts_the_local_cloud_and_ends_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def fail() -> None:
        done.append("pictures")
        raise BadInput(["outputs/dev has no run"])

    monkeypatch.setattr(pictures, "ensure_local_cloud", lambda: done.append("cloud"))
    monkeypatch.setattr(pictures, "make_pictures", fail)
    with pytest.raises(SystemExit, match=r"^error: outputs/dev has no run$"):
        pictures.main()
    assert done == ["cloud", "pictures"]


@pytest.mark.parametrize("makefile", ["Makefile", "flux_training/commands/init/templates/Makefile"])
def test_variables_in_small_letters_are_refused(makefile: str) -> None:
    """They would be ignored, and the stack dev be updated."""
    done = subprocess.run(
        ["make", "-f", makefile, "up", "stack=prod"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "type STACK=prod, in capitals" in done.stderr) == (2, True)
