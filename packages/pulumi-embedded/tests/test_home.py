"""A user without a home folder, or with one that cannot be written, is told what to set."""

import re
from pathlib import Path

import pytest
from pulumi_embedded.errors import EngineError
from pulumi_embedded.project import selection
from pulumi_embedded.state import locks

NEXT_STEP = "set PULUMI_HOME to a folder that can be written"


def test_a_missing_home_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(_cls: object = None) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PULUMI_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_entry)
    with pytest.raises(EngineError, match=f"HOME is not set, and this user has no home folder; {NEXT_STEP}"):
        selection.pulumi_home()


def test_a_home_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a file"
    file.touch()
    monkeypatch.setenv("PULUMI_HOME", str(file))
    message = rf"{re.escape(str(file))}/workspaces/.* cannot be written \(.*\); {NEXT_STEP}"
    with pytest.raises(EngineError, match=message):
        selection.select_stack("test", tmp_path / "Pulumi.yaml", "file://.", "dev")


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr(locks.getpass, "getuser", no_entry)
    assert locks.current_user().isdigit()
