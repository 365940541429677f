"""Letters and signs at random are refused; trigger words, abbreviations, codes and rare names are not."""

import pytest

from flux_training.training.dataset.captions import ModelResponse, caption_from

# ruff: noqa: RUF001 - letters of several scripts


@pytest.mark.parametrize(
    "answer",
    [
        "asdkj 2#@ lkqwe }}{ ;;; xcv ]] 00 qpwo",
        "qwlekj asdlkj zxmcn qpwoei 9912 xx;; kk",
        "Th3 #@! c@@t zz ;;; sdf ]] 0x00 fgh",
        "vfd gth nbv cxz lkj hgf dsa poi uyt",
        "fghij klmno pqrst uvwxy zabcd efghi",
        "0x7f 0x3a 0x00 ff aa 1c 9d e0",
        "аbс 你 dé ñ 하 ش x ก z q w 7",
        "xkjq wzpl mrtv qqhx bnnk.",
        "jkl;asdf jkl;asdf qwpo zxnm {} [] ;; a cat",
    ],
)
def test_letters_and_signs_at_random_are_refused(answer: str) -> None:
    found = caption_from(ModelResponse(answer, "stop"))
    assert found.text == ""
    assert found.problem.startswith("the answer is noise")


@pytest.mark.parametrize(
    "caption",
    [
        "A photo of ohwx man, sks dog and zxqv cat in a park.",
        "Strč prst skrz krk na zdi vedle dveří.",
        "A DSLR photo of an F/A-18 jet, ISO 100, 35mm, f/1.8, RAW.",
        "A keyboard with the letters qwerty and asdf on its keys.",
        "A sign that reads 'XKCD BTW TTYL' over a door.",
        "Reykjavik and Njardvik seen from a ship near Hvammsvik.",
        "A #5 jersey & a 2x4 plank @ the fair, $5 each.",
        "Two men in Szczebrzeszyn, one with a beard.",
        "1girl, solo, 8k, hdr, long hair, standing",
        "A shop called Neko (猫) beside a bar called Кот.",
        "A dog runs ... and jumps -- high -- over a log.",
    ],
)
def test_rare_words_in_a_caption_are_no_noise(caption: str) -> None:
    assert caption_from(ModelResponse(caption, "stop")).text == caption
