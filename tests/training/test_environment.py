"""What child processes get (no proxy on this machine, a home folder for Pulumi), and what would be imported in place of the tool."""

import os
from pathlib import Path

import pytest

from flux_training.training.environment import (
    bypass_proxy_for_loopback,
    find_shadowing_packages,
    pulumi_home_or_fallback,
)

HERE = "127.0.0.1,localhost,::1"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("environ", "hosts", "for_grpc"),
    [
        ({}, HERE, HERE),
        ({"no_proxy": "a.example"}, f"a.example,{HERE}", f"a.example,{HERE}"),
        (
            {"NO_PROXY": "a.example, localhost"},
            "a.example,localhost,127.0.0.1,::1",
            "a.example,localhost,127.0.0.1,::1",
        ),
        ({"no_grpc_proxy": "b.example", "no_proxy": "a.example"}, f"a.example,{HERE}", f"b.example,{HERE}"),
    ],
)
def test_this_machine_is_reached_without_a_proxy(environ: dict[str, str], hosts: str, for_grpc: str) -> None:
    assert bypass_proxy_for_loopback(environ) == {
        "no_proxy": hosts,
        "NO_PROXY": hosts,
        "no_grpc_proxy": for_grpc,
    }


def test_a_home_folder_that_can_be_written_is_used(tmp_path: Path) -> None:
    assert pulumi_home_or_fallback({"HOME": str(tmp_path)}, tmp_path / "other") == {}
    assert pulumi_home_or_fallback({"PULUMI_HOME": "/nowhere"}, tmp_path / "other") == {}


def test_without_a_home_folder_pulumi_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = str(tmp_path / "other")
    assert pulumi_home_or_fallback({"HOME": str(tmp_path / "missing")}, tmp_path / "other") == {
        "PULUMI_HOME": other
    }

    def no_entry(_cls: object = None) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_entry)
    assert pulumi_home_or_fallback({}, tmp_path / "other") == {"PULUMI_HOME": other, "HOME": other}


def test_a_read_only_home_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As root, everything can be written.
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert pulumi_home_or_fallback({"HOME": str(tmp_path)}, tmp_path / "x") == {
        "PULUMI_HOME": str(tmp_path / "x")
    }


def test_folders_named_like_the_tools_packages_are_refused(tmp_path: Path) -> None:
    """Only in a project of one's own: the tool's checkout has these folders."""
    assert find_shadowing_packages(ROOT, ROOT) == []
    assert find_shadowing_packages(tmp_path, ROOT) == []
    (tmp_path / "components").mkdir()
    (tmp_path / "flux_training").touch()
    said = "flux-training has a package with this name; rename the file or folder"
    assert find_shadowing_packages(tmp_path, ROOT) == [
        f"{tmp_path / name}: {said}" for name in ("components", "flux_training")
    ]
    # A checkout of the tool, wherever it lies.
    assert find_shadowing_packages(tmp_path, tmp_path) == []
