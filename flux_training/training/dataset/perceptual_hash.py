"""Which images look the same, though their bytes differ: re-encoded, scaled, a little brighter.

The hash is a difference hash (dHash): the picture as 9 x 9 grey values, and whether each is darker than its neighbour to the right (64
bits) and below (64 bits). Pillow alone does it; the `imagehash` package would bring NumPy, SciPy and PyWavelets into the product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SIDE = 8
BITS = 2 * SIDE * SIDE
# Of 128 bits. What was scaled, re-encoded, brightened or reduced to 64 colours differs in 0 to 10; different views of one photograph, as in
# jobs/, in 40 and more (tests/training/dataset/test_perceptual_hash.py).
NEAR = 10


def perceptual_hash(picture: Picture) -> int:
    """128 bits. The same for a picture and its smaller copy, nearly always."""
    from PIL.Image import Resampling  # as in facts.py

    small = picture if picture.mode in ("RGB", "RGBA", "L") else _grey(picture)
    # First roughly, then exactly: a large photograph costs as little as a small one.
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
        return _in_256_steps(picture.convert("F"))
    return picture.convert("L")


def _in_256_steps(picture: Picture) -> Picture:
    """Of 16 bits or of fractions, from the darkest to the brightest there is: Pillow would take all above 255 for white."""
    least, most = (float(end) for end in picture.getextrema())  # type: ignore[arg-type]  # of one band they are two numbers
    scale = 255 / (most - least) if most > least else 0.0
    return picture.point(lambda value: value * scale - least * scale).convert("L")


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def near_pairs(hashes: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str]]:
    """(name, an earlier name it looks like): each name at most once.

    Two hashes that differ in at most NEAR bits agree in at least one of NEAR + 1 bands, so only those that share a band are compared; and a
    name that looks like an earlier one is no candidate for later ones. 10,000 different images are each compared with some 30.
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
    width = -(-BITS // (NEAR + 1))
    for start in range(0, BITS, width):
        yield bits >> start & ((1 << width) - 1)
