"""Rules about control images, masks and the like: images that belong to a trained image of the same name.

ai-toolkit (toolkit/dataloader_mixins.py) looks for each of them by name, and trains without a message if there is none.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePath

from flux_training.training.dataset.image_facts import ImageFacts
from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.lint.rules.conflicts import RAW_CONTROL_ARCHS
from flux_training.training.lint.rules.options import sample_prompts
from flux_training.training.models.table import TrainableModel
from flux_training.training.names import IMAGE_SUFFIXES, folder_of, path_in_job_folder
from flux_training.training.train_yml.dataset_folders import (
    NUMBERED_CONTROLS,
    PAIRED_KEYS,
    FolderKind,
    FolderUse,
    folder_name,
    paired_paths,
    sample_controls,
)
from flux_training.training.train_yml.key_values import is_on_node
from flux_training.training.values import mapping
from flux_training.training.words import counted

AREA = Area("control images and masks")
# How much the aspect ratios of a mask and its image may differ. ai-toolkit scales both to the same size,
# which stretches a mask of another shape.
MAX_STRETCH = 1.02
INPAINT_SUFFIXES = (".png", ".webp")
FOUR_CHANNELS = ("RGBA", "CMYK")
# Models whose samples can start from an image but do not have to.
OPTIONAL_IMAGE = ("wan22_5b", "ltx2", "flex2")
# The sampling code of this architecture raises NotImplementedError if a sample names an image.
STOPS_AT_IMAGES = "qwen_image"
# Where a model that takes a single control image looks for it: in the sample's prompt or in `ctrl_img`.
ONE_IMAGE = ((), ("ctrl_img",))
# Architectures with a minimum size for control images (cap_min_pixels in ai-toolkit's flux2/src/sampling.py).
SIZED_CONTROL_ARCHS = ("flux2", "flux2_klein_4b", "flux2_klein_9b")
MIN_CONTROL_SIDE, MAX_CONTROL_RATIO = 64, 8
# EXIF orientation values of pictures that are rotated by 90 degrees.
SIDEWAYS = (5, 6, 7, 8)


@AREA.error(
    "pair-folder",
    "on a node, control images and masks are in a folder of the job, such as `control`",
    "use the name of a folder in the job, without a path, such as `control_path: control`",
    needed=True,
)
def paths_below_a_folder(job: Subject) -> Iterator[Problem]:
    for number, entry in enumerate(job.config.datasets if job.config else ()):
        for key, path in paired_paths(entry):
            # Paths outside the job folder are reported by another rule, node-path.
            if is_on_node(path) and not folder_name(path):
                yield job.process_problem(
                    f"datasets[{number}].{key} is {path!r}", "datasets", str(number), key
                )


@AREA.error(
    "pair-missing",
    "ai-toolkit silently trains an image without its control image or mask if that file is missing",
    "add the missing file, or remove the image from the dataset",
    needed=True,
)
def images_without_a_partner(job: Subject) -> Iterator[Problem]:
    for use in _paired_folders(job):
        partners = _by_stem(job, use.folder)
        for name in _in_folder(job, use.images) if partners else ():
            if _stem(name) not in partners:
                path = f"{use.folder}/{_stem(name)}.png"
                yield job.dataset_problem(path, f"no {use.kind} for {path_in_job_folder(name)}")


@AREA.error(
    "pair-empty",
    "ai-toolkit silently trains without control images or masks if their folder is empty",
    f"add one image ({', '.join(IMAGE_SUFFIXES)}) for each trained image, or delete the key in train.yml",
    needed=True,
)
def empty_folders(job: Subject) -> Iterator[Problem]:
    missing = {fault.path for fault in job.dataset.faults} if job.dataset else set()
    for folder, kind in dict.fromkeys((use.folder, use.kind) for use in _paired_folders(job)):
        problem = job.folder_problem(folder, f"no {kind}")
        if not _in_folder(job, folder) and problem.path not in missing:
            yield problem


@AREA.error(
    "pair-orphan",
    "a control image or mask must have the same name as a trained image",
    "add the trained image to the dataset, or delete this file",
    needed=True,
)
def files_without_an_image(job: Subject) -> Iterator[Problem]:
    named = {path.removeprefix("./") for _, path in sample_controls(job.process)}
    for folder in dict.fromkeys(use.folder for use in _paired_folders(job)):
        uses = [use for use in job.dataset.uses if use.folder == folder] if job.dataset else []
        # A folder can have several uses. Files that are trained themselves need no matching image.
        if any(use.is_trained for use in uses):
            continue
        known = {_stem(name) for use in uses if use.is_paired for name in _in_folder(job, use.images)}
        for name in _in_folder(job, folder):
            if _stem(name) not in known and name not in named:
                images = " or ".join(dict.fromkeys(f"{use.images}/" for use in uses if use.is_paired))
                yield job.dataset_problem(name, f"{images} has no image of this name")


@AREA.error(
    "pair-shared",
    "if several files have the name of the image, ai-toolkit uses only one",
    "delete or rename the other files",
    needed=True,
)
def several_partners_of_one_image(job: Subject) -> Iterator[Problem]:
    for folder in dict.fromkeys(use.folder for use in _paired_folders(job)):
        for names in _by_stem(job, folder).values():
            if len(names) > 1:
                others = " and ".join(path_in_job_folder(name) for name in names[1:])
                yield job.dataset_problem(names[0], f"has the same name as {others}, but for the suffix")


@AREA.error(
    "pair-suffix",
    "ai-toolkit finds control images and masks only if their suffix is in lower case, and silently trains without the others",
    f"rename the file with a suffix in lower case ({', '.join(IMAGE_SUFFIXES)})",
    needed=True,
)
def suffixes_in_upper_case(job: Subject) -> Iterator[Problem]:
    for folder in dict.fromkeys(use.folder for use in _paired_folders(job)):
        for name in _in_folder(job, folder):
            if PurePath(name).suffix not in IMAGE_SUFFIXES:
                yield job.dataset_problem(name, f"the suffix is {PurePath(name).suffix}")


@AREA.error(
    "folder-unused",
    "the files of a folder that train.yml does not name are neither uploaded nor trained",
    "name the folder in train.yml (`control_path`, `mask_path`, or `folder_path` of a dataset), or delete it",
)
def folders_that_train_yml_does_not_name(job: Subject) -> Iterator[Problem]:
    for folder in job.dataset.unused if job.dataset and job.trains else ():
        yield job.folder_problem(folder, "train.yml does not use this folder")
    yield from _forgotten_controls(job)


def _forgotten_controls(job: Subject) -> Iterator[Problem]:
    """Folders that only samples use although they have an image for each trained one, for models that train with control images."""
    if job.dataset is None or not job.trains or (job.model and not job.model.datasets.control_images[1]):
        return
    uses = job.dataset.uses
    trained = {_stem(name) for use in uses if use.is_trained for name in _in_folder(job, use.folder)}
    others = {use.folder for use in uses if use.kind is not FolderKind.SAMPLE}
    for folder in dict.fromkeys(use.folder for use in uses if use.folder not in others):
        if len(trained) > 1 and trained <= set(_by_stem(job, folder)):
            message = (
                "only samples use it, although it has an image for each trained one: name it as control_path"
            )
            yield job.folder_problem(folder, message)


@AREA.error(
    "control-count",
    "each model takes a certain number of control images for each image (docs/models.md); with another number, ai-toolkit trains without them or stops",
    "name one folder for each control image in control_path, or choose another model (model.arch)",
)
def control_images_of_another_number(job: Subject) -> Iterator[Problem]:
    model = job.model
    if job.config is None or model is None:
        return
    fewest, most = model.datasets.control_images
    for number, entry in enumerate(job.config.datasets):
        given = sum(PAIRED_KEYS[key] is FolderKind.CONTROL for key, _ in paired_paths(entry))
        if not fewest <= given <= most and not entry.get("control_from_same_folder"):
            takes = f"{fewest} to {most}" if fewest < most else str(most)
            message = f"datasets[{number}] has {counted(given, 'folder')} of control images; {model.name} takes {takes}"
            yield job.process_problem(message, "datasets", str(number))


@AREA.error(
    "control-ignored",
    f"ai-toolkit ignores control_path if {NUMBERED_CONTROLS[0]}, {NUMBERED_CONTROLS[1]} or {NUMBERED_CONTROLS[2]} is set",
    "use either control_path (a folder, or a list of folders) or the numbered keys",
)
def ignored_control_paths(job: Subject) -> Iterator[Problem]:
    for number, entry in enumerate(job.config.datasets if job.config else ()):
        if entry.get("control_path") and any(entry.get(key) for key in NUMBERED_CONTROLS):
            message = f"datasets[{number}] has both control_path and numbered control paths"
            yield job.process_problem(message, "datasets", str(number), "control_path")


@AREA.error(
    "control-image",
    "the model opens the control image for its first sample; the run ends if the file is missing or the model does not support control images",
    "name an image of the job, such as `ctrl_img: control/00001.png`, in an entry of sample.samples",
)
def missing_control_images(job: Subject) -> Iterator[Problem]:
    if job.model and _ignores_images(job.model):
        return
    if job.model:
        yield from _samples_without_an_image(job, job.model)
    known = {path_in_job_folder(name) for name in job.all_images}
    for place, path in sample_controls(job.process):
        if job.model and job.model.arch == STOPS_AT_IMAGES:
            yield job.process_problem(f"the sample names {path}, at which {job.model.name} stops", *place)
        elif not is_on_node(path):
            yield job.process_problem(f"the control image {path} is not on the node", *place)
        elif job.dataset and path.removeprefix("./") not in known:
            yield job.process_problem(f"the control image {path} does not exist", *place)


def _samples_without_an_image(job: Subject, model: TrainableModel) -> Iterator[Problem]:
    kinds = model.datasets
    is_needed = kinds.control_images[0] or kinds.first_frame
    if not is_needed or job.section("train").get("disable_sampling"):
        return
    what = "first frame" if kinds.first_frame else "control image"
    places = [place for place, _ in sample_controls(job.process)]
    named = {place[:3] for place in places if kinds.control_images[1] > 1 or place[3:] in ONE_IMAGE}
    for place, _ in sample_prompts(job):
        if place not in named:
            hint = " as ctrl_img" if any(one[:3] == place for one in places) else ""
            yield job.process_problem(f"the sample names no {what}{hint}, which {model.name} needs", *place)


@AREA.warning(
    "control-unused",
    "ai-toolkit ignores a sample's control image if the model takes none",
    "delete the control image from the sample, or choose a model that takes control images (`./flux models`)",
)
def unused_control_images(job: Subject) -> Iterator[Problem]:
    model = job.model
    if model is None or not _ignores_images(model):
        return
    for place, path in sample_controls(job.process):
        yield job.process_problem(f"the sample names {path}, but {model.name} takes no control image", *place)


def _ignores_images(model: TrainableModel) -> bool:
    if model.arch in (STOPS_AT_IMAGES, *OPTIONAL_IMAGE):
        return False
    return not model.datasets.control_images[1] and not model.datasets.first_frame


@AREA.error(
    "alpha-mask",
    "with alpha_mask, ai-toolkit uses the transparency of each image as its mask, and stops at an image without transparency",
    "save the images as PNG with transparency (RGBA), or delete alpha_mask and use mask_path",
)
def images_without_transparency(job: Subject) -> Iterator[Problem]:
    masked = [entry for entry in (job.config.datasets if job.config else ()) if entry.get("alpha_mask")]
    for folder in dict.fromkeys(folder_name(entry.get("folder_path")) for entry in masked):
        for name in _in_folder(job, folder):
            image = job.all_images[name]
            if image.sound and image.mode not in FOUR_CHANNELS:
                yield job.dataset_problem(name, f"no transparency (mode {image.mode})")


@AREA.error(
    "inpaint-opaque",
    "ai-toolkit reads inpaint images only from PNG and WebP files with transparency (RGBA), and silently ignores others",
    "save the inpaint images as PNG files that are transparent where the model should paint",
)
def inpaint_images_without_transparency(job: Subject) -> Iterator[Problem]:
    folders = job.dataset.folders_of(FolderKind.INPAINT) if job.dataset else ()
    for name, image in job.all_images.items():
        is_read = PurePath(name).suffix in INPAINT_SUFFIXES and image.mode == "RGBA"
        if folder_of(name) in folders and image.sound and not is_read:
            yield job.dataset_problem(name, f"a {image.format} image of mode {image.mode}")


@AREA.warning(
    "mask-shape",
    "ai-toolkit stretches a mask to the aspect ratio of its image",
    "export the mask with the same size as the image",
)
def masks_of_another_shape(job: Subject) -> Iterator[Problem]:
    yield from _partners_of_another_shape(job, FolderKind.MASK)


@AREA.warning(
    "control-shape",
    "ai-toolkit stretches a control image to the aspect ratio of its image, so the LoRA learns from distorted images",
    "crop or pad the control image to the aspect ratio of its image",
)
def control_images_of_another_shape(job: Subject) -> Iterator[Problem]:
    if job.choice.arch not in RAW_CONTROL_ARCHS:
        yield from _partners_of_another_shape(job, FolderKind.CONTROL)


@AREA.error(
    "control-size",
    f"FLUX.2 stops at a control image with a side below {MIN_CONTROL_SIDE} pixels, or with one side more than {MAX_CONTROL_RATIO} times as long as the other",
    "enlarge, crop or pad the control image",
)
def control_images_that_flux2_refuses(job: Subject) -> Iterator[Problem]:
    if job.dataset is None or job.choice.arch not in SIZED_CONTROL_ARCHS:
        return
    folders = job.dataset.folders_of(FolderKind.CONTROL)
    sampled = {path.removeprefix("./") for _, path in sample_controls(job.process)}
    # With `match_target_res`, ai-toolkit enlarges the control images of training first, so
    # they can be small.
    is_enlarged = bool(mapping(job.section("model").get("model_kwargs")).get("match_target_res"))
    for name, image in job.all_images.items():
        is_sampled = path_in_job_folder(name) in sampled
        if image.sound and (is_sampled or folder_of(name) in folders):
            short, long = sorted((image.width, image.height))
            is_small = short < MIN_CONTROL_SIDE and (is_sampled or not is_enlarged)
            if is_small or long > MAX_CONTROL_RATIO * short:
                yield job.dataset_problem(
                    name, f"the control image has {image.width} x {image.height} pixels"
                )


@AREA.warning(
    "control-same",
    "if a control image equals its image, the model learns to change nothing",
    "replace the control image with the image before the edit",
)
def control_images_that_equal_their_image(job: Subject) -> Iterator[Problem]:
    for name, control in _pairs_of(job, FolderKind.CONTROL):
        if job.all_images[name].sha256 == job.all_images[control].sha256:
            yield job.dataset_problem(control, f"the same file as {path_in_job_folder(name)}")


def _partners_of_another_shape(job: Subject, kind: FolderKind) -> Iterator[Problem]:
    """The images of this kind whose shape is not that of the image they belong to."""
    for name, partner in _pairs_of(job, kind):
        image, found = job.all_images[name], job.all_images[partner]
        if image.sound and found.sound and _aspect_ratio_factor(image, found) > MAX_STRETCH:
            sizes = f"{found.width} x {found.height} pixels, but {path_in_job_folder(name)} is {image.width} x {image.height}"
            yield job.dataset_problem(partner, sizes)


def _pairs_of(job: Subject, kind: FolderKind) -> Iterator[tuple[str, str]]:
    """(image, the control image, mask or the like that belongs to it) of one kind."""
    for use in _paired_folders(job):
        partners = _by_stem(job, use.folder) if use.kind is kind else {}
        for name in _in_folder(job, use.images):
            for partner in partners.get(_stem(name), ()):
                yield name, partner


def _paired_folders(job: Subject) -> list[FolderUse]:
    return [use for use in job.dataset.uses if use.is_paired] if job.dataset else []


def _in_folder(job: Subject, folder: str) -> list[str]:
    return [name for name in job.all_images if folder_of(name) == folder]


def _by_stem(job: Subject, folder: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in _in_folder(job, folder):
        found[_stem(name)].append(name)
    return found


def _stem(name: str) -> str:
    return PurePath(name).stem


def _aspect_ratio_factor(one: ImageFacts, other: ImageFacts) -> float:
    """How many times wider one of the two is than the other, at the same height. ai-toolkit turns both upright."""
    ratio = _width_to_height(one) / _width_to_height(other)
    return max(ratio, 1 / ratio)


def _width_to_height(image: ImageFacts) -> float:
    ratio = image.width / image.height
    return 1 / ratio if image.orientation in SIDEWAYS else ratio
