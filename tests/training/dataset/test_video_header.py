"""Size and frames of videos, from a file that OpenCV 5.0 wrote (21 frames of 64 x 48 pixels), whole and damaged."""

import random
from pathlib import Path

import pytest

from flux_training.training.dataset.image_facts import read_image_facts
from flux_training.training.dataset.video_header import (
    BadVideoError,
    CutVideoError,
    VideoHeader,
    read_video_header,
)

CLIP = Path(__file__).resolve().parents[2] / "support/clip.mp4"
RAW = CLIP.read_bytes()
FRAMES_AT = RAW.index(b"stts") + 12


def box(name: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + name + content


def test_the_header_of_a_real_video() -> None:
    assert read_video_header(RAW) == VideoHeader(64, 48, 21)
    facts = read_image_facts(CLIP)
    assert (facts.is_video, facts.damage, facts.width, facts.height, facts.frames) == (True, "", 64, 48, 21)


def test_the_media_may_come_last_and_lengths_may_have_eight_bytes() -> None:
    moov = RAW[RAW.index(b"moov") - 4 :]
    media = b"\0\0\0\x01mdat" + (16 + 5).to_bytes(8, "big") + b"media"
    assert read_video_header(moov + media).frames == 21


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "not an MP4"),
        (b"RIFF....AVI ", "not an MP4"),
        (box(b"ftyp", b"isom"), "no header"),
        (box(b"ftyp", b"isom") + box(b"moov", b""), "no video track"),
        (RAW[:FRAMES_AT] + b"\0\0\0\0" + RAW[FRAMES_AT + 4 :], "no video track with frames"),
        (RAW[:FRAMES_AT] + b"\xff\xff\xff\xff" + RAW[FRAMES_AT + 4 :], "4294967295 frames"),
        (RAW.replace(b"vide", b"soun"), "no video track"),
        (b"\0\0\0\x02ftyp", "the lengths in the video header are impossible"),
    ],
)
def test_other_files_are_refused_with_the_reason(raw: bytes, expected: str) -> None:
    with pytest.raises(BadVideoError, match=expected):
        read_video_header(raw)


@pytest.mark.parametrize("missing", [1, 100, 1500])
def test_a_cut_file_is_told_from_a_damaged_one(missing: int, tmp_path: Path) -> None:
    with pytest.raises(CutVideoError):
        read_video_header(RAW[:-missing])
    (tmp_path / "a.mp4").write_bytes(RAW[:-missing])
    facts = read_image_facts(tmp_path / "a.mp4")
    assert facts.is_video
    assert facts.truncated


def test_random_damage_raises_nothing_else() -> None:
    chance = random.Random(0)
    for _ in range(2000):
        raw = bytearray(RAW)
        for _ in range(chance.randrange(1, 6)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            found = read_video_header(bytes(raw[: chance.randrange(1, len(raw) + 1)]))
        except BadVideoError:
            continue
        assert found.frames > 0
