"""Size and number of frames of a video, from the header of an MP4 or QuickTime file (ISO 14496-12). Nothing is decoded.

The file is a sequence of boxes, some of which consist of boxes: four bytes of length, four of name, then the content.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# No video clip has more frames than this. A damaged header could claim four billion.
MAX_FRAMES = 10_000_000
HEADER_BYTES = 8
LONG_HEADER_BYTES = 16


class BadVideoError(ValueError):
    """The file is no video that can be trained."""


class CutVideoError(BadVideoError):
    """The file ends too early."""


@dataclass(frozen=True)
class VideoHeader:
    """`width` and `height` in pixels, as the video is stored."""

    width: int
    height: int
    frames: int


class Box(NamedTuple):
    name: bytes
    content: bytes


def read_video_header(raw: bytes) -> VideoHeader:
    """Raises BadVideoError."""
    if raw[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        raise BadVideoError("not an MP4 or QuickTime file")
    moov = next((box.content for box in list(_boxes(raw)) if box.name == b"moov"), None)
    if moov is None:
        raise BadVideoError("the video has no header (moov)")
    for box in _boxes(moov):
        if box.name == b"trak" and (header := _video_track(box.content)):
            return header
    raise BadVideoError("the file has no video track with frames")


def _video_track(trak: bytes) -> VideoHeader | None:
    """None for sound and the like, and for a track without frames."""
    media = _below(trak, b"mdia")
    if _below(media, b"hdlr")[8:12] != b"vide":
        return None
    samples = _below(_below(media, b"minf"), b"stbl")
    frames = _count_frames(_below(samples, b"stts"))
    # Skip to the first entry of the `stsd` box. The width and height follow its header of 16 bytes and 16
    # bytes of other fields.
    entry = _below(samples, b"stsd")[8:]
    width, height = _big_endian_number(entry[32:34]), _big_endian_number(entry[34:36])
    return VideoHeader(width, height, frames) if frames and width and height else None


def _count_frames(table: bytes) -> int:
    """The sum of a table of (frames, duration of each)."""
    count = _big_endian_number(table[4:8])
    frames = sum(_big_endian_number(table[at : at + 4]) for at in range(8, min(len(table), 8 + 8 * count), 8))
    if frames > MAX_FRAMES:
        raise BadVideoError(f"its header says {frames} frames")
    return frames


def _below(content: bytes, name: bytes) -> bytes:
    """The content of the first box of this name; empty if there is none."""
    return next((box.content for box in _boxes(content) if box.name == name), b"")


def _boxes(content: bytes) -> Iterator[Box]:
    """Raises CutVideoError for a box that is longer than what there is."""
    at = 0
    while at + HEADER_BYTES <= len(content):
        length, name = _big_endian_number(content[at : at + 4]), content[at + 4 : at + 8]
        start = at + HEADER_BYTES
        if length == 1:  # the real length follows in eight bytes
            length = _big_endian_number(content[at + HEADER_BYTES : at + LONG_HEADER_BYTES])
            start = at + LONG_HEADER_BYTES
        end = at + length if length else len(content)
        if end < start:
            raise BadVideoError("the lengths in the video header are impossible")
        if end > len(content):
            raise CutVideoError(
                f"the video file ends {end - len(content)} bytes before the end of its box {name.decode('latin-1')!r}"
            )
        yield Box(name, content[start:end])
        at = end


def _big_endian_number(digits: bytes) -> int:
    return int.from_bytes(digits, "big")
