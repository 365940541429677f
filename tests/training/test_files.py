"""Writing and locking on file systems that people have: without hard links or locks, with short names, unplugged."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from flux_training.training.errors import FluxError
from flux_training.training.files import (
    explain_file_error,
    lock_for_flux_command,
    try_lock,
    write_atomically,
    write_new,
)


# exFAT; SMB; a FUSE file system without the call; Android.
@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES])
def test_new_files_are_written_where_there_are_no_hard_links(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_source: Path, _target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert write_new(tmp_path / "1.txt", "a cat\n")
    assert not write_new(tmp_path / "1.txt", "a dog\n")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("1.txt", "a cat\n")]


@pytest.mark.parametrize("stem", ["x" * 251, "\u732b" * 83, "\U0001f431" * 62, "a"])
def test_a_file_may_have_the_longest_name_that_there_is(stem: str, tmp_path: Path) -> None:
    """Programs that generate images name them after their prompts."""
    file = tmp_path / f"{stem}.txt"
    assert write_new(file, "a cat")
    write_atomically(file, "a dog")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["a dog"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN])
def test_a_lost_drive_is_named(number: int) -> None:
    found = explain_file_error(OSError(number, "words", "jobs/cat"))
    assert str(found).startswith("cannot use jobs/cat; the disk or network drive does not answer; check that")
    # Connections and terminals fail with the same numbers.
    assert explain_file_error(OSError(number, "words")) is None


def test_a_name_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        (tmp_path / ("x" * 256)).touch()
    assert "longer than this file system allows; give it a shorter name" in str(
        explain_file_error(caught.value)
    )


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_can_be_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_handle: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_for_flux_command(tmp_path):
        (tmp_path / "a").touch()


def test_a_folder_is_locked_until_the_end(tmp_path: Path) -> None:
    with (
        lock_for_flux_command(tmp_path),
        pytest.raises(FluxError, match="another flux command is using"),
        lock_for_flux_command(tmp_path),
    ):
        pass
    handle = os.open(tmp_path, os.O_RDONLY)
    assert try_lock(handle)
    os.close(handle)
