"""Checks whether an object is the trained LoRA, from the head of the file and its size.

Format (safetensors): 8 bytes little-endian header length, a JSON header with each tensor's `data_offsets`, then the data.
ai-toolkit writes the step it trained to into the header: `__metadata__.training_info` = '{"step": 2000, "epoch": 3}'.
"""

import json
from dataclasses import dataclass
from typing import Any

from flux_training.training.untrusted import MAX_FILE_BYTES, parse_object
from flux_training.training.values import count

# The header of a LoRA file is about 200 KB. The launcher accepts headers up to this size as well.
MAX_HEADER_BYTES = 4 * 1024 * 1024
LENGTH_BYTES = 8
MAX_TENSOR_BYTES = MAX_FILE_BYTES - LENGTH_BYTES - MAX_HEADER_BYTES
# Each tensor in the header has about eight values.
MAX_HEADER_VALUES = 200_000
# The exceptions that untrusted JSON can cause, for example with infinite numbers or
# thousands of nested brackets.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class WeightsHeader:
    """`data_end` is the end of the last tensor, in bytes from the start of the file."""

    tensors: int
    data_end: int
    step: int | None


def header_length(first_bytes: bytes) -> int:
    """The length of the JSON header; raises ValueError if this is not a safetensors file."""
    if len(first_bytes) < LENGTH_BYTES:
        raise ValueError("the file is shorter than a safetensors header")
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise ValueError("the file does not begin with a safetensors header")
    return length


def parse_header(raw: bytes) -> WeightsHeader:
    """Parses the first `8 + header_length` bytes of the file; raises ValueError."""
    length = header_length(raw)
    try:
        header = parse_object(raw[LENGTH_BYTES : LENGTH_BYTES + length], MAX_HEADER_BYTES, MAX_HEADER_VALUES)
        if isinstance(header, str):
            raise ValueError(header)
        metadata = header.pop("__metadata__", {})
        ends = [int(tensor["data_offsets"][1]) for tensor in header.values()]
        if not all(0 <= end <= MAX_TENSOR_BYTES for end in ends):
            raise ValueError("a tensor in the safetensors header ends at an impossible position")
    except UNREADABLE as error:
        raise ValueError("the safetensors header cannot be parsed") from error
    return WeightsHeader(len(ends), LENGTH_BYTES + length + max(ends, default=0), _step(metadata))


def header_problems(header: WeightsHeader, size: int, steps: int) -> list[str]:
    """Why these weights are not the complete result of `steps` steps; empty if they are."""
    found = []
    if header.tensors == 0:
        found.append("they contain no tensor")
    if header.data_end != size:
        found.append(f"they are {size} bytes long, but their header says {header.data_end}")
    if header.step != steps:
        found.append(f"they are from step {header.step}, not from the last step ({steps})")
    return found


def _step(metadata: Any) -> int | None:
    try:
        return count(json.loads(metadata["training_info"][:10_000])["step"])
    except UNREADABLE:
        return None
