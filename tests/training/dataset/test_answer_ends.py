"""A caption that the model ended with a token is whole, although the tokens ran out behind it."""

import pytest

from flux_training.training.dataset.captions import ModelResponse, caption_from

FOX = "A fox crosses a frozen pond at first light."


@pytest.mark.parametrize(
    "answer",
    [
        f"{FOX}<|endoftext|>",
        f"{FOX}<|endoftext|><|endoftext|><|endoftext|>",
        f"{FOX}<|im_end|>\n<|im_end|>\n<|im_end|>",
        f"{FOX}</s></s></s></s></s></s>",
        f"{FOX} <end_of_turn>\n",
        f'{{"caption": "{FOX}"}}<|endoftext|><|endoftext|>',
        f"{FOX}<|im_end|>\n<|im_start|>user\nDescribe the next one<|im_end|>\n<|im_start|>assistant\nA do",
        f"<|im_start|>assistant\n{FOX}<|im_end|>",
        f"Caption: {FOX}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nThe fox is",
        f"{FOX} [end of text]",
        f"<|im_start|>user\nCaption it.<|im_end|>\n<|im_start|>assistant\n{FOX}<|im_end|><|im_end|>",
    ],
)
def test_a_caption_before_an_end_token_is_whole(answer: str) -> None:
    assert caption_from(ModelResponse(answer, "length")).text == FOX


@pytest.mark.parametrize(
    "answer",
    [
        FOX,
        "A fox crosses the<|endoftext|><|endoftext|>",
        "<|endoftext|><|endoftext|><|endoftext|>",
        "<|im_start|>assistant\nA fox crosses a frozen pond at",
        "<s>user\nCaption it.</s>\n<s>assistant\nA fox crosses a frozen",
        "A fox crosses<|image_pad|><|image_pad|><|image_pad|>",
        "I cannot see the image.<|im_end|><|im_end|>",
        "<think>I look at the fox.<|im_end|><|im_end|>",
        f"<|endoftext|>{FOX[:30]}",
    ],
)
def test_an_end_token_makes_nothing_else_a_caption(answer: str) -> None:
    found = caption_from(ModelResponse(answer, "length"))
    assert (found.text, bool(found.problem)) == ("", True)
