"""What a picture does not have belongs to its caption; that it has no text, or what the model cannot tell, does not."""

import pytest

from flux_training.training.dataset.captions import ModelResponse, caption_from

ROAD = "A desert road runs straight to the horizon."
OF_THE_SCENE = (
    "There are no cars, no people and no buildings.",
    "There are no cars or people.",
    "There are no houses.",
    "There is nobody in sight.",
    "There is nothing else on the table.",
    "No boats are visible.",
    "No animals can be seen in the image.",
    "Nobody is on the pavement.",
    "There aren't any trees along it.",
    "The picture shows no vehicles.",
    "The image does not contain any people.",
    "It has no markings.",
    "The sky is not cloudy.",
    "The lamps are not lit.",
    "There is no teacher and there are no pupils.",
    "There is no writing on the signs.",
    "There are no cars. There are no people.",
    "There are no cars. Dust hangs over the asphalt.",
    "There are no photos on the wall.",
)
BESIDE_THE_SCENE = (
    "No text is visible.",
    "There is no text in the image.",
    "There is no text, and there are no watermarks.",
    "There are no visible signatures or logos.",
    "The image does not contain any text or writing.",
    "No watermark.",
    "There are no identifiable landmarks.",
    "No further details can be made out.",
    "There is no indication of the location.",
    "It is not clear what time of day it is.",
    "There are no captions or subtitles.",
    "No other information is available.",
)
NO_CAPTIONS = (
    "There is no image.",
    "No image was provided.",
    "There are no cars, no people and no buildings in the request.",
    "The image is not available. There are no cars.",
    "Unable to process. There are no people.",
    "There is nothing to describe.",
)


@pytest.mark.parametrize("sentence", OF_THE_SCENE)
def test_a_last_sentence_about_absent_things_of_the_scene_stays(sentence: str) -> None:
    assert _caption(f"{ROAD} {sentence}") == f"{ROAD} {sentence}"


@pytest.mark.parametrize("sentence", BESIDE_THE_SCENE)
def test_a_last_sentence_about_absent_text_or_knowledge_is_removed(sentence: str) -> None:
    assert _caption(f"{ROAD} {sentence}") == ROAD


@pytest.mark.parametrize("answer", NO_CAPTIONS)
def test_absent_things_alone_are_no_caption(answer: str) -> None:
    assert _caption(answer) == ""


@pytest.mark.parametrize("first", ["A bare tree on a hill.", "An empty classroom.", "Two cups on a shelf."])
def test_a_short_caption_is_not_refused_for_what_follows(first: str) -> None:
    assert _caption(f"{first} There are no leaves.") == f"{first} There are no leaves."
    assert _caption(f"{first} There is no text.") == first


def _caption(answer: str) -> str:
    return caption_from(ModelResponse(answer, "stop")).text
