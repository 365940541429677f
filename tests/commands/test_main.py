"""Terminals and working directories that commands must cope with before they begin."""

import io
import os
import sys
from pathlib import Path

import pytest

from flux_training.commands.main import _prepare_output, _require_working_directory
from flux_training.training.errors import FluxError


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("ascii", b"\\xfc \\u732b"), ("latin-1", b"\xfc \\u732b"), ("utf-8", "\xfc \u732b".encode())],
)
def test_what_an_encoding_lacks_is_printed_as_escapes(
    encoding: str, printed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    _prepare_output()
    print("\xfc \u732b", end="", flush=True)
    assert raw.getvalue() == printed


@pytest.mark.parametrize(("columns", "left"), [("0", None), ("80", "80")])
def test_no_width_is_not_taken_for_a_width(
    columns: str, left: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rich prints nothing into 0 columns."""
    monkeypatch.setenv("COLUMNS", columns)
    _prepare_output()
    assert os.environ.get("COLUMNS") == left


def test_a_working_directory_that_was_deleted_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FluxError, match="the folder you are in was deleted; change to the project"):
        _require_working_directory()
