"""Quotes around a caption, which may have quotes within it. Pure."""

import re

from flux_training.training.dataset.answers.documents import parsed
from flux_training.training.dataset.answers.regex import compile_later

PAIRS = (('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"), ("「", "」"), ("'", "'"))
MAX_LAYERS = 3
_SIGNS = "`* "
# Documents begin with these.
_OPENS_DOCUMENT = ("{", "[")
_BARE_QUOTE = compile_later(r"(?<!\\)\"")
_ESCAPED_QUOTE = compile_later(r"\\+([\"'])")
# An apostrophe within a word is no quote.
_APOSTROPHE = compile_later(r"(?<=\w)'(?=\w)")


def without_quotes(text: str) -> str:
    """Without quotes around the whole text. A quote that only ends or begins it belongs to a part of it."""
    for _ in range(MAX_LAYERS):
        stripped = text.strip() if _is_list(text) else text.strip(_SIGNS)
        text = next((stripped[1:-1] for pair in PAIRS if _enclose(*pair, stripped)), stripped)
        if text == stripped:
            break
    return text.strip('" ') if text.count('"') == 1 else text.strip()


def without_escaped_quotes(text: str) -> str:
    r"""With quotes in place of `\"`, if the text has no others: it went through JSON once too often."""
    if '\\"' not in text and not text.startswith("\\'"):
        return text
    if _BARE_QUOTE.search(text):
        return text
    if text.startswith(_OPENS_DOCUMENT):
        document = parsed(f'"{text}"')
        return document if isinstance(document, str) else text
    return _ESCAPED_QUOTE.sub(r"\1", text)


def _is_list(text: str) -> bool:
    """Whether a text begins with a star that is a bullet, as others in it are."""
    return re.match(r"\s*\* .* \* ", text) is not None


def _enclose(left: str, right: str, text: str) -> bool:
    """Whether the first and the last character of a text are a pair of quotes that belong together."""
    if len(text) < 2 or text[0] != left or text[-1] != right:
        return False
    inner = text[1:-1]
    return _are_pairs(inner, left) if left == right else _are_nested(inner, left, right)


def _are_nested(inner: str, left: str, right: str) -> bool:
    depth = 0
    for letter in inner:
        depth += (letter == left) - (letter == right)
        if depth < 0:
            return False
    return depth == 0


def _are_pairs(inner: str, quote: str) -> bool:
    """Whether each odd quote of a text opens a quotation and each even one closes it."""
    masked = _APOSTROPHE.sub("_", inner) if quote == "'" else inner
    plain = f" {masked} "
    places = [place for place, letter in enumerate(plain) if letter == quote]
    opens = [not plain[place - 1].isalnum() and not plain[place + 1].isspace() for place in places[::2]]
    closes = [not plain[place + 1].isalnum() and not plain[place - 1].isspace() for place in places[1::2]]
    return len(places) % 2 == 0 and all(opens) and all(closes)
