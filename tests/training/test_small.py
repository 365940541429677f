"""Atomic writes, locks, natural order, GPU memory by name."""

import os
from pathlib import Path

import pytest

from flux_training.training.errors import FluxError
from flux_training.training.files import lock_for_flux_command, natural_key, write_atomically, write_new
from flux_training.training.gpu import memory_gb
from flux_training.training.words import wrapped


@pytest.mark.parametrize(
    ("gpu", "memory"),
    [
        ("RTX 5090", 32),
        ("NVIDIA GeForce RTX 4090", 24),
        ("RTX 3080 (10 GB)", 10),
        (">= 24 GB", 24),
        ("rtx 3090 ti laptop", None),
        ("RTX 4090 Laptop GPU", None),
        ("RTX 4090 Laptop (16 GB)", 16),
        ("0a1b-uuid", None),
        ("", None),
    ],
)
def test_memory_is_read_from_gpu_names(gpu: str, memory: int | None) -> None:
    assert memory_gb(gpu) == memory


def test_atomic_write_keeps_the_mode_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, "one")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("one", 0o644)
    path.chmod(0o600)
    write_atomically(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_synced_before_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _file: waits.append(path.exists()))
    for path, write in (
        (tmp_path / "a", write_atomically),
        (tmp_path / "b", write_new),
        (tmp_path / "c", lambda path, text: write_atomically(path, text, lasting=False)),
    ):
        write(path, "one")
    assert waits == [False, False]


def test_write_new_does_not_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert write_new(path, "one")
    assert not write_new(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_locked_for_one_command(tmp_path: Path) -> None:
    with lock_for_flux_command(tmp_path):
        with (
            pytest.raises(FluxError, match="another flux command is using") as caught,
            lock_for_flux_command(tmp_path),
        ):
            pass
        assert "wait until it has ended, then run this again" in str(caught.value)
    with lock_for_flux_command(tmp_path):
        pass


@pytest.mark.parametrize(
    ("names", "in_order"),
    [
        ("img10 img2b img2 img IMG2 a 10 2", "2 10 a img IMG2 img2 img2b img10"),
        # Digits that are not decimal sort as characters.
        ("①1.jpg 5²3.jpg 5²1.jpg 5.jpg ²1.jpg", "5.jpg 5²1.jpg 5²3.jpg ²1.jpg ①1.jpg"),
    ],
)
def test_names_are_sorted_in_natural_order(names: str, in_order: str) -> None:
    assert sorted(names.split(), key=natural_key) == in_order.split()


def test_wrapped_lines_have_a_hanging_indent_and_whole_commands() -> None:
    text = "one two `make up STACK=prod` three\n  four five six seven eight"
    assert wrapped(text, 20).split("\n") == [
        "one two",
        "  `make up STACK=prod`",
        "  three",
        "  four five six",
        "    seven eight",
    ]
    assert wrapped("", 20) == ""
