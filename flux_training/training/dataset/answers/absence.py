"""Sentences that say what a picture does not have: "There are no cars." is part of a caption, "No text is visible." is not. Pure."""

import re

from flux_training.training.dataset.answers import patterns
from flux_training.training.dataset.answers.regex import compile_later
from flux_training.training.dataset.answers.words import (
    begins_with_a_thing,
    count_words,
    describes_a_scene,
    discusses_rather_than_describes,
    is_about_the_task,
)

_I = re.IGNORECASE
# Each of these is negative. They do not count as words of a discussion in a sentence about the scene.
_NO = r"(?:no(?:body|thing)?|none|neither|nor|not|never|no[- ]one|\w+n't)"
_NEGATIVE = compile_later(rf"\b{_NO}\b", _I)
_IMAGE = r"(?:image|picture|photo|photograph|frame|shot|scene|view|background|foreground)"
_VERB = r"(?:is|are|has|have|wears?|shows?|contains?|includes?|features?|stands?|sits?|grows?|hangs?|lies?|remains?|moves?|can be)"
# "There are no …", "No … is visible", "Nobody is …", "The image shows no …", "It has no …", "It is not …".
_ABSENCE = compile_later(
    rf"(?:but |and |also,? |otherwise,? |(?:in|on) the [\w ]{{1,30}}, )?(?:there(?: (?:is|are)(?: also)?|'s) {_NO}\b|there (?:isn't|aren't)\b|(?:no|none|nobody|nothing|neither|not an?)\b"
    rf"|(?:it|he|she|they|the [\w -]{{1,40}}|(?:his|her|its|their) [\w -]{{1,40}}) (?:{_VERB} (?:\w+ )?{_NO}\b|(?:is|are|has|have|does|do)n't\b|(?:does|do) not\b))",
    _I,
)
_PLACE = compile_later(
    rf"\b(?:(?:visible|present|seen|shown) )?(?:in|within) (?:the|this) {_IMAGE}\b|^the {_IMAGE} (?={_VERB}\b|does)",
    _I,
)
# Writing, and what else is laid over a picture.
_OVERLAY = compile_later(
    r"\b(?:text|texts|writing|watermarks?|signatures?|logos?|captions?|subtitles?|lettering|inscriptions?|borders?|overlays?|time ?stamps?|copyright|branding|words?|letters)\b",
    _I,
)
# Writing that a thing in the picture might have: "There is no writing on the sign."
_ON_A_THING = compile_later(
    rf"\b(?:on|above|over|across) (?:the|his|her|its|their|it|them)\b(?! (?:whole |entire )?{_IMAGE})|^(?!the {_IMAGE}\b)(?:the|his|her|its|their|it)\b",
    _I,
)
# What a model cannot tell, what it leaves out, and what a filter looks for.
_UNTOLD = compile_later(
    r"\b(?:identif\w+|recogni[sz]\w+|determin\w+|discern\w*|indicat\w+|evident|evidence|apparent|clear|clearly|clues?|hints?|obvious|certain|specific\w*|specified|mention\w*|provided|given|available|known|unknown|possible|sure|enough|tell|told|say|said|see"
    r"|further|additional|extra|more|other (?:elements|objects|details|information|notable)|distinguish\w*|notable|noteworthy|significant|particular|remarkable|elements|features|aspects|comments?|commentary|explanations?|preamble|applicable|relevant|context|nsfw|nudity|explicit|sexual|violen\w+|harmful|unsafe|inappropriate|sensitive|offensive"
    r"|allow\w*|assum\w+|answer\w*|opinion|resolution|quality|blurr\w+|sharp|the case|i|i'm|me|my|we|our|us|you|your)\b|\?$",
    _I,
)


def is_of_the_scene(sentence: str) -> bool:
    """Whether a sentence says which things of the scene are absent, or what they are not or do not do."""
    if not _ABSENCE.match(sentence) or _UNTOLD.search(sentence) or is_about_the_task(sentence):
        return False
    if patterns.NO_IMAGE.search(sentence) or patterns.ERROR_TEXT.match(sentence):
        return False
    if _OVERLAY.search(sentence):
        return _ON_A_THING.search(sentence) is not None
    return count_words(_NEGATIVE.sub(" ", _PLACE.sub(" ", sentence)))[0] == 0


def is_beside_the_scene(sentence: str) -> bool:
    """Whether a sentence says that a picture has no text or the like, or that there is no more to tell."""
    if patterns.NO_IMAGE.search(sentence) or is_of_the_scene(sentence) or not _ABSENCE.match(sentence):
        return False
    return _OVERLAY.search(sentence) is not None or _UNTOLD.search(sentence) is not None


def precedes_absence(text: str) -> bool:
    """Whether a text describes a scene, so that a sentence about what it lacks may follow."""
    first = patterns.SENTENCE_BREAK.split(text)[0]
    is_scene = begins_with_a_thing(first) or (
        describes_a_scene(first) and count_words(first)[1] > count_words(first)[0]
    )
    return is_scene and not discusses_rather_than_describes(first) and not is_about_the_task(text)


def without_absences(text: str) -> str:
    """A text without the sentences behind its first one that say what the scene lacks."""
    first, *others = patterns.SENTENCE_BREAK.split(text)
    if not precedes_absence(first):
        return text
    return " ".join((first, *(sentence for sentence in others if not is_of_the_scene(sentence))))
