"""Generated captions: which responses are accepted, where the trigger word goes, what they cost."""

from pathlib import Path

import pytest

from flux_training.training.dataset.captions import (
    INSTRUCTION,
    GeneratedCaption,
    ModelResponse,
    Price,
    caption_from,
    estimate_caption_cost,
    has_caption,
    image_tokens,
    place_trigger,
    uncaptioned,
)
from flux_training.training.errors import BadInput
from tests.support.openai_server import make_images


@pytest.mark.parametrize(
    ("answer", "text", "problem"),
    [
        (ModelResponse("A cat.", "stop"), "A cat.", ""),
        (ModelResponse(' "A cat,\n sitting."\n', "stop"), "A cat, sitting.", ""),
        (ModelResponse("A cat."), "A cat.", ""),
        (ModelResponse("A \x1b[31mred\x07 cat.", "stop"), "A [31mred cat.", ""),
        (ModelResponse("A woman who is sorry", "stop"), "A woman who is sorry", ""),
        (ModelResponse("X-ray of a cat, by X", "stop"), "X-ray of a cat, by X", ""),
        (ModelResponse('{"caption": "A cat on a mat."\n\n', "length"), "A cat on a mat.", ""),
        (
            ModelResponse('{"caption": "A cat on a\n\n', "length"),
            "",
            "the response was cut off; raise --max-tokens",
        ),
        (ModelResponse("A cat.<br><br>It sits.<br>", "stop"), "A cat. It sits.", ""),
        (
            ModelResponse(
                "<|object_ref_start|>A cat<|object_ref_end|><|box_start|>(12,8),(64,70)<|box_end|> sits on a wooden chair."
            ),
            "A cat sits on a wooden chair.",
            "",
        ),
        (ModelResponse("A cat on a", "length"), "", "the response was cut off; raise --max-tokens"),
        (ModelResponse("A cat", "content_filter"), "", "blocked by the service's content filter"),
        (
            ModelResponse("A cat", "tool_calls"),
            "",
            "the response ended with `tool_calls` instead of a caption",
        ),
        (ModelResponse(None, "stop", "I will not."), "", "refused: I will not."),
        (ModelResponse("I'm sorry, I can't do that.", "stop"), "", "refused: I'm sorry, I can't do that."),
        (ModelResponse("I can\u2019t help with that.", "stop"), "", "refused: I can't help with that."),
        (
            ModelResponse("I'm sorry, " + "so " * 99, "stop"),
            "",
            "refused: I'm sorry, " + " ".join(["so"] * 23) + "…",
        ),
        (ModelResponse(None, "stop"), "", "the response was empty"),
        (ModelResponse(' "" \n', "stop"), "", "the response was empty"),
    ],
)
def test_incomplete_refused_and_empty_responses_are_rejected(
    answer: ModelResponse, text: str, problem: str
) -> None:
    found = caption_from(answer)
    assert (found.text, found.problem) == (text, problem)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            ModelResponse("", "length", reasoning="Let me look"),
            "the tokens ran out while the model was reasoning",
        ),
        (ModelResponse("<think>Let me look", "length"), "the tokens ran out while the model was reasoning"),
        (
            ModelResponse(None, "MAX_TOKENS", reasoning="Hm"),
            "the tokens ran out while the model was reasoning",
        ),
        (ModelResponse("", "stop", reasoning="Let me look"), "the response was only reasoning"),
        (ModelResponse("<think>Let me look</think>", "stop"), "the response was only reasoning"),
    ],
)
def test_reasoning_is_named_as_the_cause(answer: ModelResponse, problem: str) -> None:
    found = caption_from(answer)
    assert found.problem.startswith(problem)
    assert "--max-tokens" in found.problem
    assert not found.text


@pytest.mark.parametrize(
    ("answer", "problem", "hopeless"),
    [
        (ModelResponse("the\ufffdlo the \ufffd cat", "length"), "the answer is noise, not language", True),
        (ModelResponse("the\ufffdlo the \ufffd cat", "stop"), "the answer is noise, not language", True),
        (ModelResponse("cat " * 99, "length"), "the answer repeats itself", False),
        (ModelResponse("skyP", "stop"), "the answer is a single word: skyP", True),
    ],
)
def test_a_model_that_writes_no_language_is_told_from_one_that_needs_more_tokens(
    answer: ModelResponse, problem: str, hopeless: bool
) -> None:
    found = caption_from(answer)
    assert found.problem.startswith(problem)
    assert found.hopeless == hopeless


@pytest.mark.parametrize(
    ("text", "prompt"), [("cat", "Name the animal"), ("猫が空を見上げている", INSTRUCTION)]
)
def test_one_word_is_enough_for_a_prompt_of_ones_own_and_in_scripts_without_spaces(
    text: str, prompt: str
) -> None:
    assert caption_from(ModelResponse(text, "stop"), prompt).text == text


@pytest.mark.parametrize("finish", [None, "", "stop", "STOP", "eos", "end_turn"])
def test_what_servers_call_a_complete_answer_is_one(finish: str | None) -> None:
    assert caption_from(ModelResponse("<think>Hm</think>A cat.", finish)) == GeneratedCaption(
        "A cat.", removed=("reasoning",)
    )


@pytest.mark.parametrize(
    ("position", "caption", "placed"),
    [
        ("end", "A cat.", "A cat. [trigger]"),
        ("start", "A cat.", "[trigger] A cat."),
        ("none", "A cat.", "A cat."),
        ("end", "A [trigger] cat.", "A [trigger] cat."),
    ],
)
def test_trigger_word_is_placed_once_at_the_chosen_position(position: str, caption: str, placed: str) -> None:
    assert place_trigger(caption, "[trigger]", position) == placed


@pytest.mark.parametrize(
    ("width", "height", "model", "tokens"),
    [
        # 32 x 32 patches, as in OpenAI's examples.
        (1024, 1024, "gpt-4.1-nano", 1024 * 2.46),
        (33, 32, "gpt-4.1-nano", 2 * 2.46),
        (1800, 2400, "gpt-4.1-mini", 1536 * 1.62),
        (1024, 1024, "llava", None),
    ],
)
def test_image_tokens_are_counted_by_patches(
    width: int, height: int, model: str, tokens: float | None
) -> None:
    assert image_tokens(width, height, model) == tokens


def test_estimate_scales_with_the_images_and_is_none_without_a_price() -> None:
    price = Price(1.0, 2.0)
    one, two = (
        estimate_caption_cost([(512, 512)] * count, "gpt-4.1-nano", "x" * 40, price) for count in (1, 2)
    )
    assert one is not None
    assert two == pytest.approx(2 * one)
    assert one == pytest.approx((256 * 2.46 + 35 + 10 + 105 * 2) / 1e6)
    assert estimate_caption_cost([(512, 512)], "llava", "x", price) is None
    assert estimate_caption_cost([(512, 512)], "gpt-4.1-nano", "x", None) is None


def test_prices_are_per_million_tokens() -> None:
    assert Price(2.0, 3.0).of(1_000_000, 2_000_000) == 8.0


def test_images_with_a_missing_or_empty_caption_are_uncaptioned(tmp_path: Path) -> None:
    make_images(tmp_path, 4)
    (tmp_path / "00001.txt").write_text("X", encoding="utf-8")
    (tmp_path / "00002.txt").write_text("\ufeff \n", encoding="utf-8")
    (tmp_path / "00003.txt").touch()
    (tmp_path / ".00005.jpg").touch()
    (tmp_path / "notes.md").touch()
    assert [file.name for file in uncaptioned(tmp_path)] == ["00002.jpg", "00003.jpg", "00004.jpg"]


def test_uncaptioned_images_are_in_natural_order(tmp_path: Path) -> None:
    names = ["cat2.jpg", "cat10.jpg", "Dog1.jpg"]
    for name in reversed(names):
        (tmp_path / name).touch()
    assert [file.name for file in uncaptioned(tmp_path)] == names


def test_an_unreadable_caption_is_reported_and_not_overwritten(tmp_path: Path) -> None:
    make_images(tmp_path, 3)
    (tmp_path / "00001.txt").mkdir()
    (tmp_path / "00002.txt").write_text("a cat")
    with pytest.raises(BadInput) as caught:
        uncaptioned(tmp_path)
    assert caught.value.findings == [
        f"{tmp_path}/00001.txt: cannot be read (it is a folder, not a file); correct it or remove it"
    ]
    assert has_caption(tmp_path / "00001.jpg")
    (tmp_path / "00001.txt").rmdir()
    assert [image.name for image in uncaptioned(tmp_path)] == ["00001.jpg", "00003.jpg"]
