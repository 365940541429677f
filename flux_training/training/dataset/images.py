"""Pictures as they are trained on: upright, sRGB, without transparency and without what a camera wrote into them."""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pillow
from PIL import ImageChops, ImageCms, ImageOps, UnidentifiedImageError

from flux_training.training.dataset.perceptual_hash import NEAR, distance, perceptual_hash
from flux_training.training.errors import BadInput

# What Pillow may try. Not all it knows: for some (EPS) it would start another program on a stranger's file.
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "BMP", "TIFF", "GIF")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".heic", ".heif", ".avif", ".bmp", ".tif", ".tiff", ".gif")
)
MOVING = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
JPEG_QUALITY = 95
# JPEG_MAX_DIMENSION of libjpeg's jmorecfg.h.
JPEG_LONGEST_SIDE = 65_500
THUMB_SIDE = 8
# Of 255, in the eighth (of each side) that differs most. Seen on the 20 pictures below jobs/: at most 5 when saved again at quality 30 and
# at a quarter of their size, at least 10 when moved by 2 % of the width, as in a burst. The hash alone would take different things on
# a white ground for one.
NEAR_DIFFERENCE = 12


# What Pillow and its decoders raise for damaged files: of their EXIF, their compression, their frames.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Pillow.DecompressionBombError,
)


@dataclass(frozen=True)
class Look:
    """What a picture looks like: its perceptual hash and a small RGB copy. `pixels` counts the original's."""

    bits: int
    thumb: Pillow.Image
    pixels: int


@dataclass(frozen=True)
class Picture:
    """An RGB image, upright. `notes` say what was left out of the file."""

    image: Pillow.Image
    notes: tuple[str, ...]


def read_picture(file: Path) -> Picture:
    """Any common format as upright sRGB on white; of a moving picture the first frame. Raises BadInput."""
    _know_formats()
    try:
        with Pillow.open(file, formats=FORMATS) as picture:
            frames = int(getattr(picture, "n_frames", 1)) if picture.format in MOVING else 1
            picture.load()
            image = _plain_rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError as error:
        raise BadInput([f"{file.name}: {_what_it_is(file)}"]) from error
    except Pillow.DecompressionBombError as error:
        raise BadInput([f"{file.name}: too large ({error}); make it smaller first"]) from error
    except UNREADABLE as error:
        raise BadInput([f"{file.name}: a broken image ({error}); get it anew or leave it out"]) from error
    notes = (f"{file.name}: of its {frames} pictures only the first is taken",) if frames > 1 else ()
    return Picture(image, notes)


def size_of(file: Path) -> tuple[int, int] | None:
    """Width and height in pixels from a file's head; None when it is no image."""
    _know_formats()
    try:
        with Pillow.open(file, formats=FORMATS) as picture:
            return picture.size
    except UNREADABLE:
        return None


def reduce(image: Pillow.Image, max_side: int) -> Pillow.Image:
    """The image with its longer side at most `max_side` pixels (0: as it is, as far as a JPEG can have it); never enlarged."""
    longest = min(max_side, JPEG_LONGEST_SIDE) if max_side > 0 else JPEG_LONGEST_SIDE
    size = fitted(*image.size, longest)
    return image if size == image.size else image.resize(size, Pillow.Resampling.LANCZOS)


def fitted(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The size of an image with its longer side at most `max_side` pixels (0: as it is); no side gets lost."""
    scale = min(1.0, max_side / max(width, height)) if max_side > 0 else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def jpeg(image: Pillow.Image, quality: int = JPEG_QUALITY) -> bytes:
    """A JPEG with full colour resolution and nothing of the camera's in it: nodes are strangers' PCs."""
    out = io.BytesIO()
    # Without `comment` Pillow would write the one that the original had.
    image.save(out, "JPEG", quality=quality, subsampling=0, optimize=True, comment=b"")
    return out.getvalue()


def look_of(image: Pillow.Image) -> Look:
    """How an RGB image looks, for `is_same`."""
    thumb = image.resize((THUMB_SIDE, THUMB_SIDE), Pillow.Resampling.BOX)
    return Look(perceptual_hash(image), thumb, image.width * image.height)


def is_same(one: Look, other: Look) -> bool:
    """Whether two looks are of one picture: the very same, or saved again in another size, format or quality."""
    if distance(one.bits, other.bits) > NEAR:
        return False
    return max(ImageChops.difference(one.thumb, other.thumb).tobytes()) <= NEAR_DIFFERENCE


def _plain_rgb(image: Pillow.Image) -> Pillow.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image, profile = _eight_bits(image), None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Pillow.new("RGBA", image.size, "white")
        image = Pillow.alpha_composite(paper, image)
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile:
        image = _to_srgb(image, profile)
    return image.convert("RGB")


def _to_srgb(image: Pillow.Image, profile: bytes) -> Pillow.Image:
    """Colours as meant: CMYK and the wide gamut of phones have profiles. One that cannot be used is left aside."""
    try:
        meant = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, meant, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return converted or image


def _eight_bits(image: Pillow.Image) -> Pillow.Image:
    """Grey of 16 or more bits, scaled: Pillow itself would cut everything above 255 to white."""
    wide = image.convert("F")
    _, top = wide.getextrema()
    assert not isinstance(top, tuple)  # noqa: S101 - one band
    scale = 1.0 if top <= 255 else 255 / max(top, 65535)
    grey = wide.point(lambda value: value * scale).convert("L")
    # The grey that can be seen through: Pillow would look for its low eight bits. White is laid below, so white harms nothing.
    if "transparency" in image.info:
        grey.info["transparency"] = min(255, int(image.info["transparency"] * scale))
    return grey


def _what_it_is(file: Path) -> str:
    if file.stat().st_size == 0:
        return "an empty file; get it anew or leave it out"
    if file.suffix.lower() in SUFFIXES:
        return f"a broken image, or no {file.suffix.lower()[1:]} at all; get it anew or leave it out"
    return "no image (JPEG, PNG, WebP, HEIC, AVIF, BMP, TIFF or GIF)"


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.cache
def _know_formats() -> None:
    import pillow_heif  # 26 MB of decoders: only where photos are taken in

    # Phones make pictures that Pillow warns of; what it refuses (179 megapixels) stays refused.
    warnings.filterwarnings("ignore", category=Pillow.DecompressionBombWarning)
    Pillow.init()
    pillow_heif.register_heif_opener()
