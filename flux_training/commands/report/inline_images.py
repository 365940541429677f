"""Images inside a page as `data:` URIs. Each is decoded and encoded again, so that no byte of the file reaches the page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

QUALITY = 82
FORMATS = ("JPEG", "PNG", "WEBP")
# The maximum number of pixels of an image. Cameras make 60 million, trainers one or two million. Decoding takes 12 bytes per
# pixel, so larger images could exhaust the memory.
MAX_PIXELS = 120_000_000
MAX_SAMPLE_PIXELS = 4096 * 4096


@dataclass(frozen=True)
class InlineImage:
    """`uri` is a WebP of `width` x `height` pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class EncodedImage:
    """`data` is a WebP of `width` x `height` pixels."""

    data: bytes
    width: int
    height: int


def embed_image(
    source: Path | BinaryIO, longest_side: int, max_pixels: int = MAX_PIXELS
) -> InlineImage | None:
    """The image, reduced to `longest_side`; None if it cannot be read or has more than `max_pixels`."""
    image = encode_image(source, longest_side, max_pixels)
    if image is None:
        return None
    encoded = base64.b64encode(image.data).decode("ascii")
    return InlineImage(f"data:image/webp;base64,{encoded}", image.width, image.height)


def encode_image(source: Path | BinaryIO, longest_side: int, max_pixels: int) -> EncodedImage | None:
    """The image, reduced to `longest_side`; None if it cannot be read or has more than `max_pixels`."""
    from PIL import Image, ImageOps

    from flux_training.training.dataset.images import UNREADABLE, silence_large_image_warning

    silence_large_image_warning()
    try:
        with Image.open(source, formats=FORMATS) as opened:
            if opened.width * opened.height > max_pixels:
                return None
            opened.draft("RGB", (longest_side, longest_side))
            upright = ImageOps.exif_transpose(opened)
            upright.thumbnail((longest_side, longest_side))
            buffer = io.BytesIO()
            upright.convert("RGB").save(buffer, "WEBP", quality=QUALITY)
    except UNREADABLE:
        return None
    return EncodedImage(buffer.getvalue(), upright.width, upright.height)
