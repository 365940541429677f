"""Whether a file of weights, or the optimizer's state, is whole and holds usable numbers."""

import hashlib
import json
import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from flux_training.node.launcher.errors import RunEndedError, UnsoundFileError
from flux_training.node.launcher.process import check_stopped
from flux_training.node.launcher.settings import is_number

# The maximum size of a safetensors header. The headers of FLUX LoRAs have about 200 KB.
MAX_HEADER_BYTES = 4 << 20
MAX_DIMENSIONS = 8
CHUNK_BYTES = 1 << 16

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
SIZES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}

# The bytes of 8-bit floats that are infinite or not a number. E4M3 as in torch (float8_e4m3fn) has no infinity.
NOT_FINITE = {"F8_E4M3": b"\x7f\xff", "F8_E5M2": bytes(byte for byte in range(256) if byte & 0x7C == 0x7C)}
FORMATS = {"F16": "e", "BF16": "f", "F32": "f", "F64": "d"}
# The bytes that 9999999999, the alpha of a LoKr of full rank, becomes in small types.
OVERFLOW = {"F16": b"\x00\x7c", "F8_E4M3": b"\x7f", "F8_E5M2": b"\x7c"}


class TensorExtent(NamedTuple):
    """Where the bytes of a tensor are in the file. `may_overflow`: the alpha of a LoKr of full rank."""

    begin: int
    end: int
    dtype: str
    may_overflow: bool


def weights_step(path: Path) -> int:
    """The step in a .safetensors file whose header, extents and values are sound.

    Raises UnsoundFileError.
    """
    try:
        with path.open("rb") as file:
            step, tensors = _read_header(file, path.stat().st_size)
            for tensor in tensors:
                if tensor.dtype in FORMATS.keys() | NOT_FINITE.keys() and not _is_sound(file, tensor):
                    raise UnsoundFileError("it holds values that are not finite numbers")
    except (UnsoundFileError, RunEndedError):
        raise
    except Exception as error:  # noqa: BLE001 - a damaged header can cause any error
        raise UnsoundFileError(f"its header cannot be read ({type(error).__name__})") from None
    return step


def _read_header(file: BinaryIO, size: int) -> tuple[int, list[TensorExtent]]:
    """The step and the tensors, which fill the file without a gap."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise UnsoundFileError(f"{size} bytes do not hold its header")
    header = json.loads(file.read(length))
    # Python accepts more than the safetensors library does, such as NaN and lone surrogates. This raises an exception for
    # those.
    json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    step = _metadata_step(header.pop("__metadata__"))
    tensors = list(_extents(header, 8 + length, size))
    end = tensors[-1].end if tensors else 0
    if end != size:
        raise UnsoundFileError(f"{size} bytes instead of the {end} that its {len(tensors)} tensors need")
    return step, tensors


def _metadata_step(metadata: dict[str, Any]) -> int:
    if {type(value) for value in metadata.values()} != {str}:
        raise UnsoundFileError("its metadata are not all text")
    step = json.loads(metadata["training_info"])["step"]
    if not is_number(step) or step != int(step):
        raise UnsoundFileError(f"its step is {step!r:.20}")
    return int(step)


def _extents(header: dict[str, Any], start: int, size: int) -> Iterator[TensorExtent]:
    at = start
    is_lokr = any(".lokr_w" in name for name in header)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        numbers = [begin, end, *entry["shape"]]
        is_sane = len(numbers) <= MAX_DIMENSIONS + 2 and {type(number) for number in numbers} == {int}
        if not is_sane or min(numbers) < 0:
            raise UnsoundFileError("its header has impossible shapes or offsets")
        count, dtype = math.prod(entry["shape"]), entry["dtype"]
        # The alpha of a LoKr of full rank may overflow, because programs that load it do not use its alpha.
        may_overflow = is_lokr and dtype in OVERFLOW and count == 1 and name.endswith(".alpha")
        extent = TensorExtent(at, at + SIZES[dtype] * count, dtype, may_overflow)
        if (start + begin, start + end) != extent[:2] or extent.end > size:
            raise UnsoundFileError(f"its {size} bytes are not what its header says")
        yield extent
        at = extent.end


def _is_sound(file: BinaryIO, tensor: TensorExtent) -> bool:
    """Whether all values are finite, as far as they have to be."""
    file.seek(tensor.begin)
    for at in range(tensor.begin, tensor.end, CHUNK_BYTES):
        check_stopped()
        data = file.read(min(CHUNK_BYTES, tensor.end - at))
        if not _is_finite(data, tensor.dtype) and not (
            tensor.may_overflow and data == OVERFLOW[tensor.dtype]
        ):
            return False
    return True


def _is_finite(data: bytes, dtype: str) -> bool:
    if dtype in NOT_FINITE:
        return len(data.translate(None, NOT_FINITE[dtype])) == len(data)
    count = len(data) // SIZES[dtype]
    if dtype == "BF16":  # A BF16 number is the upper half of a float32, so widen it.
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[::2], data[1::2]
        data = bytes(wide)
    # If any number is infinite or NaN, the sum is too.
    return math.isfinite(sum(struct.unpack(f"<{count}{FORMATS[dtype]}", data)))


def is_whole_zip(path: Path) -> bool:
    """torch.save writes a zip of uncompressed members with checksums, which torch.load does not check."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            return bool(members) and is_stored and archive.testzip() is None
    except Exception:  # noqa: BLE001 - a damaged archive can cause any error
        return False


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            check_stopped()
            digest.update(chunk)
    return digest.hexdigest()


def digest_of_stages(digests: list[str]) -> str:
    """One digest for a LoRA of several files: the SHA-256 of their digests, a line each (flux_training/training/runs/pins.py)."""
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()
