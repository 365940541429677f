#!/usr/bin/env python3
"""split-layers.py FOLDER LAYERS: moves the files of FOLDER to LAYERS/01, LAYERS/02, …, each with less than 10 GB.

Registries and SaladCloud handle larger layers badly. Dockerfile.model copies each folder as a layer of its own.
"""

import shutil
import sys
from pathlib import Path

MAX_LAYER_BYTES = 10_000_000_000
# The number of layers that Dockerfile.model copies. It is enough for the 112 GB of FLUX.2-dev, the largest model in docs/models.md.
LAYERS = 16


def split(sizes: dict[str, int]) -> list[list[str]]:
    """File names by layer: the largest first, each into the first layer with room. A file above the limit gets a layer of its own."""
    layers: list[list[str]] = []
    used: list[int] = []
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        number = next((at for at, size in enumerate(used) if size + sizes[name] <= MAX_LAYER_BYTES), None)
        if number is None:
            layers.append([])
            used.append(0)
            number = len(layers) - 1
        layers[number].append(name)
        used[number] += sizes[name]
    return layers


def main(folder: Path, target: Path) -> None:
    files = (path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    layers = split(sizes)
    for name in (name for name, size in sizes.items() if size > MAX_LAYER_BYTES):
        print(
            f"{name} has {sizes[name] / 1e9:.1f} GB and cannot be split: its layer is larger than 10 GB",
            file=sys.stderr,
        )
    if len(layers) > LAYERS:
        sys.exit(
            f"the model needs {len(layers)} layers of less than 10 GB, and Dockerfile.model has {LAYERS}: "
            "raise LAYERS in split-layers.py and add as many COPY lines"
        )
    for number in range(LAYERS):
        (target / f"{number + 1:02}").mkdir(parents=True)
    for number, names in enumerate(layers, start=1):
        for name in names:
            place = target / f"{number:02}" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / name, place)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
