"""A full disk: what is said of it, and that it leaves nothing behind that breaks later commands. A limit on the size of files stands for it."""

import errno
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux_training.training import compiled_files
from flux_training.training.compiled_files import describe_damaged_bytecode, disable_bytecode_if_disk_is_full
from flux_training.training.files import explain_file_error, write_atomically
from tests.training.lint_folders import make_clean_job

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 8192


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    # Without compiled files, so that each is written anew.
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "flux_training", tmp_path / "flux_training", ignore=without)
    for name in ("Pulumi.yaml", "Pulumi.dev.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "jobs").mkdir()
    make_clean_job(tmp_path, "photos")
    return tmp_path


def flux(
    checkout: Path, *arguments: str, limited: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if limited:
            resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_BYTES, MAX_BYTES))

    return subprocess.run(
        [sys.executable, "-P", "-m", "flux_training.commands", *arguments],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(checkout), "HOME": str(checkout), **environment},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_command_that_cannot_write_names_the_file_and_leaves_no_half_made_job(checkout: Path) -> None:
    new = ("new", "cat", "--from", "photos/dataset", "--trigger", "tr1gger")
    done = flux(checkout, *new, limited=True, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 1
    assert re.search(r"error: cannot use jobs/\.cat\.new-\w+/\d\.jpg; .*`ulimit -f unlimited`", done.stderr)
    assert "Traceback" not in done.stderr
    assert list((checkout / "jobs").iterdir()) == []


@pytest.mark.long
def test_a_compiled_file_that_was_cut_off_is_named_with_a_command_that_helps(checkout: Path) -> None:
    # Only files of the checkout may be cut off: all tests share the libraries, so those are compiled first.
    flux(checkout, "new", "--help")
    for folder in checkout.rglob("__pycache__"):
        shutil.rmtree(folder)
    flux(checkout, "new", "--help", limited=True)
    failed = flux(checkout, "new", "--help")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    found = re.search(
        r"error: (\S+\.pyc) is cut off, .* run `(find \S+ -name '\*\.pyc' -delete)`", failed.stderr
    )
    assert found
    assert Path(found[1]).stat().st_size <= MAX_BYTES
    subprocess.run(found[2], shell=True, check=True)  # noqa: S602 - the command is shown to users of a shell
    assert flux(checkout, "new", "--help").returncode == 0


def test_nothing_is_compiled_on_a_disk_that_is_almost_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "")
    monkeypatch.setattr(compiled_files, "MIN_FREE_BYTES", 0)
    disable_bytecode_if_disk_is_full()
    assert not sys.dont_write_bytecode
    monkeypatch.setattr(compiled_files, "MIN_FREE_BYTES", 2**80)
    disable_bytecode_if_disk_is_full()
    assert sys.dont_write_bytecode


def test_other_ends_of_input_are_no_damage() -> None:
    assert describe_damaged_bytecode(EOFError()) == ""
    assert describe_damaged_bytecode(KeyboardInterrupt()) == ""
    assert describe_damaged_bytecode(None) == ""


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "your quota on this disk is used up"),
        (errno.EROFS, "the file system is read-only; mount it for writing"),
        (errno.EACCES, "you have no permission; change its owner"),
    ],
)
def test_errors_of_the_system_become_a_rule_and_a_next_step(number: int, rule: str) -> None:
    assert f"cannot use a/b; {rule}" in str(explain_file_error(OSError(number, "words", "a/b")))
    assert "a file below /" in str(explain_file_error(OSError(number, "words")))


def test_other_errors_stay_as_they_are() -> None:
    assert explain_file_error(OSError(errno.EINVAL, "words", "a/b")) is None


def test_an_atomic_write_that_fails_names_its_file_and_leaves_nothing(tmp_path: Path) -> None:
    script = "import pathlib, resource, sys; from flux_training.training.files import write_atomically\n"
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
    script += "try: write_atomically(pathlib.Path(sys.argv[1]), 'x' * 99)\n"
    script += "except OSError as error: print(error.filename)"
    path = tmp_path / "a"
    write_atomically(path, "old")
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(path)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]
