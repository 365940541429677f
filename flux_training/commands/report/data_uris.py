"""Pictures inside a page, as `data:` addresses. Each is decoded and drawn anew: nothing of the file itself reaches the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

QUALITY = 82
FORMATS = ("JPEG", "PNG", "WEBP")
# FLUX draws about one million pixels, a camera 60: more is a trap.
MOST_PIXELS = 120_000_000


@dataclass(frozen=True)
class Picture:
    """`uri` is a WebP of `width` x `height` pixels."""

    uri: str
    width: int
    height: int


def embed(source: Path | BinaryIO, longest_side: int) -> Picture | None:
    """The picture, no larger than this; None when it is none that can be read."""
    from PIL import Image, ImageOps

    from flux_training.training.dataset.images import UNREADABLE

    try:
        with Image.open(source, formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                return None
            opened.draft("RGB", (longest_side, longest_side))
            upright = ImageOps.exif_transpose(opened)
            upright.thumbnail((longest_side, longest_side))
            buffer = io.BytesIO()
            upright.convert("RGB").save(buffer, "WEBP", quality=QUALITY)
    except UNREADABLE:
        return None
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/webp;base64,{encoded}", upright.width, upright.height)
