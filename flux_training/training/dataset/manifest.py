"""The dataset manifest, which lists what a run trains on, and the digests that identify it.

Each run has a manifest (names, sizes, SHA-256 and captions). The dataset's digest covers only the images, so an edited caption makes a new
run but uploads no image.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The launcher reads at most this many bytes of `manifest.json` (flux_training/node/launcher/settings.py).
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
# The launcher refuses a manifest with more images than this.
MAX_IMAGES = 20_000
# The exceptions that untrusted JSON of an unexpected structure can cause while it is read.
INVALID = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Image:
    """One image. `name` is that of the file in `dataset/`, or has another folder, as in `control/00001.png`.

    `size` in bytes, `sha256` as 64 hex digits.
    """

    name: str
    size: int
    sha256: str


def canonical_json(value: Any) -> bytes:
    """JSON whose bytes are hashed: sorted, compact, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def dataset_digest(images: Mapping[str, Image]) -> str:
    """64 hex digits over names, sizes and hashes of the images, in any order."""
    return hashlib.sha256(dataset_index(images)).hexdigest()


def dataset_index(images: Mapping[str, Image]) -> bytes:
    """The bytes whose SHA-256 identifies the dataset."""
    entries = {name: {"size": image.size, "sha256": image.sha256} for name, image in images.items()}
    return canonical_json({"version": 1, "images": entries})


def manifest_json(images: Mapping[str, Image], captions: Mapping[str, str]) -> bytes:
    """`manifest.json` as the launcher reads it; `captions` is keyed by image name. Images that are not trained have none."""
    entries = {
        name: {"size": image.size, "sha256": image.sha256}
        | ({"caption": captions[name]} if name in captions else {})
        for name, image in images.items()
    }
    return canonical_json({"version": 1, "images": entries})


def parse_manifest(raw: bytes) -> tuple[dict[str, Image], dict[str, str]]:
    """The images and captions of a manifest, by image name; raises ValueError if it is invalid."""
    try:
        entries = json.loads(raw)["images"]
        captions = {name: str(entry["caption"]) for name, entry in entries.items() if "caption" in entry}
        return _images(entries), captions
    except INVALID as error:
        raise ValueError("not a manifest") from error


def _images(entries: Any) -> dict[str, Image]:
    return {name: Image(name, int(entry["size"]), str(entry["sha256"])) for name, entry in entries.items()}
