"""The facts of one image or video that lint rules need. The image is decoded once: rules never open files."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flux_training.training.dataset.perceptual_hash import perceptual_hash
from flux_training.training.dataset.video_header import BadVideoError, CutVideoError, read_video_header
from flux_training.training.names import VIDEO_SUFFIXES
from flux_training.training.opening import read_regular_file
from flux_training.training.text_files import (
    RETURNS_ADDED,
    RETURNS_REMOVED,
    changed_line_endings,
    git_artefact,
)

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# Files in other formats are refused without opening them: for an EPS file, Pillow would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
VIDEO = "VIDEO"
ORIENTATION_TAG = 0x0112
UPRIGHT = 1
WEBP_HEADER = 12
# A Git LFS pointer is always shorter than this, according to the Git LFS specification.
MAX_POINTER_BYTES = 1024


@dataclass(frozen=True)
class ImageFacts:
    """One image or video file. `size` in bytes, `width` and `height` in pixels as they are stored.

    `damage` says why an image cannot be decoded completely, `truncated` whether that is because the file ends too early,
    and `lfs_pointer` whether it is because the file is a Git LFS pointer.
    `format` is VIDEO for a video, which is not decoded: only size and number of frames are known. `frames` is above 1 for
    animations and videos, `orientation` is EXIF's (1 is upright), `blank` means that all pixels are equal, and `hash` is the
    `perceptual_hash`.
    """

    name: str
    size: int
    sha256: str
    damage: str = ""
    truncated: bool = False
    lfs_pointer: bool = False
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
    def is_video(self) -> bool:
        return self.format == VIDEO

    @property
    def unread(self) -> bool:
        """Whether the file could not be read at all, which may be temporary."""
        return not self.sha256

    @property
    def sound(self) -> bool:
        return not self.damage

    @property
    def has_changed_line_endings(self) -> bool:
        """Whether a program such as git treated the image as text and changed its line endings."""
        return self.damage in (RETURNS_ADDED, RETURNS_REMOVED)

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read_image_facts(path: Path) -> ImageFacts:
    """Read and decode a file. A broken file is a fact, too: raises nothing."""
    from PIL import Image as Pillow  # imported here because Pillow is rarely needed: most images are cached
    from PIL import UnidentifiedImageError

    try:
        raw = read_regular_file(path)
    except OSError as error:
        return ImageFacts(path.name, 0, "", damage=error.strerror or "cannot be read")
    facts = ImageFacts(path.name, len(raw), hashlib.sha256(raw).hexdigest())
    left = git_artefact(raw) if len(raw) <= MAX_POINTER_BYTES else None
    if left and left.code == "git-lfs":
        return replace(facts, damage=left.message, lfs_pointer=True)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _video(facts, raw)
    if changed := changed_line_endings(raw):
        return replace(facts, damage=changed)
    try:
        with Pillow.open(io.BytesIO(raw), formats=FORMATS) as picture:
            return _decoded(facts, picture)
    except UnidentifiedImageError:
        return replace(facts, damage="not an image")
    except Pillow.DecompressionBombError as error:
        return replace(facts, damage=describe_pixel_limit(error))
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise all kinds of exceptions for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        return replace(facts, damage=reason, truncated=_is_cut_off(raw, reason))


def _video(facts: ImageFacts, raw: bytes) -> ImageFacts:
    try:
        header = read_video_header(raw)
    except BadVideoError as error:
        return replace(facts, format=VIDEO, damage=str(error), truncated=isinstance(error, CutVideoError))
    return replace(facts, format=VIDEO, width=header.width, height=header.height, frames=header.frames)


def describe_pixel_limit(error: Exception) -> str:
    """What Pillow says about an image above its limit, in words of our own."""
    counts = [int(digits) for digits in re.findall(r"\d+", str(error))]
    return f"it has {counts[0]:,} pixels; at most {counts[1]:,} are read" if len(counts) == 2 else str(error)


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
        # Phones save MPO files, which contain a second view of the same photo. They are not animations.
        frames=1 if picture.format == "MPO" else frames,
        orientation=orientation if isinstance(orientation, int) else UPRIGHT,
        transparent=_is_transparent(picture),
        # The hash of a blank image is 0, so only images with that hash need their pixels checked.
        blank=bits == 0 and _is_blank(picture),
        hash=bits,
    )


def _is_blank(picture: Picture) -> bool:
    extrema = picture.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)


def _is_transparent(picture: Picture) -> bool:
    if "A" in picture.getbands():
        lowest, _ = picture.getchannel("A").getextrema()
        return lowest != 255
    return "transparency" in picture.info


def _is_cut_off(raw: bytes, reason: str) -> bool:
    if raw[:4] == b"RIFF" and raw[8:WEBP_HEADER] == b"WEBP":
        return int.from_bytes(raw[4:8], "little") + 8 > len(raw)
    return "truncated" in reason.lower()
