"""Which images the bucket has: of one dataset, and of all of them."""

from __future__ import annotations

from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import Image, parse_dataset_index
from flux_training.training.runs.run import Layout


def is_complete(storage: Storage, layout: Layout, digest: str) -> bool:
    """Whether the index is there and every image it names lies in the bucket with its size."""
    raw = storage.get_bytes(layout.dataset_index(digest))
    if raw is None:
        return False
    try:
        wanted = parse_dataset_index(raw)
    except ValueError:
        return False
    return not missing(storage, layout, digest, wanted)


def missing(storage: Storage, layout: Layout, digest: str, wanted: dict[str, Image]) -> list[str]:
    """The names of the images that are not in the bucket, or have another size there."""
    folder = layout.dataset(digest)
    present = {item.key.removeprefix(folder): item.size for item in storage.list(folder)}
    return [name for name, image in sorted(wanted.items()) if present.get(name) != image.size]


def images_elsewhere(storage: Storage, layout: Layout) -> dict[tuple[str, int], str]:
    """Where the bucket has an image already: (SHA-256, size) → key, from the indexes of whole datasets."""
    found: dict[tuple[str, int], str] = {}
    for item in storage.list(layout.dataset_indexes):
        digest = item.key.removeprefix(layout.dataset_indexes).removesuffix(".json")
        raw = storage.get_bytes(item.key)
        if raw is None:
            continue
        try:
            images = parse_dataset_index(raw)
        except ValueError:
            continue
        absent = set(missing(storage, layout, digest, images))
        for name, image in images.items():
            if name not in absent:
                found[image.sha256, image.size] = layout.dataset(digest) + name
    return found
