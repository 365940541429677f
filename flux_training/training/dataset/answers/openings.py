"""First words of a model that lead into a caption: "I can see a cat", "I can't say who this is, but the image shows a man". Pure."""

import re

from flux_training.training.dataset.answers.regex import compile_later
from flux_training.training.dataset.answers.words import count_words, describes_a_scene, negates

# ruff: noqa: RUF001 - models write dashes

_I = re.IGNORECASE
MIN_WORDS = 3

_IMAGE = r"(?:images?|pictures?|photos?|photographs?|frames?|scene|screenshot|shot)\b"
_THIS = rf"(?:the|this|that|your|an?) (?:\w+ )?{_IMAGE}"
_IN_THIS = rf"(?:in|on|from|looking at) {_THIS}"
_SEE = r"(?:(?:i|we|you|one)(?:'m| am| are)? (?:(?:can|could|do|also|clearly|just|now|then) )*(?:see(?:ing)?|observe|notice|spot|make out)|(?:can|could) be seen:?)"
# What leads into a description. "In this image, there is a cat" is a description itself.
_SIGHT = compile_later(
    rf"(?:{_IN_THIS},? |as )?(?:here,? )?(?:{_SEE}|we have here|(?<=here )(?:we have|(?:i|we) (?:have|see)|you have)|(?<=here, )we have)(?: here)?(?:,? {_IN_THIS})?[,:]? (?:that )?"
    rf"|what (?:(?:i|we|you)(?:'m| am| are)? (?:can )?(?:see|seeing|have)|can be seen|is (?:shown|visible))(?: here)?(?:,? {_IN_THIS})? (?:is|are)[,:]? "
    rf"|(?:what )?you(?:'re| are) looking at (?:is )?(?!{_THIS})",
    _I,
    needs=("see", "observe", "notice", "spot", "make out", "have", "is shown", "visible", "looking at"),
)
# "I can see the image." is no description, but one may follow.
_SEES_IMAGE = compile_later(
    rf"(?:yes,? )?(?:i|we) (?:can )?(?:clearly )?see {_THIS}[^.!?,:\n]{{0,40}}[.!]\s+", _I
)
_NO_SIGHT = compile_later(
    rf"(?:{_THIS}|(?:that|why|how|what|if|whether|more|(?:it|this)(?! is an? )|you|your|my|me|our|only|just|nothing|no|any|the (?:original|source|full|rest|link|file|attachment|upload|message|prompt|(?:text|words?)(?! [\"“'])))\b)",
    _I,
)
# Within a sentence that began so.
_AND_SIGHT = compile_later(r"(?<=\band )(?:you|we|i) (?:can )?(?:also )?see (?=\w)", _I)
_SENTENCE = compile_later(r"(?:\A|(?<=[.!?])\s+|\n+)")

_CANNOT = r"(?:can(?:no|')t|can not|(?:am |'m |are )?(?:unable|not able) to|won't|don't|do not|'m not sure|am not sure)"
_KNOW = r"(?:identify|determine|recogni[sz]e|confirm|know|name|say|tell|verify|reveal|provide (?:the )?(?:names?|identit\w+)|be (?:sure|certain)|(?:who|where|what)\b)"
# Whom or what the model does not know. It sees the image.
_UNKNOWN = rf"(?!(?:what|if|whether|anything|the contents?)\b[^,.]*{_IMAGE}(?! (?:is|was|were)\b))[^,.;:!?\n]{{0,100}}"
_SORRY = r"(?:(?:i'm |i am )?(?:very |so |really )?(?:sorry|afraid)|(?:i )?apologi[sz]e|(?:my )?apologies|unfortunately)"
_INABILITY = compile_later(
    rf"(?:as an ai[^,.\n]{{0,30}}, )?(?:{_SORRY}[,.]?(?: but)? )?(?:(?:while|although|though|even though),? )?(?:i|we) ?{_CANNOT} (?:\w+ly )?{_KNOW}{_UNKNOWN}"
    rf"(?:(?:,|;| [—–-])? ?(?:but|however),? |[,.]\s+(?:(?:but|however|that said|instead|still|nevertheless),? )?)"
    rf"(?:(?:what )?(?:i|we) can (?:still )?(?:see|say|tell(?: you)?|describe|observe|confirm|note)(?: (?:what i see|it|the (?:image|scene|picture|photo)))?(?: is)?(?: that|[:,.])? ?)?",
    _I,
    needs=("n't", "not", "unable"),
)
_APOLOGY = compile_later(
    rf"{_SORRY} (?:for|about) (?:the|my|any|that|this)\b[^.!?\n]{{0,60}}[.!]\s+(?:(?:so|now|instead),? )?"
    rf"|sorry (?:for|about) that[.!,]\s+",
    _I,
)
# A guess about an image that the model did not get, and a reason for a refusal.
_GUESS = compile_later(
    r"(?:it|this|that|the (?:image|picture|photo)) (?:could|might|may|must|would)\b|(?:if|perhaps|maybe|probably|here|based on|imagine)\b|[^.!?]*\b(?:(?:might|may|could) (?:be|show|depict)|real (?:person|people|individuals?))\b",
    _I,
)


def without_opening(text: str) -> str:
    """The description behind "I can see …", an apology or "I can't say who this is, but …"; the text itself if there is none."""
    if (match := _SEES_IMAGE.match(text)) and _describes(text[match.end() :]):
        text = text[match.end() :]
    for pattern in (_APOLOGY, _INABILITY):
        match = pattern.match(text)
        if match and _describes(rest := text[match.end() :]) and not _GUESS.match(rest):
            text = _capitalised(rest)
    begin = _SIGHT.match(text)
    return _without_sights(text) if begin and _is_sight(text[begin.end() :]) else text


def _without_sights(text: str) -> str:
    """Each sentence without "I can see" at its beginning."""
    parts: list[str] = []
    end = 0
    for found in [*_SENTENCE.finditer(text)]:
        parts.append(text[end : found.end()])
        end = found.end()
        sight = _SIGHT.match(text, end)
        if sight and _is_sight(text[sight.end() :]):
            end = sight.end()
            parts.append(text[end : end + 1].upper())
            end += 1
    return _AND_SIGHT.sub("", "".join((*parts, text[end:])))


def _is_sight(rest: str) -> bool:
    return not _NO_SIGHT.match(rest) and _describes(rest)


def _describes(text: str) -> bool:
    """Whether the first sentence of a text describes, and does not discuss or deny."""
    first = re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]
    discussing, describing = count_words(first)
    is_description = describing > (discussing if discussing <= 1 else 2 * discussing)
    is_clear = describing > 1 or not negates(first)
    return is_description and is_clear and describes_a_scene(first) and len(first.split()) >= MIN_WORDS


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
