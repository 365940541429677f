"""Rules about images."""

from collections.abc import Iterator
from pathlib import PurePath

from flux_training.training.dataset.image_facts import VIDEO, ImageFacts
from flux_training.training.dataset.manifest import MAX_IMAGES, MAX_MANIFEST_BYTES, Image, manifest_json
from flux_training.training.dataset.perceptual_hash import near_pairs
from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.names import (
    CAPTION_SUFFIX,
    MEDIA_SUFFIXES,
    OTHER_VIDEO_SUFFIXES,
    VIDEO_SUFFIXES,
    caption_name,
)
from flux_training.training.train_yml.document import resolutions_of

AREA = Area("images")
MIN_IMAGES = 8
# The maximum size of an image's manifest entry without its caption: a name of 255 bytes, each up to six
# bytes in JSON, plus the other fields.
MAX_ENTRY_BYTES = 6 * 255 + 200
MAX_ASPECT_RATIO = 3.0
MAX_PIXELS = 50_000_000
# An image may be this much smaller than the training resolution without a warning.
CLOSE_ENOUGH = 0.9
SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    VIDEO: VIDEO_SUFFIXES,
}
DEEP_MODES = ("I", "F")
SUFFIXES = ", ".join(MEDIA_SUFFIXES)


AREA.fault(
    "dataset-missing",
    "a job's images are in its folder `dataset`, and in the other dataset folders that train.yml names",
    "create the folder with images and captions, or correct its name in train.yml",
)


@AREA.error(
    "dataset-empty",
    "a job without images has nothing to train on",
    f"add images ({SUFFIXES}), each with a caption (.txt)",
    needed=True,
)
def dataset_without_images(job: Subject) -> Iterator[Problem]:
    if job.dataset and not job.dataset.faults and not job.images:
        yield job.dataset_problem("", "no image")


@AREA.error(
    "dataset-stranger",
    "a dataset contains only images, videos and captions",
    "move the file out of the dataset folder",
    needed=True,
)
def files_that_are_no_image_or_caption(job: Subject) -> Iterator[Problem]:
    for name in job.dataset.strangers if job.dataset else ():
        if not name.lower().endswith(OTHER_VIDEO_SUFFIXES):
            is_caption = name.lower().endswith(CAPTION_SUFFIX)
            hint = f"; rename it to {PurePath(name).stem}{CAPTION_SUFFIX}" if is_caption else ""
            yield job.dataset_problem(
                name, f"neither an image or video ({SUFFIXES}) nor a caption ({CAPTION_SUFFIX}){hint}"
            )


@AREA.error(
    "dataset-large",
    f"a node accepts a manifest (the list of images and captions) of at most {MAX_MANIFEST_BYTES // 1024**2} MiB; with a larger one the job fails three times, and each attempt is billed",
    "shorten the captions, or split the job into two",
    needed=True,
)
def manifest_over_the_size_limit(job: Subject) -> Iterator[Problem]:
    if len(job.all_images) > MAX_IMAGES:
        yield job.dataset_problem("", f"{len(job.all_images):,} images; a job can have {MAX_IMAGES:,}")
        return
    captions = job.dataset.captions if job.dataset else {}
    # This upper bound is fast to compute, and most datasets are below it.
    caption_bytes = 6 * sum(len(caption.text) for caption in captions.values())
    if MAX_ENTRY_BYTES * len(job.all_images) + caption_bytes < MAX_MANIFEST_BYTES:
        return
    images: dict[str, Image] = {}
    texts: dict[str, str] = {}
    for image in job.all_images.values():
        # Encode invalid characters as `?`; the rule name-unsafe reports names that are not UTF-8.
        name = image.name.encode("utf-8", "replace").decode()
        images[name] = Image(name, image.size, image.sha256)
        caption = captions.get(caption_name(image.name))
        texts[name] = caption.text if caption else ""
    size = len(manifest_json(images, texts))
    if size > MAX_MANIFEST_BYTES:
        yield job.dataset_problem(
            "", f"names and captions of {len(images)} images are {size / 1024**2:.1f} MiB"
        )


@AREA.error(
    "image-unreadable",
    "ai-toolkit skips an image that it cannot decode, or stops",
    "replace or delete the image",
    needed=True,
)
def images_that_cannot_be_decoded(job: Subject) -> Iterator[Problem]:
    for image in job.all_images.values():
        is_explained = image.truncated or image.lfs_pointer or image.has_changed_line_endings
        if image.damage and not is_explained:
            yield job.dataset_problem(image.name, f"cannot be read as {_kind(image)} ({image.damage})")


def _kind(image: ImageFacts) -> str:
    return "a video" if image.is_video else "an image"


@AREA.error(
    "image-truncated",
    "a part of the image file is missing, because a download or copy was interrupted",
    "copy the image again from its source, or delete it",
    needed=True,
)
def images_that_end_too_early(job: Subject) -> Iterator[Problem]:
    for image in job.all_images.values():
        if image.truncated:
            message = f"cannot be read as {_kind(image)}: the file ends too early ({image.damage})"
            yield job.dataset_problem(image.name, message)


@AREA.image(
    "image-animated",
    "ai-toolkit uses only the first frame of an animation",
    "export the best frame as a still image",
)
def describe_animation(image: ImageFacts) -> str:
    is_animation = image.frames > 1 and not image.is_video
    return f"an animation with {image.frames} frames" if is_animation else ""


@AREA.image(
    "image-cmyk",
    "ai-toolkit converts CMYK to RGB without the colour profile, so colours change",
    "export the image as sRGB",
)
def describe_cmyk(image: ImageFacts) -> str:
    return "the colours are CMYK" if image.mode == "CMYK" else ""


@AREA.image(
    "image-rotated",
    "not every program applies the EXIF rotation, so the image may be trained sideways",
    "save the image upright",
)
def describe_rotation(image: ImageFacts) -> str:
    is_rotated = image.orientation in range(2, 9)
    return f"stored rotated or mirrored (EXIF orientation {image.orientation})" if is_rotated else ""


@AREA.image(
    "image-transparent",
    "ai-toolkit drops transparency, so hidden colours become visible",
    "put the image on a background and save it without transparency",
)
def describe_transparency(image: ImageFacts) -> str:
    return "parts of it are transparent" if image.transparent else ""


@AREA.image(
    "image-deep",
    "ai-toolkit clips colour values to 8 bits, so the image turns white or black",
    "export the image with 8 bits per colour",
)
def describe_bit_depth(image: ImageFacts) -> str:
    return f"more than 8 bits per colour (mode {image.mode})" if image.mode.startswith(DEEP_MODES) else ""


@AREA.image(
    "image-blank",
    "a LoRA learns nothing from an image of a single colour",
    "delete the image and its caption",
)
def describe_blank_image(image: ImageFacts) -> str:
    return "every pixel is the same" if image.blank else ""


@AREA.warning(
    "image-small",
    "ai-toolkit never enlarges images, and training on small images makes results blurry",
    "replace the image with a larger one, or add a smaller `resolution` to the datasets in train.yml",
)
def images_below_the_smallest_resolution(job: Subject) -> Iterator[Problem]:
    smallest = min(resolutions_of(job.process))
    for image in job.readable_images:
        if image.pixels < (CLOSE_ENOUGH * smallest) ** 2:
            size = f"{image.width} x {image.height} pixels"
            yield job.dataset_problem(
                image.name, f"{size} are too few for the smallest resolution, {smallest}"
            )


@AREA.image(
    "image-large",
    "ai-toolkit scales a large image down to about one megapixel, but you pay for uploading and decoding the whole file",
    "export the image with at most 4096 pixels on its longer side",
)
def describe_large_image(image: ImageFacts) -> str:
    return f"{image.width} x {image.height} pixels" if image.pixels > MAX_PIXELS else ""


@AREA.image(
    "image-aspect",
    f"an image that is more than {MAX_ASPECT_RATIO:.0f} times as long as wide is scaled down until its shorter side has few pixels left",
    "crop the image to the important part",
)
def describe_aspect_ratio(image: ImageFacts) -> str:
    shorter, longer = sorted((image.width, image.height))
    is_thin = longer > MAX_ASPECT_RATIO * shorter
    return f"{image.width} x {image.height} pixels: too long and thin" if is_thin else ""


@AREA.image(
    "image-suffix",
    "programs that rely on the file name's suffix expect another format",
    "rename the file, or export it in the format of its suffix",
)
def describe_wrong_suffix(image: ImageFacts) -> str:
    fits = image.name.lower().endswith(SUFFIXES_OF.get(image.format, ()))
    return "" if fits else f"its content is {image.format}"


@AREA.warning(
    "image-duplicate",
    "an image that is in the dataset twice is trained twice as often",
    "delete one of the two images and its caption",
)
def identical_images(job: Subject) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for image in job.readable_images:
        earlier = first.setdefault(image.sha256, image.name)
        if earlier != image.name:
            yield job.dataset_problem(image.name, f"identical to {earlier}")


@AREA.warning(
    "image-near-duplicate",
    "similar images are trained more often in total, so the LoRA repeats them",
    "keep only the better image",
)
def similar_images(job: Subject) -> Iterator[Problem]:
    different = {image.sha256: image for image in reversed(job.readable_images) if _is_comparable(image)}
    hashes = sorted((image.name, image.hash) for image in different.values())
    for name, earlier in near_pairs(hashes):
        yield job.dataset_problem(name, f"looks the same as {earlier}")


def _is_comparable(image: ImageFacts) -> bool:
    """Videos are not decoded, so their content is unknown."""
    return not image.blank and not image.is_video


@AREA.warning(
    "image-few",
    f"with fewer than {MIN_IMAGES} images, a LoRA memorizes the images instead of learning the subject",
    f"add images; {MIN_IMAGES} to 30 different ones are usual",
)
def too_few_images(job: Subject) -> Iterator[Problem]:
    if 0 < len(job.images) < MIN_IMAGES:
        yield job.dataset_problem("", f"only {len(job.images)} image{'s' * (len(job.images) > 1)}")
