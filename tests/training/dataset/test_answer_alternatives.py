"""Several captions in one answer are refused, also if their labels have something in brackets. Bullets of one description are joined."""

import pytest

from flux_training.training.dataset.captions import ModelResponse, caption_from

BARN = "A red barn in a wheat field."
LONG = "A red barn with peeling paint stands alone in a wheat field."
SIGN = "A mug and a sign that says hello."
ALTERNATIVES = (
    f"Option 1 (short): {BARN} Option 2 (descriptive): {LONG}",
    f"Here are a few options:\n\n**Option 1 (short):** {BARN}\n\n**Option 2 (descriptive):** {LONG}",
    f"Option 1 (Focus on the sign): {SIGN}\nOption 2 (poetic): {SIGN}",
    f"**Caption 1 (short):** {SIGN}\n\n**Caption 2 (long):** {LONG}",
    f"Option A (short): {BARN}\n\nOption B (long): {LONG}",
    f"Version 1 [short]: {BARN}\nVersion 2 [long]: {LONG}",
    f"Description 1 (one sentence): {SIGN}\nDescription 2 (two sentences): {LONG}",
    f"**Option 1** (short): {BARN}\n**Option 2** (long): {LONG}",
    f"1 (short): {BARN}\n2 (long): {LONG}",
    f"Short (6 words): {BARN}\nLong (12 words): {LONG}",
    f"Option 1 - {SIGN}\nOption 2 - {LONG}",
    f"Take 1 (plain): {BARN}\nTake 2 (poetic): {LONG}",
)


@pytest.mark.parametrize("answer", ALTERNATIVES)
def test_several_labelled_captions_are_refused(answer: str) -> None:
    found = caption_from(ModelResponse(answer, "stop"))
    assert found.text == ""
    assert "alternatives" in found.problem


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        (f"Option 1 (short): {BARN}", BARN),
        (f"**Caption 1 (short):** {BARN}", BARN),
        (f"Option A: {BARN}", BARN),
        (f"Version 1 (final): {SIGN}", SIGN),
        ('A ballot with the lines "Option 1 (yes):" and "Option 2 (no):" on a table.', None),
        ("A menu board with option 1 (soup) and option 2 (salad) in chalk.", None),
        ("Two doors, one (red) ajar and two (blue) closed.", None),
        ("A slide with two columns, version 1 (left) and version 2 (right), on a screen.", None),
    ],
)
def test_one_labelled_caption_and_labels_in_a_picture_are_no_alternatives(
    answer: str, caption: str | None
) -> None:
    assert caption_from(ModelResponse(answer, "stop")).text == (caption or answer)


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        (
            "- A girl stands in a field.\n- The sky behind her is dark.\n- Her hair is blown to the left.",
            "A girl stands in a field. The sky behind her is dark. Her hair is blown to the left.",
        ),
        (
            "* A lone tree stands on a hill.\n* Sheep graze below it.\n* The sky is pink.",
            "A lone tree stands on a hill. Sheep graze below it. The sky is pink.",
        ),
        (
            "Here's a caption:\n\n- A woman walks a dog.\n- Behind her, the street is wet.",
            "A woman walks a dog. Behind her, the street is wet.",
        ),
        (
            "- A woman with red hair\n- behind her a wall of books",
            "A woman with red hair, behind her a wall of books",
        ),
        (
            "• A man repairs a bicycle\n• He wears a blue apron\n• Tools hang on the wall behind him",
            "A man repairs a bicycle. He wears a blue apron. Tools hang on the wall behind him",
        ),
        (
            "- A harbour at dawn.\n- No people are on the quay.\n\nLet me know if you need more!",
            "A harbour at dawn. No people are on the quay.",
        ),
        ("* A cat on a sofa by the window.", "A cat on a sofa by the window."),
    ],
)
def test_bullets_of_one_description_are_joined(answer: str, caption: str) -> None:
    assert caption_from(ModelResponse(answer, "stop")).text == caption


@pytest.mark.parametrize(
    "answer",
    [
        f"- {BARN}\n- {LONG}",
        f"* {BARN}\n* {LONG}",
        "- A dog runs on a beach.\n- The dog runs along the beach.",
        '- "A dog on a beach."\n- "The sea and a dog at noon."',
        "* Ginger cat on a sofa.\n* Sleepy cat beside the window.",
        "• A dog on a beach.\n• Two dogs by the sea.",
        "- A woman with red hair\n- looking up\n- soft light from the left",
        "- Subject: a woman\n- Setting: the street behind her",
    ],
)
def test_bullets_of_several_captions_are_refused(answer: str) -> None:
    found = caption_from(ModelResponse(answer, "stop"))
    assert (found.text, bool(found.problem)) == ("", True)
