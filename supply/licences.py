"""Writes docs/licences.md: whose work is installed, on which terms. `make licences` runs it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from supply.locks import AWS, DEV, LOCAL, ROOT, locked

DOCUMENT = ROOT / "docs/licences.md"
HEAD = """\
# Licences

What is installed and on which terms, as each package says of itself. `make licences` makes this page from the installed packages; a test holds
it against them. Binaries inside a wheel can have terms of their own: they lie in the package's `*.dist-info/licenses/`.
"""
PARTS = (
    ("What `make up` installs", LOCAL),
    ("What a stack with `storage: {kind: aws}` installs besides", AWS),
    ("What tests, lint and installing need besides", DEV),
)
CLASSIFIER = "License :: "


def licence(package: metadata.PackageMetadata) -> str:
    """The SPDX expression where there is one, else the classifiers, else the first line of the field of old."""
    if expressions := package.get_all("License-Expression"):
        return str(expressions[0])
    classified = [
        value.rpartition(" :: ")[2]
        for value in package.get_all("Classifier") or []
        if value.startswith(CLASSIFIER) and value.count(" :: ") > 1
    ]
    old = next(iter(package.get_all("License") or []), "").strip().partition("\n")[0]
    return " / ".join(classified) or old or "says none"


def rows(packages: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(the table's rows, packages that are not installed here)."""
    found, missing = [], []
    for name, version in packages.items():
        try:
            package = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        found.append(f"| {name} | {version} | {licence(package)} |")
    return found, missing


def document() -> str:
    text, told, elsewhere = HEAD, set[str](), list[str]()
    for title, lock in PARTS:
        packages = {name: version for name, version in locked(lock).items() if name not in told}
        told |= packages.keys()
        found, missing = rows(packages)
        elsewhere += missing
        text += f"\n## {title}\n\n| package | version | licence |\n|---|---|---|\n" + "\n".join(found) + "\n"
    if elsewhere:
        text += f"\nLocked for other systems than the one this page was made on: {', '.join(elsewhere)}.\n"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
