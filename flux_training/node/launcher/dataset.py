"""The folders the trainer reads its images and captions from."""

from collections.abc import Callable, Mapping
from pathlib import Path

from flux_training.node.launcher.downloads import Download
from flux_training.node.launcher.settings import (
    DATASET_FOLDERS,
    ImageEntry,
    RunSettings,
    caption_path,
    image_path,
)

DownloadAll = Callable[[list[Download]], None]


def bring_dataset(settings: RunSettings, images: Mapping[str, ImageEntry], download: DownloadAll) -> None:
    """Downloads the images and writes their captions. The folders are empty before."""
    for path in {image_path(name).parent for name in images}:
        path.mkdir(exist_ok=True)
    download(
        [
            Download(f"{settings.dataset_prefix}{name}", image_path(name), image.size, image.sha256)
            for name, image in images.items()
        ]
    )
    for name, image in images.items():
        if image.caption is not None:
            caption_path(name).write_bytes(image.caption.encode("utf-8", "replace"))


def dataset_folders() -> list[Path]:
    """The folders that a dataset has left on this node, links included."""
    return [path for path in Path().iterdir() if DATASET_FOLDERS.fullmatch(path.name)]
