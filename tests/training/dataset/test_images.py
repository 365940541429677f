"""Photos of every format are converted to upright sRGB on white; duplicates are recognized."""

import errno
import io
import os
import struct
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat
from PIL.PngImagePlugin import PngInfo

from flux_training.commands.report.inline_images import encode_image
from flux_training.training.dataset.image_facts import read_image_facts
from flux_training.training.dataset.images import (
    MAX_THUMB_DIFFERENCE,
    THUMB_SIDE,
    Fingerprint,
    encode_jpeg,
    fingerprint_of,
    fitted_size,
    is_same,
    read_image,
    read_image_size,
    reduce_image,
)
from flux_training.training.dataset.perceptual_hash import NEAR
from flux_training.training.errors import BadInput
from tests.support.photos import DAMAGED_EXIF, cmyk, heic, moving, photo, see_through, turned, wide_gamut

PICTURES = sorted((Path(__file__).parents[3] / "jobs").glob("*/dataset/*.[jpw]*"))


def difference(one: Image.Image, other: Image.Image) -> float:
    assert one.size == other.size
    return max(ImageStat.Stat(ImageChops.difference(one, other)).mean)


def swapped(picture: Image.Image) -> Image.Image:
    """The image with red and blue swapped."""
    red, green, blue = picture.split()
    return Image.merge("RGB", (blue, green, red))


def greys(*values: float, mode: str = "I;16") -> Image.Image:
    picture = Image.new(mode, (len(values), 1))
    picture.putdata(values)
    return picture


def shown(file: Path) -> list[int]:
    """The grey values of an image with one row."""
    image = read_image(file).image
    channels = [list(channel.tobytes()) for channel in image.split()]
    assert channels == [channels[0]] * 3
    return channels[0]


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
def test_every_format_is_decoded_to_rgb(tmp_path: Path, kind: str, near: float) -> None:
    saved(photo(1), tmp_path / "it", kind)
    picture = read_image(tmp_path / "it")
    assert picture.image.mode == "RGB"
    assert difference(picture.image, photo(1)) <= near
    assert picture.notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
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
    assert difference(read_image(tmp_path / "it.png").image, photo(2)) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_become_white(tmp_path: Path, mode: str) -> None:
    picture = see_through(photo(3))
    # quantize() makes a palette image with transparency.
    picture = picture.quantize(64) if mode == "PA" else picture.convert(mode)
    picture.save(tmp_path / "it.png")
    image = read_image(tmp_path / "it.png").image
    width, height = image.size
    left, right = (0, 0, width // 2, height), (width // 2, 0, width, height)
    assert image.crop(left).getextrema() == ((255, 255),) * 3
    assert difference(image.crop(right), picture.convert("RGB").crop(right)) == 0


@pytest.mark.parametrize(
    ("values", "through", "seen"),
    [
        ((0, 0x8080, 0xC0C0), 0x8080, [0, 255, 192]),
        ((0, 0x8080, 0xC0C0), 0, [255, 128, 192]),
        ((0, 0x80, 0xFF), 0x80, [0, 255, 255]),
        ((0, 0x80, 0xFE), 0x8000, [0, 0x80, 0xFE]),
    ],
)
def test_only_transparent_pixels_of_16_bit_grey_become_white(
    tmp_path: Path, values: tuple[int, ...], through: int, seen: list[int]
) -> None:
    greys(*values).save(tmp_path / "it.png", transparency=through)
    assert shown(tmp_path / "it.png") == seen


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_colour_profile_is_applied(tmp_path: Path, mode: str) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = srgb.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    picture = photo(4).quantize(64) if mode == "P" else photo(4).convert(mode)
    picture.save(tmp_path / "it.png", icc_profile=profile)
    assert difference(read_image(tmp_path / "it.png").image, swapped(picture.convert("RGB"))) <= 1


def test_grey_colour_profile_is_applied(tmp_path: Path) -> None:
    # A profile with one empty tone curve: the values are linear.
    head = struct.pack(">I4xI4s4s4s12x4s88x", 156, 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    profile = head + struct.pack(">I4sII4s8x", 1, b"kTRC", 144, 12, b"curv")
    greys(0, 55, 255, mode="L").save(tmp_path / "it.png", icc_profile=profile)
    assert shown(tmp_path / "it.png") == [0, 128, 255]


def test_an_invalid_colour_profile_is_ignored(tmp_path: Path) -> None:
    photo(5).save(tmp_path / "it.png", icc_profile=b"no profile at all")
    assert difference(read_image(tmp_path / "it.png").image, photo(5)) == 0


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ((0x8000, 0xFFFF), [127, 255]),
        ((0x4000, 0x8000), [63, 127]),
        ((0x80, 0xFF), [0x80, 0xFF]),
        ((0x80, 0x100), [0, 0]),
    ],
)
def test_16_bit_grey_is_scaled_to_8_bits(
    tmp_path: Path, mode: str, values: tuple[int, ...], seen: list[int]
) -> None:
    greys(*values, mode=mode).save(tmp_path / "it.tif")
    assert shown(tmp_path / "it.tif") == seen


def test_32_bit_grey_is_scaled_to_its_maximum(tmp_path: Path) -> None:
    greys(0x10000, 0x20000, mode="I").save(tmp_path / "it.tif")
    assert shown(tmp_path / "it.tif") == [127, 255]


@pytest.mark.parametrize(("kind", "count"), [("GIF", 2), ("WEBP", 3), ("PNG", 3), ("TIFF", 3), ("AVIF", 3)])
def test_first_frame_of_an_animation_is_used_with_a_note(tmp_path: Path, kind: str, count: int) -> None:
    moving([photo(6), photo(7), photo(8)][:count], tmp_path / "it", kind)
    picture = read_image(tmp_path / "it")
    assert difference(picture.image, photo(6)) <= 12
    assert picture.notes == (f"it: only the first of its {count} frames is used",)


def test_an_mpo_gain_map_is_not_reported_as_a_frame(tmp_path: Path) -> None:
    photo(6).save(tmp_path / "it.jpg", "MPO", save_all=True, append_images=[photo(6).convert("L")])
    with Image.open(tmp_path / "it.jpg") as raw:
        assert getattr(raw, "n_frames", 1) == 2
    assert read_image(tmp_path / "it.jpg").notes == ()


def test_exif_and_profiles_are_removed(tmp_path: Path) -> None:
    turned(photo(9), tmp_path / "it.jpg")
    raw = encode_jpeg(read_image(tmp_path / "it.jpg").image)
    with Image.open(io.BytesIO(raw)) as made:
        assert not made.getexif()
        assert {"exif", "icc_profile", "comment", "xmp"} & made.info.keys() == set()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("it.jpg", b"", "an empty file"),
        ("it.png", b"hello", "a broken image, or not a png file"),
        ("notes.doc", b"hello", "not an image (JPEG"),
        ("film.mp4", b"hello", "a video, which is not imported; for a model that trains on videos, copy it"),
        ("film.WEBM", b"hello", "a video, which is not imported"),
        ("it.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image (JPEG"),
    ],
)
def test_files_that_are_not_images_are_rejected(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_image(tmp_path / name)
    assert caught.value.findings[0].startswith(f"{name}: {words}")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "heic"])
def test_a_truncated_image_is_rejected(tmp_path: Path, kind: str) -> None:
    saved(photo(10), tmp_path / "whole", kind)
    raw = (tmp_path / "whole").read_bytes()
    (tmp_path / "it.jpg").write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(BadInput, match=r"it\.jpg: a broken image"):
        read_image(tmp_path / "it.jpg")


# Permission; a drive that was unplugged; a file that somebody deletes meanwhile.
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOENT])
def test_an_image_that_the_system_does_not_give_is_not_called_broken(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "it.jpg")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(BadInput) as caught:
        read_image(tmp_path / "it.jpg")
    reason = f"cannot be read ({os.strerror(number)}); make it a readable file or leave it out"
    assert caught.value.findings == [f"it.jpg: {reason}"]


def test_an_image_with_too_many_pixels_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    photo(1).save(tmp_path / "it.png")
    with pytest.raises(BadInput) as caught:
        read_image(tmp_path / "it.png")
    (said,) = caught.value.findings
    assert said == "it.png: too large: it has 38,400 pixels; at most 200 are read; make it smaller first"
    assert read_image_facts(tmp_path / "it.png").damage == "it has 38,400 pixels; at most 200 are read"


def test_a_large_photo_causes_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(1).save(tmp_path / "it.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 38_000)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert encode_image(tmp_path / "it.png", 64, 10**6)
    assert shown == []


def again(picture: Image.Image, quality: int, scale: float) -> Image.Image:
    out = io.BytesIO()
    picture.resize((int(picture.width * scale), int(picture.height * scale))).save(
        out, "JPEG", quality=quality
    )
    return Image.open(out).convert("RGB")


@pytest.mark.parametrize("file", PICTURES, ids=lambda file: f"{file.parts[-3]}-{file.name}")
def test_recompressed_photos_match_but_shifted_ones_do_not(file: Path) -> None:
    picture = read_image(file).image
    look = fingerprint_of(picture)
    assert all(
        is_same(look, fingerprint_of(again(picture, *how))) for how in ((30, 1), (30, 0.25), (90, 0.5))
    )
    moved = picture.crop((picture.width // 25, 0, picture.width, picture.height))
    assert not is_same(look, fingerprint_of(moved))


def test_example_photos_do_not_match_each_other() -> None:
    fingerprints = [fingerprint_of(read_image(file).image) for file in PICTURES]
    assert [
        (a, b)
        for a in range(len(fingerprints))
        for b in range(a)
        if is_same(fingerprints[a], fingerprints[b])
    ] == []


def test_objects_on_a_white_background_do_not_match() -> None:
    fingerprints = []
    for seed in range(8):
        paper = Image.new("RGB", (400, 400), "white")
        paper.paste(photo(seed, (90, 90)), (155, 155))
        fingerprints.append(fingerprint_of(paper))
    assert [(a, b) for a in range(8) for b in range(a) if is_same(fingerprints[a], fingerprints[b])] == []


@pytest.mark.parametrize(
    ("bits", "brighter", "same"), [(0, 0, 1), (NEAR, 12, 1), (NEAR + 1, 0, 0), (0, 13, 0)]
)
def test_matching_tolerates_small_differences_only(bits: int, brighter: int, same: bool) -> None:
    assert MAX_THUMB_DIFFERENCE == 12
    side = (THUMB_SIDE, THUMB_SIDE)
    one = Fingerprint((1 << bits) - 1, Image.new("RGB", side), 1)
    assert is_same(one, Fingerprint(0, Image.new("RGB", side, (0, 0, brighter)), 2)) == same


def test_fingerprint_holds_a_thumbnail_and_the_pixel_count() -> None:
    blocks = photo(1, (THUMB_SIDE, THUMB_SIDE))
    look = fingerprint_of(blocks.resize((240, 160), Image.Resampling.NEAREST))
    assert difference(look.thumb, blocks) == 0
    assert look.pixels == 240 * 160


@pytest.mark.parametrize(
    ("size", "max_side", "reduced"),
    [
        ((240, 160), 100, (100, 67)),
        ((160, 240), 100, (67, 100)),
        ((240, 160), 240, (240, 160)),
        ((240, 160), 1000, (240, 160)),
        ((240, 160), 0, (240, 160)),
        ((240, 160), 1, (1, 1)),
        # No side becomes 0.
        ((3000, 1), 300, (300, 1)),
        ((1, 3000), 300, (1, 300)),
    ],
)
def test_reducing_never_enlarges_and_keeps_at_least_one_pixel(
    size: tuple[int, int], max_side: int, reduced: tuple[int, int]
) -> None:
    assert fitted_size(*size, max_side) == reduced
    assert reduce_image(Image.new("RGB", size), max_side).size == reduced


def test_images_too_long_for_jpeg_are_reduced() -> None:
    image = reduce_image(Image.new("RGB", (70_000, 7)), 0)
    assert image.size == (65_500, 7)
    assert encode_jpeg(image)


def test_reducing_keeps_fine_detail() -> None:
    stripes = Image.new("L", (600, 8))
    stripes.putdata([(0, 0, 255, 255, 255)[x % 5] for _ in range(8) for x in range(600)])
    seen = set(reduce_image(stripes, 300).crop((20, 0, 280, 4)).tobytes())
    assert max(seen) - min(seen) > 230


def test_jpeg_keeps_full_colour_resolution() -> None:
    # Halving the colour resolution would turn red and blue stripes into violet.
    stripes = Image.new("RGB", (64, 64))
    stripes.putdata([((200, 30, 30), (30, 30, 200))[x % 2] for _ in range(64) for x in range(64)])
    assert difference(Image.open(io.BytesIO(encode_jpeg(stripes))), stripes) <= 3


def test_jpeg_size_grows_with_quality_and_is_optimized() -> None:
    sizes = [len(encode_jpeg(photo(1), quality)) for quality in (30, 80, 95)]
    assert sizes == sorted(set(sizes))
    plain = io.BytesIO()
    photo(1).save(plain, "JPEG", quality=95, subsampling=0)
    assert sizes[-1] < len(plain.getvalue())


def test_size_is_read_from_the_header(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "it.png")
    (tmp_path / "head").write_bytes((tmp_path / "it.png").read_bytes()[:60])
    (tmp_path / "text").write_text("hello")
    assert (read_image_size(tmp_path / "head"), read_image_size(tmp_path / "text")) == (photo(1).size, None)


def test_unsupported_formats_are_rejected(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "it.jpg", "PPM")
    assert read_image_size(tmp_path / "it.jpg") is None
    with pytest.raises(BadInput, match="or not a jpg file"):
        read_image(tmp_path / "it.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_comments_in_a_photo_are_removed(tmp_path: Path, kind: str) -> None:
    note = "Anna, 12 Garden Street"
    words = PngInfo()
    words.add_text("comment", note)
    photo(1).save(tmp_path / "it", kind, **({"pnginfo": words} if kind == "PNG" else {"comment": note}))
    assert note.encode() in (tmp_path / "it").read_bytes()
    assert note.encode() not in encode_jpeg(read_image(tmp_path / "it").image)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_damaged_exif_is_reported_as_a_broken_image(tmp_path: Path, kind: str) -> None:
    photo(1).save(tmp_path / "it", kind, exif=DAMAGED_EXIF)
    with pytest.raises(BadInput, match="it: a broken image"):
        read_image(tmp_path / "it")


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "TIFF", "WEBP", "heic"])
def test_an_image_truncated_anywhere_is_read_or_rejected(tmp_path: Path, kind: str) -> None:
    saved(photo(1), tmp_path / "whole", kind)
    whole = (tmp_path / "whole").read_bytes()
    for part in range(1, 20):
        (tmp_path / "it").write_bytes(whole[: len(whole) * part // 20])
        read_image_size(tmp_path / "it")
        with suppress(BadInput):
            read_image(tmp_path / "it")
