"""Patterns that are compiled on first use find what compiled ones find."""

import re

import pytest

from flux_training.training.dataset.answers import openings, parts, patterns
from flux_training.training.dataset.answers.regex import compile_later
from tests.support import fresh_answers, odd_answers, reviewed_answers, unseen_answers
from tests.support.model_answers import AROUND_A_CAPTION, GOOD_CAPTIONS, NO_CAPTION

LISTS = (fresh_answers, odd_answers, reviewed_answers, unseen_answers)
ANSWERS = [
    *AROUND_A_CAPTION.values(),
    *NO_CAPTION.values(),
    *GOOD_CAPTIONS,
    *(answer for module in LISTS for answer in (*module.AROUND, *module.WITHOUT, *module.GOOD)),
]
NEEDING = {
    f"{module.__name__.rsplit('.')[-1]}.{name}": pattern
    for module in (openings, parts, patterns)
    for name, pattern in vars(module).items()
    if getattr(pattern, "_needs", ())
}


@pytest.mark.parametrize("name", NEEDING)
def test_what_a_pattern_needs_is_in_each_text_that_it_finds(name: str) -> None:
    compiled: re.Pattern[str] = NEEDING[name]._compiled
    lost = [text for text in ANSWERS if compiled.search(text) and not NEEDING[name].search(text)]
    assert lost == []


@pytest.mark.parametrize("text", ["", "a-b", "A: b", "none", "a:b:c"])
def test_a_pattern_that_is_compiled_later_finds_the_same(text: str) -> None:
    now, later = re.compile(r"[a-z](?=:)", re.I), compile_later(r"[a-z](?=:)", re.I, needs=(":",))
    for method in ("search", "match", "fullmatch"):
        found, expected = (getattr(pattern, method)(text) for pattern in (later, now))
        assert (found and found.span()) == (expected and expected.span())
    assert [one.span() for one in later.finditer(text)] == [one.span() for one in now.finditer(text)]
    assert later.findall(text) == now.findall(text)
    assert later.split(text) == now.split(text)
    assert later.sub("x", text) == now.sub("x", text)


def test_a_pattern_that_cannot_match_is_not_compiled() -> None:
    pattern = compile_later("(", needs=("(",))
    assert pattern.search("no bracket") is None
    with pytest.raises(re.error):
        pattern.search("(")
