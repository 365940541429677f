"""Answers that repeat themselves."""

from collections import Counter

from flux_training.training.dataset.answers import patterns

MAX_REPEATED_WORDS = 40
# A numbered list such as `panel 1, panel 2` counts as a loop only if it has at least this many words.
MIN_COUNTED = 20
MIN_PHRASES = 5
MAX_SHARE_OF_A_PHRASE = 0.4


def is_loop(text: str) -> bool:
    """Whether the same words or characters come again and again: six times one word, four times two, three times a sentence."""
    words = [word.strip(",.;") for word in text.casefold().split()]
    if len(words) > 2 and len(set(words)) == 1:
        return True
    counting = patterns.NUMBER.sub("0", text.casefold()).split()
    return (
        _repeats(words)
        or _repeats(counting, MIN_COUNTED)
        or _has_common_phrase(words)
        or patterns.REPEATED_CHARACTERS.search(text) is not None
    )


def _has_common_phrase(words: list[str]) -> bool:
    """Whether a phrase of three words makes up a large part of a text: "the river is long and the river is wide and…"."""
    phrases = Counter(zip(words, words[1:], words[2:], strict=False))
    often = max(phrases.values(), default=0)
    return often >= MIN_PHRASES and 3 * often > MAX_SHARE_OF_A_PHRASE * len(words)


def _repeats(words: list[str], at_least: int = 0) -> bool:
    """Whether words come again, `at_least` words long."""
    for size in range(1, min(MAX_REPEATED_WORDS, len(words) // 3) + 1):
        needed = max(at_least, 5 if size == 1 else 3 * size if size < 4 else 2 * size)
        run = 0
        for index in range(size, len(words)):
            run = run + 1 if words[index] == words[index - size] else 0
            if run >= needed:
                return True
    return False
