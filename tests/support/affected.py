"""Runs the tests that a change affects: those that import a changed file, directly or through other modules, or are named after it.

python -m tests.support.affected [BASE [PYTEST ARGUMENTS…]]

A file is changed when it differs from where the branch left BASE. The tests nearest to a change run first, and none begins
after SECONDS; `make test` runs the rest. Tests of whole stacks (STORIES) import little of what they run: they are left to
`make test`, unless they have changed themselves. Tests of the repository itself, like those of its documents, always run.
"""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The folders that imports start at: pythonpath of pytest, and the packages.
STARTS = (
    "",
    "packages/pulumi-embedded",
    "packages/localcloud",
    "packages/pulumi-embedded/tests",
    "packages/localcloud/tests",
)
STORIES = ("tests/e2e", "tests/life", "tests/faults")
SECONDS = 40


def main(base: str = "origin/main", *arguments: str) -> int:
    changed = changed_files(base)
    tests = affected_tests(changed)
    print(f"{len(changed)} files have changed since {base}, which affects {len(tests)} test files")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--dist",
        "load",
        f"--stop-after={SECONDS}",
        *arguments,
        *tests,
    ]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    # 5: all of them are `long`.
    return 0 if code == 5 else code


def changed_files(base: str) -> set[str]:
    """Tracked and new files that differ from where this branch left `base`."""
    fork = _git("merge-base", base, "HEAD") or ["HEAD"]
    return {*_git("diff", "--name-only", fork[0]), *_git("ls-files", "--others", "--exclude-standard")}


def affected_tests(changed: set[str]) -> list[str]:
    """Test files by how many imports lie between them and the change, nearest first."""
    files = {
        path
        for path in _git("ls-files", "--cached", "--others", "--exclude-standard", "*.py")
        if (ROOT / path).is_file()
    }
    importers: dict[str, set[str]] = defaultdict(set)
    for path in files:
        for imported in _imported_files(path, files):
            importers[imported].add(path)
    found: dict[str, None] = {}
    front = sorted((changed & files) | {path for path in files if _is_named_after(path, changed)})
    while front:
        found |= dict.fromkeys(front)
        front = sorted({importer for path in front for importer in importers[path]} - found.keys())
    tests = [path for path in found if Path(path).name.startswith("test_")]
    own = sorted(path for path in files if re.fullmatch(r"tests/test_\w+\.py", path))
    return list(
        dict.fromkeys([path for path in tests if path in changed or not path.startswith(STORIES)] + own)
    )


def _is_named_after(path: str, changed: set[str]) -> bool:
    """Whether the file at `path` is `test_x.py` or `test_x_….py` and an `x` has changed: some modules are imported by name only."""
    name = Path(path).stem
    return any(f"{name}_".startswith(f"test_{Path(other).stem}_") for other in changed)


def _imported_files(path: str, files: set[str]) -> Iterator[str]:
    """The repository's files that the file at `path` imports, a conftest.py beside or above it included."""
    yield from (
        f"{folder}/conftest.py" for folder in map(str, Path(path).parents) if f"{folder}/conftest.py" in files
    )
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            for start in STARTS:
                stem = Path(start) / name.replace(".", "/")
                yield from ({f"{stem}.py", f"{stem}/__init__.py"} & files) - {path}


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[:-1]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
