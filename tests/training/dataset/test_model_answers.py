"""Captions are told from what models write around and instead of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_training.training.dataset.answers.loops import is_loop
from flux_training.training.dataset.captions import EDIT_INSTRUCTION, INSTRUCTION, ModelResponse, caption_from
from flux_training.training.dataset.model_answers import clean_answer, find_fault
from tests.support import fresh_answers, odd_answers, reviewed_answers, unseen_answers
from tests.support.model_answers import AROUND_A_CAPTION, CAT, GOOD_CAPTIONS, NO_CAPTION


@pytest.mark.parametrize("kind", AROUND_A_CAPTION)
def test_a_caption_is_found_in_an_answer(kind: str) -> None:
    found = clean_answer(AROUND_A_CAPTION[kind])
    assert found.text == CAT
    assert find_fault(found.text, INSTRUCTION) is None
    assert found.removed or kind in ("quotes", "line breaks", "characters without width")


@pytest.mark.parametrize("kind", NO_CAPTION)
def test_an_answer_without_a_caption_is_refused(kind: str) -> None:
    fault = find_fault(clean_answer(NO_CAPTION[kind]).text, INSTRUCTION)
    assert fault is not None
    assert fault.hopeless == kind.startswith(("no image", "noise"))


@pytest.mark.parametrize("text", GOOD_CAPTIONS)
def test_a_good_caption_is_kept_as_it_is(text: str) -> None:
    found = clean_answer(text)
    assert found.text == text.replace("*poison*", "poison")
    assert find_fault(found.text, INSTRUCTION) is None


@pytest.mark.parametrize("answer", [*odd_answers.AROUND, *reviewed_answers.AROUND])
def test_a_caption_is_found_in_an_odd_answer(answer: str) -> None:
    assert caption_from(ModelResponse(answer, "stop")).text == CAT


@pytest.mark.parametrize("answer", [*odd_answers.WITHOUT, *reviewed_answers.WITHOUT])
def test_an_odd_answer_without_a_caption_is_refused(answer: str) -> None:
    found = caption_from(ModelResponse(answer, "stop"))
    assert (found.text, bool(found.problem)) == ("", True)


@pytest.mark.parametrize("text", [*odd_answers.GOOD, *reviewed_answers.GOOD])
def test_a_good_caption_that_looks_odd_is_kept(text: str) -> None:
    assert caption_from(ModelResponse(text, "stop")).text == text


def test_a_caption_is_found_in_each_fresh_answer() -> None:
    answers = [
        answer.replace("{}", fresh_answers.CAPTION)
        for answer in (*fresh_answers.AROUND, *unseen_answers.AROUND)
    ]
    wrong = [answer for answer in answers if _caption(answer) != fresh_answers.CAPTION]
    assert wrong == []


def test_each_fresh_answer_without_a_caption_is_refused() -> None:
    written = [answer for answer in (*fresh_answers.WITHOUT, *unseen_answers.WITHOUT) if _caption(answer)]
    assert written == []


def test_each_fresh_caption_is_kept() -> None:
    lost = [text for text in (*fresh_answers.GOOD, *unseen_answers.GOOD) if _caption(text) != text]
    assert lost == []


@pytest.mark.parametrize(
    "text", ["Remove all text from the image.", "Make the photo look like it was taken in 1920."]
)
def test_the_instruction_for_an_edit_need_not_describe(text: str) -> None:
    response = ModelResponse(text, "stop")
    assert caption_from(response, EDIT_INSTRUCTION).text == text
    assert caption_from(response, INSTRUCTION).problem.startswith("the answer does not describe an image")


@pytest.mark.parametrize(
    ("text", "is_caption"),
    [
        ("Python is a programming language created by Guido van Rossum.", False),
        ("Ohwx is a tall man wearing a grey coat on a bridge.", True),
        ("London Bridge is a blur behind the cyclist's wheel.", True),
    ],
)
def test_what_something_is_in_general_is_no_caption(text: str, is_caption: bool) -> None:
    assert _caption(text) == (text if is_caption else "")


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        (
            "A man planes a plank. His boots are dusty. The light from the left win",
            "A man planes a plank. His boots are dusty.",
        ),
        (
            "A man planes a plank. His boots are dusty! Behind him, a wall of tools, seve",
            "A man planes a plank. His boots are dusty!",
        ),
        (
            "A man planes a plank. His boots are dusty. Warm light, 35mm",
            "A man planes a plank. His boots are dusty. Warm light, 35mm",
        ),
        ("A man planes a plank. The sky is grey", "A man planes a plank. The sky is grey"),
    ],
)
def test_a_last_sentence_that_was_cut_is_removed(text: str, caption: str) -> None:
    found = caption_from(ModelResponse(text, "stop"))
    assert (found.text, "an unfinished sentence" in found.removed) == (caption, text != caption)
    assert clean_answer(text).text == text


@pytest.mark.parametrize(
    "answer",
    [
        f"{CAT}\nAlt text: cat at window",
        f"{CAT}\n\nHashtags: #cat #window",
        f"{CAT}\n\n**Alt text:** A cat.\n\n**Keywords:** cat, window",
        f"{CAT}\n\n### Tags\ncat, window",
        f"{CAT}\n- Tags: cat, window",
        f"{CAT}\n\nHashtags:\n#cat\n#window",
        f"{CAT}\n\nStyle: photorealistic",
        f"{CAT} Alt text: a cat.",
        f"Caption: {CAT}\nAlt text: A cat.",
        f"Title: The cat\n\n{CAT}\n\nAlt: a cat",
    ],
)
def test_alt_text_and_tags_behind_a_caption_are_removed(answer: str) -> None:
    assert _caption(answer) == CAT


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        (f"Alt text: {CAT}", CAT),
        (f"I should write about the cat in it.\nAlt text: {CAT}", CAT),
        (f"A cat in the picture:\nAlt text: {CAT}", CAT),
        (f"{CAT} Style: photo.", f"{CAT} Style: photo."),
        ("A price tag. Tags: two red labels on a box.", "A price tag. Tags: two red labels on a box."),
        ("Hashtags: #cat #window", ""),
    ],
)
def test_alt_text_and_tags_may_be_the_caption_or_a_part_of_it(answer: str, caption: str) -> None:
    assert _caption(answer) == caption


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A photo of<phrase>a cat</phrase>on<phrase>a sofa</phrase>.", "A photo of a cat on a sofa."),
        (
            "<ref>A cat</ref><box>(1,2),(3,4)</box>beside<ref>a dog</ref><box>(1,2),(3,4)</box>.",
            "A cat beside a dog.",
        ),
        ("A cat on<|ref_start|>a sofa<|ref_end|>by a window.", "A cat on a sofa by a window."),
        ("A <b>cat</b>, <i>ginger</i>, on a sofa.", "A cat, ginger, on a sofa."),
        ("An un<b>believ</b>ably old cat on a wall.", "An unbelievably old cat on a wall."),
        ("A cat</phrase>, and a dog<phrase>.</phrase>", "A cat, and a dog."),
    ],
)
def test_words_that_only_a_token_separates_stay_apart(answer: str, caption: str) -> None:
    assert _caption(answer) == caption


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ('{"caption": "A cat on a sofa.", "tags": ["cat", "sofa"], "confidence": 0.93}', "A cat on a sofa."),
        ('{"caption": "A cat on a sofa.", "tags": ["cat", "so', "A cat on a sofa."),
        ('{"title": "Cat", "tags": ["a"], "caption": "A \\"cat\\" on a sofa.", "x', 'A "cat" on a sofa.'),
        ('```json\n{"caption": "A cat on a sofa.", "score": 1}\n```\n\n\n', "A cat on a sofa."),
        ('{"description": "A cat on a sofa.", "tags": []}   ', "A cat on a sofa."),
        ('{"caption": "A cat on a so', ""),
        ('{"tags": ["cat"], "caption": "A cat on', ""),
        ('{"tags": ["cat", "caption', ""),
        ('{"caption": "", "tags": ["cat", "so', ""),
        ('{"caption": "A cat on a sofa."} Wait, the cat could', ""),
    ],
)
def test_a_complete_caption_in_json_is_taken_although_the_tokens_ran_out(answer: str, caption: str) -> None:
    found = caption_from(ModelResponse(answer, "length"))
    assert (found.text, bool(found.problem)) == (caption, not caption)


@pytest.mark.parametrize(
    "answer",
    [
        '{"en": "A cat on a sofa.", "de": "Eine Katze auf einem Sofa."}',
        '{"German": "Eine Katze auf einem Sofa.", "English": "A cat on a sofa."}',
        '{"caption": {"de": "Eine Katze auf einem Sofa.", "en": "A cat on a sofa."}}',
        '{"caption": "Eine Katze auf einem Sofa.", "caption_en": "A cat on a sofa."}',
    ],
)
def test_of_the_languages_in_json_english_is_taken(answer: str) -> None:
    assert _caption(answer) == "A cat on a sofa."


@given(st.text(max_size=300))
def test_cleaning_never_fails_and_ends(text: str) -> None:
    once = clean_answer(text)
    assert "\n" not in once.text
    find_fault(once.text, INSTRUCTION)


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("very very very very very cat", False),
        ("very very very very very very", True),
        ("a cat a cat a cat", False),
        ("a cat a cat a cat a cat", True),
        ("it looks up now it looks up now", False),
        ("it looks up now it looks up now it looks up now", True),
        ("one two three", False),
        ("", False),
        ("ha" * 11, False),
        ("ha" * 12, True),
    ],
)
def test_repetitions_are_loops_from_a_certain_number(text: str, loops: bool) -> None:
    assert is_loop(text) == loops


def _caption(answer: str) -> str:
    return caption_from(ModelResponse(answer, "stop")).text


@pytest.mark.parametrize(
    "caption",
    [
        "A red dress with a long train is shown on a catwalk. The model faces left.",
        "A grey wool coat with wide lapels. The model looks away from the camera.",
        "A studio portrait in hard light. The model wears no jewellery and gazes at the floor.",
        "A model train crosses a wooden bridge. The model has three green carriages.",
        "A scoreboard shows home: 3, guest: 1 and time: 67:12 above a green pitch.",
        "A menu board lists soup: $4, salad: $6 and bread: $2 in white chalk.",
    ],
)
def test_models_in_pictures_and_colons_in_sentences_are_no_service_and_no_list(caption: str) -> None:
    assert _caption(caption) == caption


@pytest.mark.parametrize(
    "answer",
    [
        "The model `qwen2.5-vl-7b` is currently downloading (43%).",
        "The model is overloaded, please retry.",
        "home: 3, guest: 1, time: 67:12",
        "subject: cat, place: sofa, light: soft, mood: calm",
    ],
)
def test_a_service_and_a_list_of_parts_are_no_caption(answer: str) -> None:
    assert not _caption(answer)
