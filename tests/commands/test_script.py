"""The `flux` script in the checkout."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.flux import ROOT, with_code


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (checkout / ".venv/bin/python").chmod(0o755)
    (checkout / "Makefile").write_text("ready:\n")
    shutil.copy(ROOT / "flux", checkout)
    with_code(checkout)
    elsewhere.mkdir()
    for name in ("flux_training.py", "commands.py", "rich_click.py"):
        (elsewhere / name).write_text("raise SystemExit('foreign code was run')\n")
    done = subprocess.run(
        [checkout / "flux", "status", "--help"], cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "foreign" in done.stdout + done.stderr) == (0, False)
