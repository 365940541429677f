"""Limits that keep the code readable: sizes, names, reasons, folders."""

import io
import re
import statistics
import subprocess
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

from tests.bench.measures import OURS, ROOT, files, functions

MAX_FILE_LINES = 500
MAX_FLAT_MODULES = 20
MAX_TOP_LEVEL_ENTRIES = 21
# A suppression comment: what it suppresses, then the reason.
SUPPRESSION = re.compile(
    r"#\s*(noqa|type:\s*ignore)(?P<codes>(:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)|\[[\w,-]+\])?(?P<reason>.*)"
)


def tracked(pattern: str = "*") -> list[Path]:
    """The files of the repository whose name matches, new ones included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", pattern]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_functions_stay_short() -> None:
    found = [one for folder in OURS for one in functions(ROOT / folder)]
    lines = sorted(one.lines for one in found)
    assert statistics.median(lines) <= 7
    assert lines[int(len(lines) * 0.9)] <= 19
    assert [one for one in found if one.lines > 60] == []


def test_files_stay_short() -> None:
    found = [one for folder in OURS for one in files(ROOT / folder)]
    assert [one for one in found if one.lines > MAX_FILE_LINES] == []


def test_every_package_says_what_belongs_there() -> None:
    """In the docstring of its `__init__`."""
    packages = [path for folder in OURS for path in (ROOT / folder).rglob("__init__.py")]
    assert [name(path) for path in packages if not path.read_text("utf-8").startswith('"""')] == []


def test_no_folder_holds_many_modules() -> None:
    modules = Counter(
        name(path.parent)
        for path in tracked("*.py")
        if path.name != "__init__.py" and "tests" not in path.relative_to(ROOT).parts
    )
    assert {folder: count for folder, count in modules.items() if count > MAX_FLAT_MODULES} == {}


def test_the_top_level_has_few_entries() -> None:
    assert len({path.relative_to(ROOT).parts[0] for path in tracked()}) <= MAX_TOP_LEVEL_ENTRIES


def test_a_class_name_means_one_thing() -> None:
    places = defaultdict(list)
    for path in tracked("*.py"):
        for defined in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            places[defined].append(name(path))
    assert {cls: found for cls, found in places.items() if len(found) > 1} == {}


def test_every_suppressed_warning_has_its_code_and_its_reason() -> None:
    bare = []
    for path in tracked("*.py"):
        text = path.read_text(encoding="utf-8")
        # Reading all files as tokens takes seconds.
        if not re.search(r"#\s*(noqa|type:)", text):
            continue
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            match = SUPPRESSION.match(token.string) if token.type == tokenize.COMMENT else None
            if match and (not match["codes"] or not re.search(r"\w{2}", match["reason"])):
                bare.append(f"{name(path)}:{token.start[0]} {token.string}")
    assert bare == []
