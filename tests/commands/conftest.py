"""Runs a command in a checkout; the fixture `checkout` is the test file's own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import rich_click as click


@pytest.fixture
def run(checkout: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:  # noqa: ARG001 - it is where it runs
    def call(command: click.Command, *arguments: object) -> str:
        command.main([str(argument) for argument in arguments], standalone_mode=False)
        return capsys.readouterr().out

    return call
