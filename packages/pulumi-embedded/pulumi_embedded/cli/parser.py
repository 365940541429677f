"""Refuses commands and options that this engine does not have: they are misspelled, or only the Pulumi CLI has them."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from pulumi_embedded.errors import NeedsCliError

_COMMAND = "COMMAND"


class CommandParser(argparse.ArgumentParser):
    """An argparse parser that names the nearest command for one that is unknown."""

    def add_subparsers(self, **settings: Any) -> Any:
        self._commands = super().add_subparsers(metavar=_COMMAND, **settings)
        return self._commands

    def error(self, message: str) -> NoReturn:
        unknown = message.partition(f"argument {_COMMAND}: invalid choice: ")[2]
        if unknown:
            message = _refusal("command", self.prog, [unknown.split("'")[1]], self._commands.choices)
        self.exit(2, f"error: {message}\n")


def unknown_arguments(command: str, arguments: Sequence[str], known: Iterable[str]) -> str:
    """The message for `arguments` that the command does not take. `known`: the names of its options."""
    options = [text.partition("=")[0] for text in arguments if text.startswith("-") and text.strip("-")]
    if options:
        return _refusal("option", command, options, known)
    return _refusal("argument", command, arguments, ())


def _refusal(kind: str, command: str, words: Sequence[str], known: Iterable[str]) -> str:
    known = list(known)
    named = ", ".join(f"`{word}`{_nearest(word, known)}" for word in words)
    plural = "s" if len(words) > 1 else ""
    listed = f"`{command} --help` lists what the embedded engine has"
    return str(NeedsCliError(f"unknown {kind}{plural} of `{command}`: {named}. {listed}; anything else"))


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""
