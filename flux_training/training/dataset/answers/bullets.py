"""A list of bullets: one description in several parts, which are joined, or alternatives, which are refused. Pure."""

import re

from flux_training.training.dataset.answers import patterns
from flux_training.training.dataset.answers.regex import compile_later
from flux_training.training.dataset.answers.words import begins_with_a_thing, describes_a_scene

_I = re.IGNORECASE
# A later part that has more of the words of an earlier one than this says the same again.
MAX_COMMON = 0.5
_LIST = compile_later(r"\A\s*(?:(?:[-*•]|\d{1,2}[.)])[ \t]+[^\n]+(?:\n\s*|\Z)){2,}")
_BULLET = compile_later(r"^\s*(?:[-*•]|\d{1,2}[.)])[ \t]+", re.MULTILINE)
_STAR = compile_later(r"^\s*[*•][ \t]+", re.MULTILINE)
# A part that refers to what precedes it, or names a part of the scene.
_REFERS = compile_later(
    r"\b(?:he|she|it|they|her|his|him|its|their|them|both)\b|^(?:the|in the|on the|at the|behind|beside|next to|around|above|below|beneath|under|near|to the|no|there)\b",
    _I,
)
_WORD = compile_later(r"[a-z]{3,}", _I)
_SMALL = frozenset({"the", "and", "with", "for", "her", "his", "its", "their", "from", "into", "are", "has"})


def joined_bullets(text: str) -> str:
    """One description that a model wrote as several bullets, as a text. Other lists get dashes, which show that they are lists."""
    found = _LIST.match(text)
    if not found:
        return text
    items = [item.strip() for item in _BULLET.split(found[0].strip()) if item and item.strip()]
    rest = text[found.end() :].strip()
    if not _is_one_description(items):
        return _STAR.sub("- ", text) if not found[0].lstrip()[0].isdigit() else text
    return "\n\n".join(filter(None, (_join(items), rest)))


def _is_one_description(items: list[str]) -> bool:
    first, *others = items
    is_scene = begins_with_a_thing(first) or describes_a_scene(first)
    has_labels = any(patterns.LABELS.match(item) or item[0] in "\"“'" for item in items)
    return (
        is_scene
        and not has_labels
        and all(_continues(items[:place], item) for place, item in enumerate(others, 1))
    )


def _continues(before: list[str], item: str) -> bool:
    if begins_with_a_thing(item) or not _REFERS.search(item) or patterns.NO_IMAGE.search(item):
        return False
    words = _words(item)
    return all(len(words & _words(earlier)) <= MAX_COMMON * len(words) for earlier in before)


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)} - _SMALL


def _join(items: list[str]) -> str:
    """The parts with a comma before one that goes on in small letters, and else a full stop."""
    text = items[0]
    for item in items[1:]:
        is_open = text[-1].isalnum() or text[-1] in ",;)"
        if not is_open:
            text += " "
        else:
            text = text.rstrip(",;") + (", " if item[0].islower() else ". ")
        text += item
    return text
