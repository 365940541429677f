"""What is installed: every package locked with hashes, its licence listed, its known faults asked for without ever standing in the way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supply import audit
from supply.licences import DOCUMENT, PARTS, rows
from supply.locks import AWS, DEV, LOCAL, ROOT, UV, locked

LOCKS = (LOCAL, AWS, UV, DEV)
AWS_PACKAGE = "pulumi-aws"
# A file of theirs: version, perhaps a condition, then a hash a line.
ENTRY = re.compile(r"[\w.-]+==[^\s;]+( ; .+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n?")


def pins(*names: str) -> dict[str, str]:
    """What requirements*.txt name, as the locks write names."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in names)
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {re.sub(r"[._-]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_is_locked_with_hashes_and_from_no_address(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)[1:]
    assert entries
    assert [entry[:50] for entry in entries if not ENTRY.fullmatch(entry)] == []
    assert "://" not in text


def test_the_locks_hold_what_the_requirements_pin() -> None:
    """Else `make lock` was forgotten."""
    product = pins("requirements.txt", "requirements-local.txt")
    version = product.pop(AWS_PACKAGE)
    assert product.items() <= locked(LOCAL).items()
    assert locked(AWS)[AWS_PACKAGE] == version
    assert pins("requirements-dev.txt").items() <= locked(DEV).items()


def test_one_package_has_one_version() -> None:
    for lock in LOCKS:
        assert locked(lock).items() <= locked(DEV).items()


def test_what_only_aws_needs_is_not_installed_for_the_others() -> None:
    assert AWS_PACKAGE not in locked(LOCAL)
    # What it needs, pulumi needs anyway.
    assert locked(AWS).keys() - locked(LOCAL).keys() == {AWS_PACKAGE}


def test_the_page_of_licences_is_that_of_the_installed_packages() -> None:
    """Packages that are locked for other systems than this one are in the page of whoever made it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    lines = text.splitlines()
    for _, lock in PARTS:
        found, elsewhere = rows(locked(lock))
        assert [row for row in found if row not in lines] == [], "`make licences` writes it anew"
        assert [name for name in elsewhere if name not in text] == []
    assert len([line for line in lines if line.startswith("| ")]) <= len(locked(DEV)) + len(PARTS)


def fault(identity: str, *mended: str) -> dict[str, object]:
    return {"id": identity, "fix_versions": list(mended), "aliases": [], "description": ""}


def answer(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


def test_a_known_vulnerability_is_named_and_fails() -> None:
    bad = {"name": "a", "version": "1", "vulns": [fault("CVE-1", "1.1", "2.0"), fault("CVE-2")]}
    said, vulnerable = audit.judge(answer(bad, {"name": "b", "version": "1", "vulns": []}), "")
    assert vulnerable
    assert said[:2] == ["a 1: CVE-1, mended in 1.1, 2.0", "a 1: CVE-2, not mended yet"]
    assert "requirements*.txt" in said[-1]


def test_none_is_said_only_of_packages_that_were_asked_for() -> None:
    good, unknown = {"name": "b", "version": "1", "vulns": []}, {"name": "c", "skip_reason": "not found"}
    said, vulnerable = audit.judge(answer(good, unknown), "")
    assert not vulnerable
    assert said == [
        "pip-audit: the package index knows nothing of c",
        "pip-audit: no known vulnerability in 1 packages",
    ]


def test_an_index_that_tells_of_none_is_no_clean_bill() -> None:
    """pip-audit itself says "No known vulnerabilities found" there, and ends with 0."""
    said, vulnerable = audit.judge(answer({"name": "c", "skip_reason": "not found"}), "")
    assert (said[0].startswith("skipped pip-audit: "), vulnerable) == (True, False)


def test_no_answer_is_said_with_its_reason() -> None:
    said, vulnerable = audit.judge("", "Traceback\nConnectionError: nobody there\n")
    assert said == ["skipped pip-audit: ConnectionError: nobody there; CI asks PyPI"]
    assert not vulnerable


def test_a_silent_network_ends_in_bounded_time() -> None:
    begun = time.monotonic()
    printed = audit.ask(command=(sys.executable, "-c", "import time; time.sleep(60)"), seconds=0.5)
    assert time.monotonic() - begun < 20
    assert audit.judge(*printed)[0] == ["skipped pip-audit: no answer in 0.5 seconds; CI asks PyPI"]


def test_a_stack_on_aws_has_its_package_installed_and_no_other_has(tmp_path: Path) -> None:
    """Which packages `make up` would install, by its own word; a comment that speaks of AWS is no stack on AWS."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text(encoding="utf-8"))
    for name, wanted in (("kind: s3 # or kind: aws", False), ("kind: aws", True), ('{kind: "aws"}', True)):
        (tmp_path / "Pulumi.prod.yaml").write_text(f"config:\n  flux-training:storage:\n    {name}\n")
        line = ["make", "--no-print-directory", "--question", "--print-data-base", "ready"]
        told = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
        (ready,) = re.findall(r"^ready: (.+)$", told, re.MULTILINE)
        assert (".venv/ready-aws" in ready) == wanted, name
