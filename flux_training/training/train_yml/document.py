"""Reads the few values of a parsed train.yml that memory and time depend on. Invalid values count as absent: lint reports them."""

from collections.abc import Mapping
from typing import Any

from flux_training.training.values import mapping, whole_number

# ai-toolkit's defaults for NetworkConfig and DatasetConfig (toolkit/config_modules.py).
DEFAULT_RANK = 4
DEFAULT_RESOLUTION = 512


def first_process(document: Mapping[str, Any]) -> Mapping[str, Any]:
    processes = mapping(document.get("config")).get("process")
    return mapping(processes[0]) if isinstance(processes, list) and processes else {}


def rank_of(process: Mapping[str, Any]) -> int:
    """The LoRA's rank: `network.rank` or `network.linear`."""
    network = mapping(process.get("network"))
    return whole_number(network.get("rank") or network.get("linear"), DEFAULT_RANK)


def resolutions_of(process: Mapping[str, Any]) -> tuple[int, ...]:
    """The resolutions of all datasets: the side of a square in pixels."""
    datasets = process.get("datasets")
    found: list[int] = []
    for entry in datasets if isinstance(datasets, list) else []:
        value = mapping(entry).get("resolution", DEFAULT_RESOLUTION)
        found += [
            whole_number(one, DEFAULT_RESOLUTION) for one in (value if isinstance(value, list) else [value])
        ]
    return tuple(found) or (DEFAULT_RESOLUTION,)
