"""Quotes around a caption are removed, also if there are some within it; quotes of a part stay."""

import pytest

from flux_training.training.dataset.captions import ModelResponse, caption_from

SHOP = 'A shop window with the sign "SALE" and three mannequins.'
FOX = "A fox crosses a frozen pond."


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        (f'"{SHOP}"', SHOP),
        (f'Caption: "{SHOP}"', SHOP),
        ('"A poster that says "Vote""', 'A poster that says "Vote"'),
        ('"A bus with "Route 12" and "Centre" on it."', 'A bus with "Route 12" and "Centre" on it.'),
        (
            '"A can of "Campbell\'s" soup. The lid is dented."',
            'A can of "Campbell\'s" soup. The lid is dented.',
        ),
        ("“A poster says “Vote” in red letters.”", "A poster says “Vote” in red letters."),
        ("«A sign says «Bar» above a door.»", "A sign says «Bar» above a door."),
        ("'A sign says 'Bar' above the baker's door.'", "A sign says 'Bar' above the baker's door."),
        (f'“"{FOX}"”', FOX),
        (f'**"{SHOP}"**', SHOP),
    ],
)
def test_quotes_around_a_caption_with_quotes_in_it_are_removed(answer: str, caption: str) -> None:
    assert _caption(answer) == caption


@pytest.mark.parametrize(
    "caption",
    [
        '"Stop" is painted on a road beside the word "School"',
        '"SALE", a sign in a shop window, above another that says "50%"',
        "“Vote” on a poster beside one that says “Work”",
        "«Bar» on a door, and a sign with «Café»",
        "'Bar' is written on a door beside the word 'Open'",
        'A shop with a sign that says "SALE"',
        '"Open" is written in red on a door.',
    ],
)
def test_quotes_of_a_part_of_a_caption_stay(caption: str) -> None:
    assert _caption(caption) == caption


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        (rf"\"{FOX}\"", FOX),
        (rf"\\\"{FOX}\\\"", FOX),
        (rf"Caption: \"{FOX}\"", FOX),
        (rf"\'{FOX}\'", FOX),
        (r"A shop with a sign that says \"SALE\" in red.", 'A shop with a sign that says "SALE" in red.'),
        (r"\"A shop with a \\\"SALE\\\" sign by the door.\"", 'A shop with a "SALE" sign by the door.'),
        (r"{\"caption\": \"A fox crosses a frozen pond.\"}", FOX),
        (f'Here is the caption:\n\n\\"{FOX}\\"', FOX),
        (r"\"I cannot see the image.\"", ""),
        (r"\"\"", ""),
        (r"\"\\\"\\\"\\\"\"", ""),
        (r"{\"error\": \"no image\"}", ""),
        (r"\"Sorry, I can't help with that.\"", ""),
        (r"\"Caption\"", ""),
    ],
)
def test_escaped_quotes_around_a_caption_are_removed(answer: str, caption: str) -> None:
    assert _caption(answer) == caption


def _caption(answer: str) -> str:
    return caption_from(ModelResponse(answer, "stop")).text
