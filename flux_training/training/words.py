"""Text for display: untrusted text (from nodes, services, captions) made safe, counts, and suggestions."""

# ruff: noqa: RUF001 - a table of letters that look alike

import difflib
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

from flux_training.training.environment import pulumi_command

MAX_LINE_LENGTH = 400
# If several places have the same finding, at most this many are listed.
MAX_PLACES = 3
# Shorter words begin too many others.
MIN_BEGINNING = 4
DEFAULT_STACK = "dev"
# Cyrillic and Greek letters that look like Latin ones.
LOOK_ALIKES = dict(
    zip(
        "аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧονı",
        "aeopcyxijshdqwABEKMHOPCTYXIJSABEZHIKMNOPTYXovi",
        strict=True,
    )
)


def printable(text: str, limit: int = 4000) -> str:
    """At most `limit` characters of `text`, with line breaks but without control characters.

    Escape sequences, carriage returns and marks that change the writing direction become `?`.
    """
    shown = "".join(
        character if character.isprintable() or character == "\n" else "?" for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[:limit] + "…"


def with_escapes(text: str) -> str:
    """Control characters and invalid UTF-8 as escapes, so that the exact name or value can be recognised."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def counted(number: int, word: str) -> str:
    """`1 image`, `3 images`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def list_first(names: Sequence[str], limit: int = MAX_PLACES) -> str:
    """`a, b, c and 7 more`."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


def one_line(text: str, limit: int = MAX_LINE_LENGTH) -> str:
    """Like `printable`, on one line with single spaces."""
    return printable(" ".join(text.split()), limit)


def wrapped(text: str, width: int) -> str:
    """Breaks long lines at spaces, with a hanging indent. Commands in backticks stay on one line."""
    return "\n".join(_wrapped_line(line, width) for line in text.split("\n"))


def _wrapped_line(line: str, width: int) -> str:
    # Replace the spaces in a command by no-break spaces, because textwrap does not break lines there.
    whole = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", "\N{NO-BREAK SPACE}"), line)
    indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
    lines = textwrap.wrap(
        whole, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean `x`?)`, or nothing if no known word is similar."""
    found = most_similar(word, known)
    return f" (did you mean `{found}`?)" if found else ""


def with_same_last_part(key: str, known: Iterable[str]) -> str:
    """` (did you mean `train.lr`?)` for `lr` or `network.lr`; nothing if no known key, or too many, have this last part."""
    same = [one for one in known if one.rpartition(".")[2] == key.rpartition(".")[2]]
    return (
        f" (did you mean {' or '.join(f'`{one}`' for one in same)}?)" if 0 < len(same) <= MAX_PLACES else ""
    )


def most_similar(word: str, known: Iterable[str]) -> str:
    """The known word that is most similar, or nothing. One that begins with the word comes first."""
    words = list(known)
    if len(word) >= MIN_BEGINNING and (begins := [one for one in words if one.startswith(word)]):
        return min(begins, key=len)
    return next(iter(difflib.get_close_matches(word, words, n=1, cutoff=0.5)), "")


def same_letters(word: str, known: Iterable[str]) -> str:
    """The known word with the same letters and digits in the same order, or nothing."""
    return next((one for one in known if _letters(one) == _letters(word)), "")


def with_latin_letters(text: str) -> str:
    """The text with Latin letters in place of those that look the same. Its length stays."""
    if text.isascii():
        return text
    return "".join(LOOK_ALIKES.get(letter, _compatible(letter)) for letter in text)


def _compatible(letter: str) -> str:
    """The plain form of a full-width letter and the like, if that is one character."""
    plain = unicodedata.normalize("NFKC", letter)
    return plain if len(plain) == 1 else letter


def _letters(word: str) -> str:
    return "".join(filter(str.isalnum, word.casefold()))


def make_command(target: str, stack: str) -> str:
    """The command as a user can type it: `make up STACK=prod`."""
    return f"`make {target}`" if stack == DEFAULT_STACK else f"`make {target} STACK={stack}`"


def flux_command(arguments: str, stack: str) -> str:
    """The command as a user can type it: `./flux retry cat --stack prod`."""
    return f"`./flux {arguments}`" if stack == DEFAULT_STACK else f"`./flux {arguments} --stack {stack}`"


def describe_adopt_setting(owner: str) -> str:
    """The setting of the stack `<project>/<stack>` that takes over what others made, and where it is written."""
    project, _, stack = owner.rpartition("/")
    return f"`{project}:adopt: true` under `config:` in Pulumi.{stack}.yaml"


def describe_rename_back(owner: str, other: str | None) -> str:
    """For what carries the mark of `other`: the end of the next step, in case that was the stack's name before."""
    (project, _, stack), (other_project, _, other_stack) = (
        owner.rpartition("/"),
        (other or "").rpartition("/"),
    )
    if not other_stack or other_project != project:
        return ""
    command = pulumi_command(f"stack rename {other_stack}", stack)
    return f"; if this stack was renamed, {command} renames it back"
