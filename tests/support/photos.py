"""Generates fifty files like those from phones, cameras and downloads: every format, rotated, broken, oddly named."""

import random
from pathlib import Path

import pillow_heif
from PIL import Image, ImageCms, ImageDraw

ORIENTATION = 0x0112
GPS = 0x8825
SIZE = (240, 160)


# Truncated header: Pillow raises struct.error here and OSError for other damage.
DAMAGED_EXIF = b"Exif\0\0II*\0"


def photo(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Coloured discs on a gradient; different for each seed."""
    rng = random.Random(seed)
    corners = [tuple(rng.randrange(256) for _ in range(3)) for _ in range(4)]
    small = Image.new("RGB", (2, 2))
    small.putdata(corners)
    picture = small.resize((960, 640), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(14):
        x, y, r = rng.randrange(960), rng.randrange(640), rng.randrange(30, 160)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.randrange(256) for _ in range(3)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def turned(picture: Image.Image, path: Path, orientation: int = 6) -> None:
    """Save it rotated with an EXIF orientation, as cameras do, and with a GPS position."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif.get_ifd(GPS)[1] = "N"
    picture.transpose(Image.Transpose.ROTATE_90).save(path, "JPEG", exif=exif, quality=92)


def cmyk(picture: Image.Image, path: Path) -> None:
    """Save it as a CMYK JPEG, as print shops do."""
    picture.convert("CMYK").save(path, "JPEG", quality=95)


def wide_gamut(picture: Image.Image, path: Path) -> None:
    """Save it as a TIFF in CIE L*a*b* with its profile."""
    profile = ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), profile, "RGB", "LAB")
    lab = ImageCms.applyTransform(picture, transform)
    assert lab is not None
    lab.save(path, "TIFF", icc_profile=ImageCms.ImageCmsProfile(profile).tobytes())


def heic(picture: Image.Image, path: Path) -> None:
    pillow_heif.from_pillow(picture).save(path, quality=90)


def moving(frames: list[Image.Image], path: Path, kind: str) -> None:
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=100)


def see_through(picture: Image.Image) -> Image.Image:
    """The picture with a transparent left half."""
    mask = Image.new("L", picture.size, 255)
    mask.paste(0, (0, 0, picture.width // 2, picture.height))
    out = picture.convert("RGBA")
    out.putalpha(mask)
    return out


def mixed_folder(folder: Path) -> dict[str, str]:
    """Write fifty files to `folder`. Returns the distinct pictures: file name → caption (may be empty)."""
    folder.mkdir(parents=True)
    good: dict[str, str] = {}

    def keep(name: str, caption: str = "") -> Path:
        good[name] = caption
        if caption:
            (folder / name).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
        return folder / name

    for number in range(1, 13):
        photo(number).save(keep(f"IMG_{number}.jpg", f"caption {number}" if number % 2 else ""), quality=92)
    heic(photo(20), keep("from phone.HEIC", "caption heic"))
    heic(photo(21), keep("IMG_0021.heif"))
    photo(22).save(keep("web ✨ picture.webp", "caption webp"))
    photo(23).save(keep("lossless.webp"), lossless=True)
    photo(24).save(keep("avif.avif"))
    cmyk(photo(25), keep("print shop.jpg", "caption cmyk"))
    wide_gamut(photo(26), keep("lab.tif"))
    turned(photo(27), keep("on its side.JPG", "caption turned"))
    turned(photo(28), keep("DSC00028.jpeg"))
    moving([photo(29), photo(30), photo(31)], keep("dance.gif", "caption gif"), "GIF")
    moving([photo(32), photo(33)], keep("moving.webp"), "WEBP")
    see_through(photo(34)).save(keep("logo on nothing.png", "caption alpha"))
    see_through(photo(35)).quantize(64).save(keep("palette.png"))
    photo(36).convert("L").save(keep("grey.png"))
    photo(37).save(keep("old.bmp", "caption bmp"))
    photo(38).save(keep("😀 party 🎉.png", "caption emoji"))
    photo(39).save(keep("no suffix at all"), "PNG")
    photo(40).save(keep("really a png.jpg"), "PNG")
    # 30 pictures and 14 captions so far. The rest are copies, texts and damaged files.
    (folder / "IMG_2.caption").write_text("caption in a .caption file", encoding="utf-8")
    good["IMG_2.jpg"] = "caption in a .caption file"
    (folder / "copy of IMG_1.jpg").write_bytes((folder / "IMG_1.jpg").read_bytes())
    photo(5).resize((120, 80)).save(folder / "IMG_5 (small).jpg", quality=40)
    (folder / "notes.txt").write_text("buy milk", encoding="utf-8")
    (folder / "broken.png").write_bytes((folder / "grey.png").read_bytes()[:200])
    (folder / "empty.jpg").write_bytes(b"")
    return good
