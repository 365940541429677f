"""Refuses commands and options that this engine does not have: they are misspelled, or only the Pulumi CLI has them."""

import argparse
import difflib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from pulumi_embedded.errors import NeedsCliError

_COMMAND = "COMMAND"


class CommandParser(argparse.ArgumentParser):
    """An argparse parser that names the nearest command for one that is unknown."""

    def add_subparsers(self, **settings: Any) -> Any:
        self._commands = super().add_subparsers(metavar=_COMMAND, **settings)
        return self._commands

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._arguments = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        unknown = message.partition(f"argument {_COMMAND}: invalid choice: ")[2]
        if unknown:
            # argparse's message contains the word as `repr` shows it, so search for its closing quote.
            message = self._unknown_command(unknown[1 : unknown.index(unknown[0], 1)])
        self.exit(2, f"error: {message}\n")

    def _unknown_command(self, word: str) -> str:
        """The message for a word that is no command: it may be the value of an unknown option before it."""
        known = self._option_string_actions
        before = itertools.takewhile(lambda text: text != word, self._arguments)
        # A short option can be joined with its value: `-sdev` means `-s dev`.
        options = [
            text
            for text in before
            if text.startswith("-") and not known.keys() & {_option_name(text), text[:2]}
        ]
        if options:
            return unknown_arguments(self.prog, options, known)
        return _unknown_arguments_message("command", self.prog, [word], self._commands.choices)


def unknown_arguments(command: str, arguments: Sequence[str], known: Iterable[str]) -> str:
    """The message for `arguments` that the command does not take. `known`: the names of its options."""
    options = [_option_name(text) for text in arguments if text.startswith("-") and text.strip("-")]
    if options:
        return _unknown_arguments_message("option", command, options, known)
    return _unknown_arguments_message("argument", command, arguments, ())


def _option_name(option: str) -> str:
    return option.partition("=")[0]


def _unknown_arguments_message(kind: str, command: str, words: Sequence[str], known: Iterable[str]) -> str:
    known = list(known)
    named = ", ".join(f"`{word}`{_nearest(word, known)}" for word in words)
    plural = "s" if len(words) > 1 else ""
    listed = f"`{command} --help` lists what the embedded engine has"
    return str(NeedsCliError(f"unknown {kind}{plural} of `{command}`: {named}. {listed}; anything else"))


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""
