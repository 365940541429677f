"""The folder the trainer reads its images and captions from."""

from collections.abc import Callable, Mapping

from flux_training.node.launcher.downloads import Download
from flux_training.node.launcher.settings import DATASET_FOLDER, ImageEntry, RunSettings, caption_name

DownloadAll = Callable[[list[Download]], None]


def bring_dataset(settings: RunSettings, images: Mapping[str, ImageEntry], download: DownloadAll) -> None:
    """Downloads the images and writes their captions. The folder is empty before."""
    download(
        [
            Download(f"{settings.dataset_prefix}{name}", DATASET_FOLDER / name, image.size, image.sha256)
            for name, image in images.items()
        ]
    )
    for name, image in images.items():
        (DATASET_FOLDER / caption_name(name)).write_bytes(image.caption.encode("utf-8", "replace"))
