"""Pulumi programs that are not ours, in the style of the Pulumi examples, run unchanged: their life from `up` to `destroy`.

By the engine, by the real CLI where it is on the PATH, and by both in turns on one state.
"""

import json
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from engine_cli import CLI, cli
from engine_stack import HERE, PACKAGE_FOLDER, EngineStack

FOREIGN = HERE / "foreign"
Run = Callable[..., str]
NEEDS_CLI = pytest.mark.skipif(CLI is None, reason="the Pulumi CLI is not on the PATH")


class ForeignProgram:
    """One program in a folder of its own, driven by one tool or by two in turns."""

    def __init__(self, folder: Path, name: str, hands: str, virtualenv: Path) -> None:
        self.folder = folder / name
        shutil.copytree(FOREIGN / name, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        if hands == "engine":
            project = self.folder / "Pulumi.yaml"
            runtime = f"runtime: {{name: python, options: {{virtualenv: '{virtualenv}'}}}}\n"
            project.write_text(re.sub(r"runtime:\s+(name: )?python\n", runtime, project.read_text()))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PULUMI_")}
        environment |= {
            "PULUMI_CONFIG_PASSPHRASE": "foreign",
            "PULUMI_HOME": str(folder / "home"),
            "PULUMI_BACKEND_URL": f"file://{self.folder}",
            "PYTHONPATH": str(PACKAGE_FOLDER),
            "PYTHONDONTWRITEBYTECODE": "",
            # The CLI takes the Python of the PATH where a project names none: it must have the SDK.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.stack = EngineStack(self.folder, environment, str(virtualenv / "bin/python"))
        self.hands = {"engine": [self.engine], "cli": [self.cli], "both": [self.engine, self.cli]}[hands]
        self.count = 0

    def engine(self, *arguments: str) -> str:
        return self.stack.run(*arguments)

    def cli(self, *arguments: str) -> str:
        return cli(self.stack, *arguments, PATH=self.stack.environment["PATH"])

    def run(self, *arguments: str) -> str:
        """Run a command by the hand whose turn it is."""
        self.count += 1
        return self.hands[self.count % len(self.hands)](*arguments)

    def up(self) -> str:
        """An update, after which nobody sees a change."""
        shown = self.run("up", "--yes", "--skip-preview")
        for hand in self.hands:
            hand("preview", "--expect-no-changes")
        return shown

    def outputs(self) -> Any:
        return json.loads(self.run("stack", "output", "--json", "--show-secrets"))


@pytest.fixture(
    params=["engine", pytest.param("cli", marks=NEEDS_CLI), pytest.param("both", marks=NEEDS_CLI)]
)
def hands(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.long
def test_pets_and_files(tmp_path: Path, hands: str, virtualenv: Path) -> None:
    life = ForeignProgram(tmp_path, "pet_files", hands, virtualenv)
    life.run("stack", "init", "dev")
    life.run("config", "set", "--secret", "signature", "hush-hush")
    assert "9 created" in life.up()
    first = life.outputs()
    pets = first["pets"]
    tag, papers = (life.folder / "pets/north" / name for name in ("tag.txt", "papers.txt"))
    assert tag.read_text() == f"My name is {pets['north']}.\n"
    assert first["papers"] == "".join(f"{pets[name]}, hush-hush\n" for name in ("north", "south"))
    assert first["total"] == sum(len(f"My name is {pets[name]}.\n") for name in pets)
    assert "hush-hush" not in (life.folder / ".pulumi/stacks/pet-files/dev.json").read_text()
    # Other words make other pets (replaced), and their files' contents follow (updated); one kennel goes.
    life.run("config", "set", "words", "4")
    life.run("config", "set", "kennels", "north")
    shown = life.up()
    assert "1 replaced" in shown
    assert "2 updated" in shown
    assert "4 deleted" in shown
    assert life.outputs()["pets"]["north"].count("-") == 3
    assert not (life.folder / "pets/south/tag.txt").exists()
    # Drift is seen by a refresh and mended by the next update; what is gone is made again.
    tag.write_text("somebody else")
    papers.unlink()
    shown = life.run("refresh", "--yes", "--skip-preview")
    assert "1 updated" in shown
    assert "1 deleted" in shown
    assert "1 created" in life.up()
    assert tag.read_text() == f"My name is {life.outputs()['pets']['north']}.\n"
    assert papers.exists()
    assert "5 deleted" in life.run("destroy", "--yes", "--skip-preview")
    assert not tag.exists()


def rows(life: ForeignProgram, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(life.folder / "library.db")) as connection:
        return sorted(connection.execute(f"SELECT * FROM {table}"))  # noqa: S608 - the test's own names


def test_tables_and_rows(tmp_path: Path, hands: str, virtualenv: Path) -> None:
    life = ForeignProgram(tmp_path, "sqlite_tables", hands, virtualenv)
    life.run("stack", "init", "dev")
    life.run("config", "set", "--secret", "card", "c-1234")
    life.run("config", "set", "pageSize", "8192")
    assert "7 created" in life.up()
    assert rows(life, "books") == [("emma", "Emma", 1815)]
    assert life.outputs()["card"] == "card c-1234"
    assert life.outputs()["pageSize"] == 8192
    # A changed value is an update in place, a new row a create; the count follows.
    life.run("config", "set", "--path", "books.emma.year", "1816")
    life.run("config", "set", "--path", "books.emma.title", "Emma")
    life.run("config", "set", "--path", "books.ulysses.title", "Ulysses")
    life.run("config", "set", "--path", "books.ulysses.year", "1922")
    shown = life.up()
    assert "1 created" in shown
    assert "2 updated" in shown
    assert json.loads(life.outputs()["summary"]) == {
        "path": "library.db",
        "counts": {"books": 2, "readers": 1},
    }
    # Another column replaces the table, and with it its rows, deleted before they are made again.
    life.run("config", "set", "--path", "moreColumns[0]", "pages")
    assert "replaced" in life.up()
    assert rows(life, "books") == [("emma", "Emma", 1816, None), ("ulysses", "Ulysses", 1922, None)]
    # A row that somebody changed, and one that somebody took away.
    with closing(sqlite3.connect(life.folder / "library.db")) as connection, connection:
        connection.execute("UPDATE books SET year = 1 WHERE key = 'emma'")
        connection.execute("DELETE FROM books WHERE key = 'ulysses'")
    life.run("refresh", "--yes", "--skip-preview")
    life.up()
    assert rows(life, "books") == [("emma", "Emma", 1816, None), ("ulysses", "Ulysses", 1922, None)]
    assert "deleted" in life.run("destroy", "--yes", "--skip-preview")
    assert not (life.folder / "library.db").exists()


def test_foreign_programs_do_not_use_our_modules() -> None:
    for path in FOREIGN.rglob("*.py"):
        ours = {"pulumi_embedded", "things", "components", "flux_training"}
        for line in path.read_text().splitlines():
            assert not (
                line.startswith(("import ", "from ")) and set(line.replace(",", " ").split()) & ours
            ), path
