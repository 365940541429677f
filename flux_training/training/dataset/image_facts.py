"""What lint knows of one image. Gathered by decoding it once, then kept in a cache: rules never open a file."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flux_training.training.dataset.perceptual_hash import perceptual_hash

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# What cameras, phones and image programs write. Others are refused unopened: Pillow would start Ghostscript for an EPS, for one.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ORIENTATION_TAG = 0x0112
UPRIGHT = 1
WEBP_HEADER = 12


@dataclass(frozen=True)
class ImageFacts:
    """One image file. `size` in bytes, `width` and `height` in pixels as they are stored.

    `damage` is empty for an image that decodes to its last pixel; then `truncated` tells whether the file just ends too early.
    `frames` is above 1 for animations; `orientation` is EXIF's (1 is upright); `transparent` when a pixel is not opaque;
    `blank` when all pixels are the same; `hash` is `perceptual_hash`.
    """

    name: str
    size: int
    sha256: str
    damage: str = ""
    truncated: bool = False
    format: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    frames: int = 1
    orientation: int = UPRIGHT
    transparent: bool = False
    blank: bool = False
    hash: int = 0

    @property
    def unread(self) -> bool:
        """Whether the file itself could not be read, which may be the machine's fault."""
        return not self.sha256

    @property
    def sound(self) -> bool:
        return not self.damage

    @property
    def pixels(self) -> int:
        return self.width * self.height


def look_at_image(path: Path) -> ImageFacts:
    """Read and decode a file. What is wrong with it is a fact, too: raises nothing."""
    from PIL import Image as Pillow  # here: most processes find every image in the cache
    from PIL import UnidentifiedImageError

    try:
        raw = path.read_bytes()
    except OSError as error:
        return ImageFacts(path.name, 0, "", damage=error.strerror or "cannot be read")
    facts = ImageFacts(path.name, len(raw), hashlib.sha256(raw).hexdigest())
    try:
        with warnings.catch_warnings(), Pillow.open(io.BytesIO(raw), formats=FORMATS) as picture:
            warnings.simplefilter("ignore")
            return _decoded(facts, picture)
    except UnidentifiedImageError:
        return replace(facts, damage="not an image")
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise whatever a damaged file makes of them
        reason = " ".join(str(error).split()) or type(error).__name__
        return replace(facts, damage=reason, truncated=_is_cut_off(raw, reason))


def _decoded(facts: ImageFacts, picture: Picture) -> ImageFacts:
    frames = getattr(picture, "n_frames", 1)
    orientation = picture.getexif().get(ORIENTATION_TAG, UPRIGHT)
    picture.load()
    bits = perceptual_hash(picture)
    return replace(
        facts,
        format=picture.format or "",
        width=picture.width,
        height=picture.height,
        mode=picture.mode,
        # A phone's MPO holds a second view beside the photograph: no animation.
        frames=1 if picture.format == "MPO" else frames,
        orientation=orientation if isinstance(orientation, int) else UPRIGHT,
        transparent=_is_transparent(picture),
        # The hash of a flat picture is 0: only then is it worth looking at every pixel.
        blank=bits == 0 and _is_blank(picture),
        hash=bits,
    )


def _is_blank(picture: Picture) -> bool:
    extrema = picture.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(least == most for least, most in bands)


def _is_transparent(picture: Picture) -> bool:
    if "A" in picture.getbands():
        least, _ = picture.getchannel("A").getextrema()
        return least != 255
    return "transparency" in picture.info


def _is_cut_off(raw: bytes, reason: str) -> bool:
    if raw[:4] == b"RIFF" and raw[8:WEBP_HEADER] == b"WEBP":
        return int.from_bytes(raw[4:8], "little") + 8 > len(raw)
    return "truncated" in reason.lower()
