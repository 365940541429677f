"""Reads images of many formats for training: upright, sRGB, without transparency or metadata; and compares them."""

import functools
import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pillow
from PIL import ImageChops, ImageCms, ImageOps, UnidentifiedImageError

from flux_training.training.dataset.image_facts import describe_pixel_limit
from flux_training.training.dataset.perceptual_hash import NEAR, distance, perceptual_hash
from flux_training.training.errors import BadInput
from flux_training.training.names import OTHER_VIDEO_SUFFIXES, VIDEO_SUFFIXES
from flux_training.training.text_files import BINARY_FIX, changed_line_endings, git_artefact

# The image formats that Pillow may open. For some others, such as EPS, Pillow would run an external program
# on an untrusted file.
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "BMP", "TIFF", "GIF")
# Pointer files of Git LFS and git-annex are shorter than this.
POINTER_BYTES = 1024
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".heic", ".heif", ".avif", ".bmp", ".tif", ".tiff", ".gif")
)
# Suffixes of cameras' raw files. Most are TIFF files whose first image is a thumbnail, which would be
# imported instead of the photo.
RAW_SUFFIXES = frozenset(
    (
        *(
            ".3fr",
            ".arw",
            ".cr2",
            ".cr3",
            ".crw",
            ".dng",
            ".erf",
            ".fff",
            ".iiq",
            ".kdc",
            ".mos",
            ".mrw",
            ".nef",
            ".nrw",
        ),
        *(".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)
# TIFF tags from TIFF 6.0 and from Adobe's DNG specification. If bit 0 of NewSubfileType is set, the image
# is a reduced version of another image in the file.
NEW_SUBFILE_TYPE, DNG_VERSION = 254, 50706
RAW_ADVICE = "a raw file of a camera; export it as JPEG or TIFF from a photo program"
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
JPEG_QUALITY = 95
# The maximum width and height of a JPEG, as in libjpeg (JPEG_MAX_DIMENSION in jmorecfg.h).
MAX_JPEG_SIDE = 65_500
THUMB_SIDE = 8
# Two images count as the same if no pixel of their thumbnails differs by more than this, on a scale of 0 to
# 255. Measured on the 20 images below jobs/: saving at quality 30 and a quarter of the size changes a pixel
# by at most 5; moving the picture by 2 % of its width, as in a burst of photos, by at least 10. The
# perceptual hash alone would confuse different objects on a white background.
MAX_THUMB_DIFFERENCE = 12


# The exceptions that Pillow and its decoders raise for damaged files.
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
class Fingerprint:
    """What an image looks like: its perceptual hash and a thumbnail. `pixels` is the original's number of pixels."""

    bits: int
    thumb: Pillow.Image
    pixels: int


VIDEO_ADVICE = (
    "a video, which is not imported; for a model that trains on videos, copy it to the job's dataset/ with a caption (.txt), "
    "and set num_frames in train.yml (docs/jobs.md)"
)


@dataclass(frozen=True)
class PreparedImage:
    """An upright RGB image. `notes` say what was left out of the file."""

    image: Pillow.Image
    notes: tuple[str, ...]


def read_image(file: Path) -> PreparedImage:
    """Reads any common format as upright sRGB on white, and the first frame of an animation. Raises BadInput."""
    if file.suffix.lower() in RAW_SUFFIXES:
        raise BadInput([f"{file.name}: {RAW_ADVICE}"])
    _register_image_formats()
    try:
        with Pillow.open(file, formats=FORMATS) as picture:
            # Pillow decodes most of these JPEG files without an error, but the picture is damaged.
            if changed := changed_line_endings(file.read_bytes()):
                raise BadInput([f"{file.name}: {changed}; {BINARY_FIX}"])
            if is_thumbnail_of_raw(picture):
                raise BadInput([f"{file.name}: {RAW_ADVICE}"])
            frames = int(getattr(picture, "n_frames", 1)) if picture.format in ANIMATED else 1
            picture.load()
            image = _plain_rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError as error:
        raise BadInput([f"{file.name}: {_describe_unreadable_file(file)}"]) from error
    except Pillow.DecompressionBombError as error:
        raise BadInput(
            [f"{file.name}: too large: {describe_pixel_limit(error)}; make it smaller first"]
        ) from error
    except UNREADABLE as error:
        raise BadInput([f"{file.name}: {_why_unreadable(error)}"]) from error
    notes = (f"{file.name}: only the first of its {frames} frames is used",) if frames > 1 else ()
    return PreparedImage(image, notes)


def _why_unreadable(error: Exception) -> str:
    # Decoders also raise OSError; only errors of the operating system have an errno.
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read ({error.strerror}); make it a readable file or leave it out"
    return f"a broken image ({error}); get it again or leave it out"


def is_thumbnail_of_raw(picture: Pillow.Image) -> bool:
    """Whether an opened TIFF is a raw file of a camera, whatever its name: its first image is not the photo."""
    tags = getattr(picture, "tag_v2", {})
    return DNG_VERSION in tags or bool(int(tags.get(NEW_SUBFILE_TYPE, 0)) & 1)


def read_image_size(file: Path) -> tuple[int, int] | None:
    """Width and height in pixels, from the file's header; None if it is not an image."""
    _register_image_formats()
    try:
        with Pillow.open(file, formats=FORMATS) as picture:
            return picture.size
    except UNREADABLE:
        return None


def reduce_image(image: Pillow.Image, max_side: int) -> Pillow.Image:
    """The image with its longer side at most `max_side` pixels (0: as it is, within JPEG's limit); never enlarged."""
    longest = min(max_side, MAX_JPEG_SIDE) if max_side > 0 else MAX_JPEG_SIDE
    size = fitted_size(*image.size, longest)
    return image if size == image.size else image.resize(size, Pillow.Resampling.LANCZOS)


def fitted_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The size of an image with its longer side at most `max_side` pixels (0: as it is); no side becomes 0."""
    scale = min(1.0, max_side / max(width, height)) if max_side > 0 else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def side_by_side(images: Sequence[Pillow.Image]) -> Pillow.Image:
    """The images from left to right, at the height of the last one."""
    height = images[-1].height
    scaled = [image.resize((max(1, round(image.width * height / image.height)), height)) for image in images]
    joined = Pillow.new("RGB", (sum(image.width for image in scaled), height), "white")
    left = 0
    for image in scaled:
        joined.paste(image, (left, 0))
        left += image.width
    return joined


def encode_jpeg(image: Pillow.Image, quality: int = JPEG_QUALITY) -> bytes:
    """A JPEG with full colour resolution and without metadata, because nodes are other people's PCs."""
    out = io.BytesIO()
    # Without an empty `comment`, Pillow would copy the comment of the original JPEG.
    image.save(out, "JPEG", quality=quality, subsampling=0, optimize=True, comment=b"")
    return out.getvalue()


def fingerprint_of(image: Pillow.Image) -> Fingerprint:
    """The fingerprint of an RGB image, for `is_same`."""
    thumb = image.resize((THUMB_SIDE, THUMB_SIDE), Pillow.Resampling.BOX)
    return Fingerprint(perceptual_hash(image), thumb, image.width * image.height)


def is_same(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two fingerprints are of the same image, perhaps saved in another size, format or quality."""
    if distance(one.bits, other.bits) > NEAR:
        return False
    return max(ImageChops.difference(one.thumb, other.thumb).tobytes()) <= MAX_THUMB_DIFFERENCE


def _plain_rgb(image: Pillow.Image) -> Pillow.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image, profile = _scale_to_eight_bits(image), None
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
    """Applies the colour profile, as CMYK images and phones' wide gamut need. A broken profile is ignored."""
    try:
        meant = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, meant, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return converted or image


def _scale_to_eight_bits(image: Pillow.Image) -> Pillow.Image:
    """Scales grey of 16 or more bits: Pillow itself would turn everything above 255 white."""
    wide = image.convert("F")
    _, top = wide.getextrema()
    assert not isinstance(top, tuple)  # noqa: S101 - the image has one band
    scale = 1.0 if top <= 255 else 255 / max(top, 65535)
    grey = wide.point(lambda value: value * scale).convert("L")
    # The grey value that means transparent has to be scaled too: Pillow would compare only
    # its low eight bits.
    if "transparency" in image.info:
        grey.info["transparency"] = min(255, int(image.info["transparency"] * scale))
    return grey


def _describe_unreadable_file(file: Path) -> str:
    if file.stat().st_size == 0:
        return "an empty file; get it again or leave it out"
    with file.open("rb") as opened:
        left = git_artefact(opened.read(POINTER_BYTES))
    if left and left.code == "git-lfs":
        return f"{left.message}; {left.fix}"
    if changed := changed_line_endings(file.read_bytes()):
        return f"{changed}; {BINARY_FIX}"
    if file.suffix.lower() in SUFFIXES:
        return f"a broken image, or not a {file.suffix.lower()[1:]} file; get it again or leave it out"
    if file.suffix.lower() in (*VIDEO_SUFFIXES, *OTHER_VIDEO_SUFFIXES):
        return VIDEO_ADVICE
    return "not an image (JPEG, PNG, WebP, HEIC, AVIF, BMP, TIFF or GIF)"


def silence_large_image_warning() -> None:
    """Silence Pillow's warning above 89 megapixels, which photos from phones can have. Its limit of 179 megapixels stays."""
    warnings.filterwarnings("ignore", category=Pillow.DecompressionBombWarning)


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.cache
def _register_image_formats() -> None:
    import pillow_heif  # imported here because the decoders take 26 MB of memory

    silence_large_image_warning()
    Pillow.init()
    pillow_heif.register_heif_opener()
