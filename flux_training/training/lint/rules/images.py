"""Rules about images."""

from __future__ import annotations

from collections.abc import Iterator

from flux_training.training.dataset.facts import caption_name
from flux_training.training.dataset.manifest import LARGEST_MANIFEST, Image, manifest
from flux_training.training.dataset.perceptual_hash import near_pairs
from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.names import IMAGE_SUFFIXES
from flux_training.training.train_yml.trainer_config import positive_int

AREA = Area("images")
FEWEST = 8
# An image in the manifest without its caption: a name of 255 bytes and the rest. One character can become six bytes of JSON.
LONGEST_ENTRY = 6 * 255 + 200
WIDEST = 3.0
MOST_PIXELS = 50_000_000
# ai-toolkit's own default.
DEFAULT_RESOLUTION = 512
# Of a resolution's side: what is a little smaller than it trains as well.
CLOSE_ENOUGH = 0.9
SUFFIXES_OF = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",)}
DEEP_MODES = ("I", "F")
SUFFIXES = ", ".join(IMAGE_SUFFIXES)


AREA.fault(
    "dataset-missing",
    "a job's images lie in its folder `dataset`",
    "make it and put the images and their captions there",
)


@AREA.error(
    "dataset-empty",
    "there has to be something to train on",
    f"put images there ({SUFFIXES}), each with a caption .txt",
    needed=True,
)
def dataset_empty(job: Subject) -> Iterator[Problem]:
    if job.dataset and not job.dataset.fault and not job.images:
        yield job.in_dataset("", "no image")


@AREA.error(
    "dataset-stranger",
    "a dataset is images and captions only",
    "move it out of the dataset",
    needed=True,
)
def dataset_stranger(job: Subject) -> Iterator[Problem]:
    for name in job.dataset.strangers if job.dataset else ():
        yield job.in_dataset(name, f"neither an image ({SUFFIXES}) nor a caption (.txt)")


@AREA.error(
    "dataset-large",
    f"the node reads a list of images and captions of at most {LARGEST_MANIFEST // 1024**2} MiB; a longer one fails there, three times and paid",
    "shorten the captions, or make two jobs of it",
    needed=True,
)
def dataset_large(job: Subject) -> Iterator[Problem]:
    captions = job.dataset.captions if job.dataset else {}
    # More it cannot be; most datasets need no closer look.
    if LONGEST_ENTRY * len(job.images) + 6 * sum(len(c.text) for c in captions.values()) < LARGEST_MANIFEST:
        return
    images: dict[str, Image] = {}
    texts: dict[str, str] = {}
    for image in job.images.values():
        # A name that is no UTF-8 is another rule's.
        name = image.name.encode("utf-8", "replace").decode()
        images[name] = Image(name, image.size, image.sha256)
        caption = captions.get(caption_name(image.name))
        texts[name] = caption.text if caption else ""
    size = len(manifest(images, texts))
    if size > LARGEST_MANIFEST:
        yield job.in_dataset("", f"names and captions of {len(images)} images are {size / 1024**2:.1f} MiB")


@AREA.error(
    "image-unreadable",
    "an image that does not decode is left out of the training, or ends it",
    "replace or delete it",
    needed=True,
)
def image_unreadable(job: Subject) -> Iterator[Problem]:
    for image in job.images.values():
        if image.damage and not image.truncated:
            yield job.in_dataset(image.name, f"cannot be read as an image ({image.damage})")


@AREA.error(
    "image-truncated",
    "a part of an image is no image: the download or copy was cut off",
    "copy it once more from where it came, or delete it",
    needed=True,
)
def image_truncated(job: Subject) -> Iterator[Problem]:
    for image in job.images.values():
        if image.truncated:
            yield job.in_dataset(
                image.name, f"cannot be read as an image: it ends too early ({image.damage})"
            )


@AREA.warning(
    "image-animated",
    "the trainer takes the first frame only",
    "export the frame you mean as a still image",
)
def image_animated(job: Subject) -> Iterator[Problem]:
    for image in job.sound_images:
        if image.frames > 1:
            yield job.in_dataset(image.name, f"an animation of {image.frames} frames")


@AREA.warning(
    "image-cmyk",
    "the trainer converts to RGB without the printer's colour profile, so colours shift",
    "export it as sRGB",
)
def image_cmyk(job: Subject) -> Iterator[Problem]:
    for image in job.sound_images:
        if image.mode == "CMYK":
            yield job.in_dataset(image.name, "the colours are CMYK")


@AREA.warning(
    "image-rotated",
    "not every program turns an image as EXIF asks; one that does not shows it lying on its side",
    "save it upright",
)
def image_rotated(job: Subject) -> Iterator[Problem]:
    for image in job.sound_images:
        if image.orientation in range(2, 9):
            yield job.in_dataset(
                image.name, f"stored turned or mirrored (EXIF orientation {image.orientation})"
            )


@AREA.warning(
    "image-transparent",
    "the trainer drops transparency, and what was hidden behind it shows",
    "put it on a background and save it without transparency",
)
def image_transparent(job: Subject) -> Iterator[Problem]:
    for image in job.sound_images:
        if image.transparent:
            yield job.in_dataset(image.name, "parts of it are transparent")


@AREA.warning(
    "image-deep",
    "the trainer cuts more than 8 bits a colour off, and the image turns white or black",
    "export it with 8 bits a colour",
)
def image_deep(job: Subject) -> Iterator[Problem]:
    for image in job.sound_images:
        if image.mode.startswith(DEEP_MODES):
            yield job.in_dataset(image.name, f"more than 8 bits a colour (mode {image.mode})")


@AREA.warning("image-blank", "an image of one colour teaches nothing", "delete it with its caption")
def image_blank(job: Subject) -> Iterator[Problem]:
    for image in job.sound_images:
        if image.blank:
            yield job.in_dataset(image.name, "every pixel is the same")


@AREA.warning(
    "image-small",
    "the trainer never enlarges: such an image is trained below the smallest resolution, and blurs what is learned",
    "replace it by a larger one, or add a smaller `resolution` to datasets in train.yml",
)
def image_small(job: Subject) -> Iterator[Problem]:
    least = min(resolutions(job), default=DEFAULT_RESOLUTION)
    for image in job.sound_images:
        if image.pixels < (CLOSE_ENOUGH * least) ** 2:
            yield job.in_dataset(
                image.name,
                f"{image.width} x {image.height} pixels are too few for the smallest resolution, {least}",
            )


@AREA.warning(
    "image-large",
    "it is scaled down to about one megapixel: sending and decoding the rest is paid for and thrown away",
    "export it with at most 4096 pixels on the longer side",
)
def image_large(job: Subject) -> Iterator[Problem]:
    for image in job.sound_images:
        if image.pixels > MOST_PIXELS:
            yield job.in_dataset(image.name, f"{image.width} x {image.height} pixels")


@AREA.warning(
    "image-aspect",
    f"what is more than {WIDEST:.0f} times as long as wide is scaled down until little is left of its shorter side",
    "crop it to what matters",
)
def image_aspect(job: Subject) -> Iterator[Problem]:
    for image in job.sound_images:
        shorter, longer = sorted((image.width, image.height))
        if longer > WIDEST * shorter:
            yield job.in_dataset(image.name, f"{image.width} x {image.height} pixels: too long and thin")


@AREA.warning(
    "image-suffix",
    "programs that go by the name take it for something else",
    "rename it, or export it in the format its name says",
)
def image_suffix(job: Subject) -> Iterator[Problem]:
    for image in job.sound_images:
        if not image.name.lower().endswith(SUFFIXES_OF.get(image.format, ())):
            yield job.in_dataset(image.name, f"its content is {image.format}")


@AREA.warning(
    "image-duplicate", "an image that is there twice counts twice", "delete one of them with its caption"
)
def image_duplicate(job: Subject) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for image in job.sound_images:
        earlier = first.setdefault(image.sha256, image.name)
        if earlier != image.name:
            yield job.in_dataset(image.name, f"the same file as {earlier}")


@AREA.warning(
    "image-near-duplicate",
    "images that look the same count as often as they are there, and the LoRA repeats them",
    "keep the better one",
)
def image_near_duplicate(job: Subject) -> Iterator[Problem]:
    different = {image.sha256: image for image in reversed(job.sound_images) if not image.blank}
    hashes = sorted((image.name, image.hash) for image in different.values())
    for name, earlier in near_pairs(hashes):
        yield job.in_dataset(name, f"looks the same as {earlier}")


@AREA.warning(
    "image-few",
    f"with fewer than {FEWEST} images a LoRA learns the images and not the subject",
    f"add images; {FEWEST} to 30 that differ are common",
)
def image_few(job: Subject) -> Iterator[Problem]:
    if 0 < len(job.images) < FEWEST:
        yield job.in_dataset("", f"only {len(job.images)} image{'s' * (len(job.images) > 1)}")


def resolutions(job: Subject) -> list[int]:
    """What the datasets of train.yml ask for, in pixels."""
    found: list[int] = []
    for entry in job.config.datasets if job.config else []:
        said = entry.get("resolution", DEFAULT_RESOLUTION)
        found += [
            side for each in (said if isinstance(said, list) else [said]) if (side := positive_int(each))
        ]
    return found
