"""Answers that are no language: broken characters, pieces of tokens, letters and signs at random. Pure."""

import re
import unicodedata

from flux_training.training.dataset.answers import patterns
from flux_training.training.dataset.answers.regex import compile_later

# ruff: noqa: RUF001 - typographic punctuation

# A text with a smaller share of letters, among all but white space, is noise.
MIN_LETTERS = 0.4
# A text with a larger share of accented letters is noise.
MAX_ACCENTED = 0.7
# A text with a larger share of words that no language has is noise. Trigger words and abbreviations are such words, too.
MAX_GARBLED = 0.4
MIN_GARBLED = 3
MAX_SCRIPTS = 3
# Chinese, Japanese and Korean are written in several scripts.
EAST_ASIAN = frozenset(
    {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH", "IDEOGRAPHIC"}
)
# After each first letter, those that follow it in less than one of 2,000 words of English, German, French and Czech captions.
_RARE_PAIRS = (
    "bpqx cbdfgjmqwxz dqx fcdjqvx gcdjmqvx hjqx iwy jcfghjlpqrvwxyz kjqx ljqx mjqvx nx pbdgjmqvwxz qabcdefghijklmnopqrstvwxyz rx sx tjqx"
    " uu vdfghjmpqtvwx wcfgjqtvwxyz xbdfgjklmnqrsvwxyz yquxy zjqx"
)
_RARE = compile_later(
    "|".join(f"{letters[0]}[{letters[1:]}]" for letters in _RARE_PAIRS.split()), re.IGNORECASE
)
_VOWEL = compile_later(r"[aeiouyà-ɏ]", re.IGNORECASE)
# Parts of the alphabet in its order.
_ALPHABET = compile_later(
    "|".join("abcdefghijklmnopqrstuvwxyz"[start : start + 4] for start in range(23)), re.IGNORECASE
)
_HEX = compile_later(r"0x[\da-f]+", re.IGNORECASE)
_NUMBER = compile_later(r"[#$€£~+(\[]*\d[\d.,:/x×%°\"'+-]*[a-z]{0,5}[)\]%+]*", re.IGNORECASE)
_PUNCTUATION = ".,;:!?…\"“”„'‘’()[]*-–—"
_SIGNS_ALONE = frozenset({"&", "+", "/", "|", "=", "@", "•", "→", "->", "<3", "©", "®", "™", "×"})
_SIGNS_WITHIN = compile_later(r"[#@{}\[\];<>|~^=\\$%*`]")


def has_no_words(text: str) -> bool:
    return sum(letter.isalpha() for letter in text) < 2


def is_garbled(text: str) -> bool:
    """Whether a text has broken characters, pieces of tokens or too many scripts, which no model writes that works as it should."""
    if "\ufffd" in text or patterns.RAW_TOKENS.search(text):
        return True
    accented = sum("\u00c0" <= letter < "\u0250" for letter in text)
    return accented > MAX_ACCENTED * sum(letter.isalpha() for letter in text) or _has_many_scripts(text)


def has_few_letters(text: str) -> bool:
    dense = "".join(text.split())
    return sum(letter.isalpha() for letter in dense) < MIN_LETTERS * len(dense)


def has_random_words(text: str) -> bool:
    """Whether many words of a text are letters and signs at random."""
    judged = [is_random for word in text.split() if (is_random := _is_random(word)) is not None]
    return sum(judged) >= MIN_GARBLED and sum(judged) > MAX_GARBLED * len(judged)


def _is_random(word: str) -> bool | None:
    """Whether no language has a word; None if that cannot be told."""
    bare = word.strip(_PUNCTUATION)
    if not bare:
        return None if len(word) < 2 or set(word) <= set(".-–—…*") else True
    if _HEX.fullmatch(bare):
        return True
    if bare in _SIGNS_ALONE or _NUMBER.fullmatch(bare):
        return None
    if not bare.isascii():
        return False
    if _SIGNS_WITHIN.search(bare) and not bare.startswith(("#", "@", "<", "[")):
        return True
    letters = [part for part in re.split(r"[\W\d_]+", bare) if part]
    if not letters or bare.isupper():
        return None if letters else True
    has_vowel = _VOWEL.search(bare) is not None
    is_part = _ALPHABET.search(bare) is not None and len(bare) <= 6
    return not has_vowel or is_part or any(_RARE.search(part) for part in letters)


def _has_many_scripts(text: str) -> bool:
    """Whether a text mixes more scripts than any language does."""
    if text.isascii():
        return False
    names = {unicodedata.name(letter, "").split(" ")[0] for letter in text if letter.isalpha()}
    return len({"CJK" if name in EAST_ASIAN else name for name in names - {""}}) > MAX_SCRIPTS
