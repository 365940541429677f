"""Is this object really the trained LoRA? Decided from the head of the file and its size alone.

Format (safetensors): 8 bytes little-endian header length, a JSON header with each tensor's `data_offsets`, then the data.
ai-toolkit writes the step it trained to into the header: `__metadata__.training_info` = '{"step": 2000, "epoch": 3}'.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# safetensors' own limit for a header.
MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
# What another form than the expected one raises. The file is a node's: it can also say 1e999, or nest a hundred thousand lists.
NOT_SO = (ValueError, TypeError, KeyError, OverflowError, RecursionError)


@dataclass(frozen=True)
class WeightsHeader:
    """`data_end` is where the last tensor ends, in bytes from the start of the file."""

    tensors: int
    data_end: int
    step: int | None


def header_length(first_bytes: bytes) -> int:
    """How long the JSON header is; raises ValueError when this is no safetensors file."""
    if len(first_bytes) < LENGTH_BYTES:
        raise ValueError("it is shorter than a safetensors header")
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise ValueError("it does not begin with a safetensors header")
    return length


def parse_header(raw: bytes) -> WeightsHeader:
    """The header from the file's first `8 + header_length` bytes; raises ValueError."""
    length = header_length(raw)
    try:
        header = json.loads(raw[LENGTH_BYTES : LENGTH_BYTES + length])
        metadata = header.pop("__metadata__", {})
        ends = [int(tensor["data_offsets"][1]) for tensor in header.values()]
    except (*NOT_SO, IndexError, AttributeError) as error:
        raise ValueError("its safetensors header cannot be parsed") from error
    return WeightsHeader(len(ends), LENGTH_BYTES + length + max(ends, default=0), _step(metadata))


def problems(header: WeightsHeader, size: int, steps: int) -> list[str]:
    """What speaks against these weights being the whole result of `steps` steps; empty when nothing does."""
    found = []
    if header.tensors == 0:
        found.append("they hold no tensor")
    if header.data_end != size:
        found.append(f"they are {size} bytes long, but their header says {header.data_end}")
    if header.step != steps:
        found.append(f"they are from step {header.step}, not from the last one ({steps})")
    return found


def _step(metadata: Any) -> int | None:
    try:
        return int(json.loads(metadata["training_info"])["step"])
    except NOT_SO:
        return None
