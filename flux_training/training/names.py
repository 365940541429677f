"""The names that job folders and their files may have."""

import re
from functools import lru_cache
from pathlib import Path, PurePosixPath

# ai-toolkit replaces both placeholders with the trigger word (its inject_trigger_into_prompt).
PLACEHOLDERS = ("[trigger]", "[name]")
# A trigger word must not begin with a quotation mark. Text copied from a web page is
# often surrounded by these.
QUOTATION_MARKS = '"“”„«»‘’「」'  # noqa: RUF001 - the marks themselves are meant
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# The video formats whose headers the module video_header can read.
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov")
# ai-toolkit also reads these video formats (video_extensions in toolkit/data_loader.py),
# but video_header does not.
OTHER_VIDEO_SUFFIXES = (".avi", ".webm", ".mkv", ".wmv", ".flv")
MEDIA_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
CAPTION_SUFFIX = ".txt"
DATASET_FOLDER = "dataset"
# The names of dataset folders begin with one of these. On the node they are next to ai-toolkit's own
# folders, none of which begins like this (flux_training/node/launcher/settings.py).
FOLDER_STARTS = (DATASET_FOLDER, "control", "mask", "reg")
START_WORDS = ", ".join(f"`{start}`" for start in FOLDER_STARTS)
FOLDER_NAME = re.compile(rf"({'|'.join(FOLDER_STARTS)})[a-z0-9_-]{{0,40}}")
# A run id is the first 12 hex digits of a SHA-256 (flux_training/training/runs/run.py).
RUN_ID = re.compile(r"[0-9a-f]{12}")
MAX_JOB_NAME = 63
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Names of files that are next to the checkpoints. ai-toolkit treats every file whose name begins with the
# job's name as one of its checkpoints.
TAKEN_NAMES = (
    "run.json",
    "progress.json",
    "loss.csv",
    "config.yaml",
    "samples",
    "optimizer.pt",
    "loss_log.db",
)
# File systems allow names of 255 bytes. The rest is reserved for the suffixes of temporary files.
MAX_NAME_BYTES = 200


def is_plain_name(name: str) -> bool:
    """Whether this is the name of one visible file: no path, no control character, not too long, valid in UTF-8."""
    return (
        name.isprintable()
        and not name.startswith(".")
        and not any(separator in name for separator in "/\\:")
        and 0 < len(name.encode()) <= MAX_NAME_BYTES
    )


@lru_cache(100_000)  # a dozen lint rules call this for each image
def caption_name(image: str) -> str:
    """The caption of `00001.jpg` is `00001.txt`, that of `reg/00001.jpg` is `reg/00001.txt`."""
    return image.removesuffix(PurePosixPath(image).suffix) + CAPTION_SUFFIX


def folder_of(name: str) -> str:
    """The folder of a dataset's file: `control` for `control/00001.png`, `dataset` for `00001.jpg`."""
    folder, slash, _ = name.partition("/")
    return folder if slash else DATASET_FOLDER


def path_in_job_folder(name: str) -> str:
    """The path of a dataset's file below its job folder: `dataset/00001.jpg` for `00001.jpg`."""
    return name if "/" in name else f"{DATASET_FOLDER}/{name}"


def dataset_file(folder: Path, name: str) -> Path:
    """A dataset's file. `folder` is `dataset/`, beside which the other folders are."""
    return (folder.parent if "/" in name else folder) / name


def dataset_path(job_folder: Path, name: str) -> Path | None:
    """The file of a name in a manifest that someone else wrote; None if it is not a file of a dataset."""
    folder, _, file = path_in_job_folder(name).partition("/")
    return path_below(job_folder / folder, file) if FOLDER_NAME.fullmatch(folder) else None


def path_below(folder: Path, *names: str) -> Path | None:
    """The file `folder`/`names` for names that someone else chose; None if one of them is not a plain name."""
    return folder.joinpath(*names) if all(map(is_plain_name, names)) else None
