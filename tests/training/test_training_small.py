"""Small decisions of their own: files and folders, locks, process numbers, GPU memory by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from training.errors import FluxError
from training.files import natural_key, only_one_in, write_atomically, write_new
from training.lint.gpu_memory import memory_gb
from training.processes import is_alive


@pytest.mark.parametrize(
    ("gpu", "memory"),
    [
        ("RTX 5090", 32),
        ("NVIDIA GeForce RTX 4090", 24),
        ("RTX 3080 (10 GB)", 10),
        (">= 24 GB", 24),
        ("rtx 3090 ti laptop", None),
        ("0a1b-uuid", None),
        ("", None),
    ],
)
def test_how_much_memory_a_gpus_name_tells(gpu: str, memory: int | None) -> None:
    assert memory_gb(gpu) == memory


def test_a_file_is_written_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, "one")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("one", 0o644)
    path.chmod(0o600)
    write_atomically(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_takes_nobody_elses_place(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert write_new(path, "one")
    assert not write_new(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_one_command_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with only_one_in(tmp_path):
        with (
            pytest.raises(FluxError, match="another flux command is at work in") as caught,
            only_one_in(tmp_path),
        ):
            pass
        assert "wait until it has ended, then run this again" in str(caught.value)
    with only_one_in(tmp_path):
        pass


def test_names_are_sorted_as_people_sort_them() -> None:
    names = ["img10", "IMG2", "img2", "a", "2", "10"]
    assert sorted(names, key=natural_key) == ["2", "10", "a", "IMG2", "img2", "img10"]


def test_which_processes_are_alive() -> None:
    assert is_alive(os.getpid())
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(pid)  # a zombie
    os.waitpid(pid, 0)
    assert not is_alive(pid)


def test_somebody_elses_process_and_one_without_proc_count_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        assert is_alive(os.getpid())
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", refuse)
        assert is_alive(os.getpid())
