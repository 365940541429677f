"""Words for people: text that others chose (a node, a service, a caption) made fit to be shown, and numbers of things."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_LINE = 400


def printable(text: str, limit: int = 4000) -> str:
    """`text` with its line breaks, but without a character that a terminal would obey; at most `limit` characters.

    Escape sequences, carriage returns and marks that turn the writing direction become `?`.
    """
    shown = "".join(
        character if character.isprintable() or character == "\n" else "?" for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[:limit] + "…"


def with_escapes(text: str) -> str:
    """What is no UTF-8 or moves the cursor, written as an escape: where the very name or value has to be found again."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def counted(number: int, word: str) -> str:
    """`1 image`, `3 images`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def one_line(text: str, limit: int = LONGEST_LINE) -> str:
    """The same on one line, with single spaces."""
    return printable(" ".join(text.split()), limit)


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean `x`?)`, or nothing when no known word is near."""
    matches = difflib.get_close_matches(word, list(known), cutoff=0.5)
    return f" (did you mean `{matches[0]}`?)" if matches else ""
