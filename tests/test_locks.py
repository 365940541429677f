"""requirements/*.lock and requirements.txt hold what the pyproject.toml files declare, with hashes."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
AWS_PACKAGE = "pulumi-aws"
PIN = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)
# An entry of a lock: version, perhaps a condition, then a hash a line.
ENTRY = re.compile(r"[\w.-]+==[^\s;]+( ; .+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n?")


def locked(name: str) -> dict[str, str]:
    """Package → version of requirements/NAME.lock."""
    return dict(PIN.findall((ROOT / f"requirements/{name}.lock").read_text(encoding="utf-8")))


def project(folder: str = ".") -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


def pins(requirements: list[str]) -> dict[str, str]:
    """The requirements with an exact version, named as the locks name them."""
    found = PIN.findall("\n".join(entry for entry in requirements if isinstance(entry, str)))
    return {re.sub(r"[._-]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("name", ["local", "aws", "uv", "dev", "export"])
def test_every_package_is_locked_with_hashes_and_without_an_address(name: str) -> None:
    text = (ROOT / f"requirements/{name}.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)[1:]
    assert entries
    assert [entry[:50] for entry in entries if not ENTRY.fullmatch(entry)] == []
    assert "://" not in text


def test_the_locks_hold_what_the_pyproject_files_pin() -> None:
    """Otherwise `make lock` was forgotten."""
    ours = project()
    assert pins(ours["project"]["dependencies"]).items() <= locked("local").items()
    assert pins(project("packages/localcloud")["project"]["dependencies"]).items() <= locked("local").items()
    assert pins(ours["project"]["optional-dependencies"]["aws"]).items() <= locked("aws").items()
    assert pins(ours["dependency-groups"]["dev"]).items() <= locked("dev").items()
    assert pins(ours["dependency-groups"]["export"]).items() <= locked("export").items()


def test_requirements_txt_is_what_pyproject_declares() -> None:
    """Pulumi's CLI installs it. A stack on the local cloud needs the packages of that, too."""
    declared = project()["project"]
    installed = dict(PIN.findall((ROOT / "requirements.txt").read_text(encoding="utf-8")))
    ours = pins([*declared["dependencies"], *declared["optional-dependencies"]["aws"]])
    local = {
        re.split("[=>]", one)[0].lower() for one in project("packages/localcloud")["project"]["dependencies"]
    }
    assert installed == ours | {name: version for name, version in locked("dev").items() if name in local}


def test_one_package_has_one_version() -> None:
    for name in ("local", "aws", "uv"):
        assert locked(name).items() <= locked("dev").items()
    export, dev = locked("export"), locked("dev")
    assert {name: export[name] for name in export.keys() & dev.keys()}.items() <= dev.items()


def test_pulumi_aws_is_not_installed_for_other_stacks() -> None:
    assert AWS_PACKAGE not in locked("local")
    # All that it needs, pulumi needs anyway.
    assert locked("aws").keys() - locked("local").keys() == {AWS_PACKAGE}


@pytest.mark.parametrize("tool", ["", "flux-training"])
def test_only_stacks_on_aws_install_its_package(tmp_path: Path, tool: str) -> None:
    """Which packages `make up` would install. A comment that mentions AWS is not a stack on AWS.

    In a project of your own, the stack files are in the folder above the tool's.
    """
    (tmp_path / tool).mkdir(exist_ok=True)
    (tmp_path / tool / "Makefile").write_text((ROOT / "Makefile").read_text(encoding="utf-8"))
    for name, wanted in (("kind: s3 # or kind: aws", False), ("kind: aws", True), ('{kind: "aws"}', True)):
        (tmp_path / "Pulumi.prod.yaml").write_text(f"config:\n  flux-training:storage:\n    {name}\n")
        line = ["make", "--no-print-directory", "--question", "--print-data-base", "ready"]
        told = subprocess.run(line, cwd=tmp_path / tool, capture_output=True, text=True, check=False).stdout
        (ready,) = re.findall(r"^ready: (.+)$", told, re.MULTILINE)
        assert (".venv/ready-aws" in ready) == wanted, name
