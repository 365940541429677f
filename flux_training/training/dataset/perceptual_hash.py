"""Finds images that look the same although their bytes differ: re-encoded, scaled, or slightly brighter.

The hash is a difference hash (dHash): the image is reduced to 9 x 9 grey values, and 128 bits say whether each is darker than its right
and its lower neighbour. The `imagehash` package would add NumPy, SciPy and PyWavelets (docs/decisions/0023-libraries-in-training.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SIDE = 8
BITS = 2 * SIDE * SIDE
# Two images look the same if at most this many of the 128 bits of their hashes differ. Copies that are
# scaled, re-encoded, brightened or reduced to 64 colours differ from the original in 0 to 10 bits;
# different photos of one subject differ in 40 or more (tests/training/dataset/test_perceptual_hash.py).
NEAR = 10


def perceptual_hash(picture: Picture) -> int:
    """128 bits, which are nearly always the same for an image and its smaller copy."""
    from PIL.Image import Resampling  # imported here because Pillow is rarely needed

    small = picture if picture.mode in ("RGB", "RGBA", "L") else _grey(picture)
    # `reducing_gap` makes resizing a large image as fast as resizing a small one.
    grey = small.resize((SIDE + 1, SIDE + 1), Resampling.BILINEAR, reducing_gap=4.0).convert("L").tobytes()
    bits = 0
    for row in range(SIDE):
        for column in range(SIDE):
            at = row * (SIDE + 1) + column
            bits = bits << 2 | (grey[at] < grey[at + 1]) << 1 | (grey[at] < grey[at + SIDE + 1])
    return bits


def _grey(picture: Picture) -> Picture:
    if picture.mode == "LAB":
        return picture.getchannel("L")
    if picture.mode[0] in "IF":
        return _scale_to_256_levels(picture.convert("F"))
    return picture.convert("L")


def _scale_to_256_levels(picture: Picture) -> Picture:
    """Scales 16-bit or float values to the range from darkest to brightest: Pillow would turn all above 255 white."""
    lowest, highest = (float(end) for end in picture.getextrema())  # type: ignore[arg-type]  # one band has two numbers
    scale = 255 / (highest - lowest) if highest > lowest else 0.0
    return picture.point(lambda value: value * scale - lowest * scale).convert("L")


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def near_pairs(hashes: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str]]:
    """(name, an earlier name that it looks like), each name at most once.

    Two hashes that differ in at most NEAR bits agree in at least one of NEAR + 1 bands, so only hashes that share a band are compared. Of
    similar images only the first is compared with later ones. With 10,000 different images each is compared with about 30.
    """
    leaders: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name, bits in hashes:
        bands = list(enumerate(_bands(bits)))
        candidates = (leader for band in bands for leader in leaders.get(band, ()))
        like = next((earlier for earlier, other in candidates if distance(bits, other) <= NEAR), None)
        if like is not None:
            yield name, like
            continue
        for band in bands:
            leaders.setdefault(band, []).append((name, bits))


def _bands(bits: int) -> Iterator[int]:
    width = math.ceil(BITS / (NEAR + 1))
    for start in range(0, BITS, width):
        yield bits >> start & ((1 << width) - 1)
