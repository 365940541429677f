"""Help texts in a terminal of 80 columns: whole words, nothing cut, and required options marked."""

import re

import pytest
import rich_click as click
from click.testing import CliRunner

from flux_training.commands.main import COMMANDS, main

WIDTH = 80


def help_of(name: str) -> str:
    printed = CliRunner().invoke(
        main,
        [*name.split(), "--help"],
        prog_name="flux",
        env={"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH)},
    )
    assert printed.exit_code == 0
    return printed.output


def required_options(name: str) -> list[str]:
    command: click.Command = main
    with click.Context(main) as context:
        for part in name.split():
            assert isinstance(command, click.Group)
            found = command.get_command(context, part)
            assert found is not None
            command = found
    options = [one for one in command.params if isinstance(one, click.Option) and one.required]
    return [max(one.opts, key=len) for one in options]


@pytest.mark.parametrize("name", ["", *COMMANDS, "webhook serve"])
def test_a_help_text_fits_80_columns_and_marks_what_is_required(name: str) -> None:
    shown = help_of(name)
    assert all(len(line) <= WIDTH for line in shown.splitlines())
    assert not re.search(r"\w…", shown)  # rich marks what it cuts
    assert shown.count("[required]") >= len(required_options(name))
