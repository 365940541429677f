"""Near duplicates by perceptual hash."""

import random

import pytest
from PIL import Image, ImageEnhance

from flux_training.training.dataset.perceptual_hash import BITS, NEAR, distance, near_pairs, perceptual_hash
from tests.training.lint_folders import picture

CHANGES = {
    "smaller": lambda found: found.resize((100, 100)),
    "larger": lambda found: found.resize((700, 700), Image.Resampling.LANCZOS),
    "brighter": lambda found: ImageEnhance.Brightness(found).enhance(1.1),
    "fewer colours": lambda found: found.quantize(64, Image.Quantize.FASTOCTREE),
    "grey": lambda found: found.convert("L"),
    "a little cropped": lambda found: found.crop((1, 1, 255, 255)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_edited_copies_have_a_near_hash(change: str) -> None:
    for seed in range(20):
        assert (
            distance(perceptual_hash(picture(seed)), perceptual_hash(CHANGES[change](picture(seed)))) <= NEAR
        )


def test_different_images_have_no_near_hash() -> None:
    hashes = [(str(seed), perceptual_hash(picture(seed))) for seed in range(200)]
    assert list(near_pairs(hashes)) == []


def test_near_pairs_finds_the_same_as_comparing_all() -> None:
    chance = random.Random(1)
    hashes = [(str(number), chance.getrandbits(BITS)) for number in range(300)]
    for number in range(60):
        bits = hashes[number][1]
        for bit in chance.sample(range(BITS), chance.randrange(NEAR + 3)):
            bits ^= 1 << bit
        hashes.append((f"like {number}", bits))
    found = dict(near_pairs(hashes))
    for number in range(60):
        name, bits = hashes[300 + number]
        assert (name in found) == (distance(bits, hashes[number][1]) <= NEAR)
        assert found.get(name, str(number)) == str(number)


def test_near_pairs_compares_few_of_ten_thousand_hashes() -> None:
    chance = random.Random(2)
    comparisons = 0

    class Counted(int):
        def __xor__(self, other: int) -> int:
            nonlocal comparisons
            comparisons += 1
            return int(self) ^ other

    hashes = [(str(number), Counted(chance.getrandbits(BITS))) for number in range(10_000)]
    assert list(near_pairs(hashes)) == []
    assert comparisons < 10_000 * 50  # all pairs would be 50 million
