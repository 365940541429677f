"""Prints the results of `mutmut run`: counts for each module, then the change of every mutant that no test noticed.

python -m tests.mutation.survivors [part of a module's name]
"""

import json
import sys
from collections import Counter
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant

MUTANTS = Path("mutants")
# mutmut's exit codes (mutmut/__main__.py). Other codes are timeouts, which count as noticed.
SURVIVED, NO_TESTS, KILLED = 0, 33, 1
NAMES = {KILLED: "killed", SURVIVED: "survived", NO_TESTS: "no tests", None: "not run"}
WIDTH = 34


def main(wanted: str = "") -> None:
    found = {meta: _outcomes(meta) for meta in sorted(MUTANTS.rglob("*.py.meta")) if wanted in str(meta)}
    columns = ("mutants", "killed", "timed out", "survived", "no tests", "not run")
    print(f"{'module':<{WIDTH}}" + "".join(f"{column:>10}" for column in columns))
    for meta, outcomes in found.items():
        counts = Counter(NAMES.get(code, "timed out") for code in outcomes.values())
        counts["mutants"] = len(outcomes)
        if counts["mutants"] > counts["not run"]:
            print(f"{_module(meta):<{WIDTH}}" + "".join(f"{counts[column]:>10}" for column in columns))
    for outcomes in found.values():
        for mutant, code in outcomes.items():
            if code == SURVIVED:
                print(f"\n{mutant}\n" + "\n".join(_changes(mutant)))


def _outcomes(meta: Path) -> dict[str, int | None]:
    outcomes: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
    return outcomes


def _module(meta: Path) -> str:
    return str(meta.relative_to(MUTANTS)).removesuffix(".meta")


def _changes(mutant: str) -> list[str]:
    lines = get_diff_for_mutant(mutant).splitlines()
    return [f"    {line}" for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


if __name__ == "__main__":
    main(*sys.argv[1:])
