"""Text that others chose (a node, a service, a caption) made fit to be shown on one line or on several."""

from __future__ import annotations

LONGEST_LINE = 400


def printable(text: str, limit: int = 4000) -> str:
    """`text` with its line breaks, but without a character that a terminal would obey; at most `limit` characters.

    Escape sequences, carriage returns and marks that turn the writing direction become `?`.
    """
    shown = "".join(
        character if character.isprintable() or character == "\n" else "?" for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[:limit] + "…"


def one_line(text: str, limit: int = LONGEST_LINE) -> str:
    """The same on one line, with single spaces."""
    return printable(" ".join(text.split()), limit)
