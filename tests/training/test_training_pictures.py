"""Photos of every kind become upright sRGB on white; what shows the same is known as the same."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat
from PIL.PngImagePlugin import PngInfo

from tests.support.photos import DAMAGED_EXIF, cmyk, heic, moving, photo, see_through, turned, wide_gamut
from training.errors import BadInput
from training.pictures import is_same, jpeg, look_of, read_picture, reduce, size_of

PICTURES = sorted((Path(__file__).parents[2] / "jobs").glob("*/dataset/*.[jpw]*"))


def difference(one: Image.Image, other: Image.Image) -> float:
    assert one.size == other.size
    return max(ImageStat.Stat(ImageChops.difference(one, other)).mean)


def saved(picture: Image.Image, path: Path, kind: str) -> None:
    if kind == "heic":
        heic(picture, path)
    elif kind == "cmyk":
        cmyk(picture, path)
    elif kind == "lab":
        wide_gamut(picture, path)
    elif kind == "turned":
        turned(picture, path)
    else:
        picture.save(path, kind)


@pytest.mark.parametrize(
    ("kind", "near"),
    [
        ("JPEG", 6),
        ("PNG", 0),
        ("WEBP", 6),
        ("AVIF", 6),
        ("BMP", 0),
        ("TIFF", 0),
        ("GIF", 12),
        ("heic", 6),
        ("cmyk", 8),
        ("lab", 3),
        ("turned", 6),
    ],
)
def test_every_format_shows_what_was_saved_in_it(tmp_path: Path, kind: str, near: float) -> None:
    saved(photo(1), tmp_path / "it", kind)
    picture = read_picture(tmp_path / "it")
    assert picture.image.mode == "RGB"
    assert difference(picture.image, photo(1)) <= near
    assert picture.notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_upright_however_the_camera_was_held(tmp_path: Path, orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = photo(2).transpose(turns[orientation]) if orientation in turns else photo(2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "it.png", exif=exif)
    assert difference(read_picture(tmp_path / "it.png").image, photo(2)) == 0


def test_what_can_be_seen_through_is_white(tmp_path: Path) -> None:
    see_through(photo(3)).save(tmp_path / "it.png")
    image = read_picture(tmp_path / "it.png").image
    width, height = image.size
    assert image.crop((0, 0, width // 2, height)).getextrema() == ((255, 255),) * 3
    assert (
        difference(image.crop((width // 2, 0, width, height)), photo(3).crop((width // 2, 0, width, height)))
        == 0
    )


def test_a_colour_profile_is_applied_and_not_thrown_away(tmp_path: Path) -> None:
    wide_gamut(photo(4), tmp_path / "lab.tif")
    with Image.open(tmp_path / "lab.tif") as raw:
        assert raw.mode == "LAB"
    assert difference(read_picture(tmp_path / "lab.tif").image, photo(4)) <= 3


def test_a_broken_profile_does_not_lose_the_photo(tmp_path: Path) -> None:
    photo(5).save(tmp_path / "it.png", icc_profile=b"no profile at all")
    assert difference(read_picture(tmp_path / "it.png").image, photo(5)) == 0


def test_grey_of_sixteen_bits_is_scaled_and_not_cut(tmp_path: Path) -> None:
    wide = Image.new("I;16", (2, 1))
    wide.putdata([0x8000, 0xFFFF])
    wide.save(tmp_path / "it.png")
    image = read_picture(tmp_path / "it.png").image
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(127, 127, 127), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_a_moving_picture_the_first_frame_is_taken_and_said_so(tmp_path: Path, kind: str) -> None:
    moving([photo(6), photo(7), photo(8)], tmp_path / "it", kind)
    picture = read_picture(tmp_path / "it")
    assert difference(picture.image, photo(6)) <= 12
    assert picture.notes == ("it: of its 3 pictures only the first is taken",)


def test_nothing_of_the_camera_is_in_what_is_trained_on(tmp_path: Path) -> None:
    turned(photo(9), tmp_path / "it.jpg")
    raw = jpeg(read_picture(tmp_path / "it.jpg").image)
    with Image.open(io.BytesIO(raw)) as made:
        assert not made.getexif()
        assert {"exif", "icc_profile", "comment", "xmp"} & made.info.keys() == set()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("it.jpg", b"", "an empty file"),
        ("it.png", b"hello", "a broken image, or no png at all"),
        ("film.mp4", b"hello", "no image (JPEG"),
        ("it.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image (JPEG"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_picture(tmp_path / name)
    assert caught.value.findings[0].startswith(f"{name}: {words}")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "heic"])
def test_a_file_that_was_cut_short_is_broken_and_never_half_taken(tmp_path: Path, kind: str) -> None:
    saved(photo(10), tmp_path / "whole", kind)
    raw = (tmp_path / "whole").read_bytes()
    (tmp_path / "it.jpg").write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(BadInput, match=r"it\.jpg: a broken image"):
        read_picture(tmp_path / "it.jpg")


def again(picture: Image.Image, quality: int, scale: float) -> Image.Image:
    out = io.BytesIO()
    picture.resize((int(picture.width * scale), int(picture.height * scale))).save(
        out, "JPEG", quality=quality
    )
    return Image.open(out).convert("RGB")


@pytest.mark.parametrize("file", PICTURES, ids=lambda file: f"{file.parts[-3]}-{file.name}")
def test_a_photo_saved_again_is_the_same_and_the_next_of_a_burst_is_not(file: Path) -> None:
    picture = read_picture(file).image
    look = look_of(picture)
    assert all(is_same(look, look_of(again(picture, *how))) for how in ((30, 1), (30, 0.25), (90, 0.5)))
    moved = picture.crop((picture.width // 25, 0, picture.width, picture.height))
    assert not is_same(look, look_of(moved))


def test_no_two_of_the_example_photos_are_taken_for_one() -> None:
    looks = [look_of(read_picture(file).image) for file in PICTURES]
    assert [(a, b) for a in range(len(looks)) for b in range(a) if is_same(looks[a], looks[b])] == []


def test_things_on_a_white_ground_are_told_apart() -> None:
    looks = []
    for seed in range(8):
        paper = Image.new("RGB", (400, 400), "white")
        paper.paste(photo(seed, (90, 90)), (155, 155))
        looks.append(look_of(paper))
    assert [(a, b) for a in range(8) for b in range(a) if is_same(looks[a], looks[b])] == []


def test_reducing_never_enlarges() -> None:
    assert reduce(photo(1), 100).size == (100, 67)
    assert reduce(photo(1), 1000).size == photo(1).size
    assert reduce(photo(1), 0).size == photo(1).size


def test_the_size_is_read_from_the_head_alone(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "it.png")
    (tmp_path / "head").write_bytes((tmp_path / "it.png").read_bytes()[:60])
    (tmp_path / "text").write_text("hello")
    assert (size_of(tmp_path / "head"), size_of(tmp_path / "text")) == (photo(1).size, None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_what_was_written_into_a_photo_does_not_leave_with_it(tmp_path: Path, kind: str) -> None:
    note = "Anna, 12 Garden Street"
    words = PngInfo()
    words.add_text("comment", note)
    photo(1).save(tmp_path / "it", kind, **({"pnginfo": words} if kind == "PNG" else {"comment": note}))
    assert note.encode() in (tmp_path / "it").read_bytes()
    assert note.encode() not in jpeg(read_picture(tmp_path / "it").image)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_damaged_exif_makes_a_broken_image_and_no_traceback(tmp_path: Path, kind: str) -> None:
    photo(1).save(tmp_path / "it", kind, exif=DAMAGED_EXIF)
    with pytest.raises(BadInput, match="it: a broken image"):
        read_picture(tmp_path / "it")


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "TIFF", "WEBP", "heic"])
def test_a_file_cut_off_anywhere_is_a_picture_or_bad_input(tmp_path: Path, kind: str) -> None:
    saved(photo(1), tmp_path / "whole", kind)
    whole = (tmp_path / "whole").read_bytes()
    for part in range(1, 20):
        (tmp_path / "it").write_bytes(whole[: len(whole) * part // 20])
        size_of(tmp_path / "it")
        with suppress(BadInput):
            read_picture(tmp_path / "it")
