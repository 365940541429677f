"""Which tensors of a result may hold values that are not finite numbers."""

import json
import math
import struct
from pathlib import Path

import pytest

from flux_training.node.launcher.errors import UnsoundFileError
from flux_training.node.launcher.weights import weights_step

BLOCK = "transformer.transformer_blocks.0.attn.to_q"
LORA = {f"{BLOCK}.lora_A.weight": [0.5, 1.0], f"{BLOCK}.lora_B.weight": [0.0, 0.25]}
DORA = LORA | {f"{BLOCK}.magnitude": [1.0, 2.0]}
LOKR = {f"{BLOCK}.lokr_w1": [0.5, 1.0], f"{BLOCK}.lokr_w2": [0.0, 0.25]}
LOCON = {"lora_unet_x.lora_down.weight": [0.5, 1.0], "lora_unet_x.alpha": [16.0]}


FORMATS = {"F16": "e", "F32": "f", "F64": "d", "F8_E4M3": "B", "F8_E5M2": "B"}


def safetensors_file(path: Path, tensors: dict[str, list[float]], dtype: str = "F16") -> Path:
    """A file as ai-toolkit writes it. A tensor with one value has no dimensions. Values of F8 types are given as their byte."""
    header: dict[str, object] = {"__metadata__": {"training_info": json.dumps({"step": 40})}}
    body = b""
    for name, values in tensors.items():
        data = struct.pack(f"<{len(values)}{FORMATS[dtype]}", *values)
        shape = [] if len(values) == 1 else [len(values)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + body)
    return path


@pytest.mark.parametrize(
    "tensors",
    [LORA, DORA, LOKR, LOCON, LOKR | {f"{BLOCK}.alpha": [math.inf]}],
    ids=["LoRA", "DoRA", "LoKr", "LoCon", "LoKr of full rank"],
)
def test_results_of_every_network_type_are_sound(tmp_path: Path, tensors: dict[str, list[float]]) -> None:
    assert weights_step(safetensors_file(tmp_path / "cat.safetensors", tensors)) == 40


@pytest.mark.parametrize(
    ("tensors", "dtype"),
    [
        (LOKR | {f"{BLOCK}.alpha": [math.nan]}, "F16"),
        (LOKR | {f"{BLOCK}.alpha": [-math.inf]}, "F16"),
        (LOKR | {f"{BLOCK}.alpha": [math.inf]}, "F32"),
        (LOKR | {f"{BLOCK}.alpha": [math.inf, 1.0]}, "F16"),
        (LOKR | {f"{BLOCK}.lokr_w1": [math.inf]}, "F16"),
        (LORA | {f"{BLOCK}.alpha": [math.inf]}, "F16"),
        (DORA | {f"{BLOCK}.magnitude": [math.inf]}, "F16"),
    ],
)
def test_any_other_value_that_is_not_finite_is_refused(
    tmp_path: Path, tensors: dict[str, list[float]], dtype: str
) -> None:
    with pytest.raises(UnsoundFileError, match="not finite numbers"):
        weights_step(safetensors_file(tmp_path / "cat.safetensors", tensors, dtype))


@pytest.mark.parametrize(
    ("dtype", "finite", "others"),
    [
        ("F64", [0.5, -1e300], [math.inf, -math.inf, math.nan]),
        ("F8_E4M3", [0x00, 0x7E, 0xFE, 0x80, 0x7C], [0x7F, 0xFF]),
        ("F8_E5M2", [0x00, 0x7B, 0xFB, 0x80], [0x7C, 0x7D, 0x7F, 0xFC, 0xFF]),
    ],
)
def test_values_of_every_type_of_number_are_checked(
    tmp_path: Path, dtype: str, finite: list[float], others: list[float]
) -> None:
    path = tmp_path / "cat.safetensors"
    assert weights_step(safetensors_file(path, {f"{BLOCK}.lora_A.weight": finite}, dtype)) == 40
    for value in others:
        safetensors_file(path, {f"{BLOCK}.lora_A.weight": [*finite, value]}, dtype)
        with pytest.raises(UnsoundFileError, match="not finite numbers"):
            weights_step(path)


@pytest.mark.parametrize(
    ("dtype", "alpha", "other"), [("F8_E4M3", 0x7F, 0xFF), ("F8_E5M2", 0x7C, 0xFC), ("F8_E5M2", 0x7C, 0x7F)]
)
def test_only_the_alpha_of_a_lokr_may_overflow_in_8_bits(
    tmp_path: Path, dtype: str, alpha: int, other: int
) -> None:
    path = tmp_path / "cat.safetensors"
    raw: dict[str, list[float]] = {f"{BLOCK}.lokr_w1": [0x10, 0x20]}
    assert weights_step(safetensors_file(path, raw | {f"{BLOCK}.alpha": [alpha]}, dtype)) == 40
    for unsound in (raw | {f"{BLOCK}.alpha": [other]}, {f"{BLOCK}.lokr_w1": [alpha]}):
        with pytest.raises(UnsoundFileError, match="not finite numbers"):
            weights_step(safetensors_file(path, unsound, dtype))
