"""The model of the stand-in trainer, and its .safetensors files.

A fixed random network with a LoRA learns 64x64 thumbnails in the frequency domain, by flow matching (the velocity is noise - image).
"""

import hashlib
import itertools
import json
import os
import re
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Array = NDArray[Any]  # float32 throughout
SIDE = 64  # pixels
# The network sees only this many low frequencies in each direction.
INPUT = 12
WIDTH = 128  # hidden units
WORDS = 64  # length of a caption's vector
DRAWS = 48  # noise levels for each image and step

# Images and captions as arrays of numbers.


def cosines() -> Array:
    """The orthonormal DCT-II matrix."""
    k, n = np.mgrid[0:SIDE, 0:SIDE]
    matrix = np.sqrt(2 / SIDE) * np.cos(np.pi * (n + 0.5) * k / SIDE)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, np.float32)


COSINES = cosines()
COLOURS = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]], np.float32)
COLOURS /= np.linalg.norm(COLOURS, axis=1, keepdims=True)
FREQUENCY = np.hypot(*np.mgrid[0:SIDE, 0:SIDE]).astype(np.float32)
# What the base model expects of a photograph: amplitudes fall as the frequency rises, and colours are weak.
SPREAD = (np.array([1, 0.35, 0.2], np.float32)[:, None, None] * 6 / (1 + FREQUENCY) ** 1.1).reshape(1, -1)


def encode_image(image: Image.Image) -> Array:
    """An image as a latent of shape (3 * SIDE * SIDE,), with amplitudes of about SPREAD."""
    square = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(square, np.float32).transpose(2, 0, 1) / 127.5 - 1
    colours = np.einsum("ij,jyx->iyx", COLOURS, pixels)
    return np.reshape(COSINES @ colours @ COSINES.T / 4, -1)


def decode_latent(latent: Array) -> Image.Image:
    colours = COSINES.T @ latent.reshape(3, SIDE, SIDE) @ COSINES * 4
    pixels = np.einsum("ji,jyx->yxi", COLOURS, colours)
    return Image.fromarray(((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8), "RGB")


def embed_caption(caption: str) -> Array:
    """A caption as the mean of a fixed random vector for each word, with a length of about 1."""
    total = np.zeros(WORDS, np.float32)
    words = re.findall(r"\w+", caption.lower())
    for word in words:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        total += np.random.default_rng(seed).standard_normal(WORDS, np.float32)
    return total / np.float32(np.sqrt(max(1, len(words)) * WORDS))


def embed_latent(latent: Array) -> Array:
    """A control image's latent in the space of captions, by a fixed random projection, with a length of about 1."""
    projection = np.random.default_rng(latent.size).standard_normal((WORDS, latent.size), np.float32)
    seen = projection @ latent
    unit: Array = seen / np.linalg.norm(seen).clip(1e-6)
    return unit


# ------------------------------------------------------------------------- the network


def silu(x: Array) -> tuple[Array, Array]:
    """Value and derivative."""
    sigmoid = 1 / (1 + np.exp(-x))
    return x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))


class Network:
    """Predicts the image x in a noisy latent z = (1 - t) x + t noise, as a mean and a variance.

    The base layers are random and depend only on the base model's name. Each has a LoRA, B A.
    """

    LAYERS: ClassVar = {  # module names as in FLUX: (inputs, outputs)
        "transformer_blocks.0.ff.net.0.proj": (WIDTH, 2 * WIDTH),
        "transformer_blocks.0.ff.net.2": (2 * WIDTH, WIDTH),
        "transformer_blocks.1.ff.net.0.proj": (WIDTH, 2 * WIDTH),
        "transformer_blocks.1.ff.net.2": (2 * WIDTH, WIDTH),
        "single_transformer_blocks.0.proj_mlp": (WIDTH, 2 * WIDTH),
        "single_transformer_blocks.0.proj_out": (2 * WIDTH, 6 * SIDE * SIDE),
    }

    def __init__(self, base: str, rank: int, seed: int) -> None:
        fixed = np.random.default_rng(int.from_bytes(hashlib.sha256(base.encode()).digest()[:8], "little"))
        mask = np.zeros((3, SIDE, SIDE), bool)
        mask[:, :INPUT, :INPUT] = True
        self.low_frequencies = np.flatnonzero(mask)
        low = len(self.low_frequencies)
        self.embedder = fixed.standard_normal((low + 16 + WORDS, WIDTH), np.float32)
        self.embedder /= np.sqrt(np.repeat([low, 16, 1], [low, 16, WORDS]))[:, None]
        self.base: dict[str, Array | None] = {}
        self.lora: dict[str, Array] = {}
        own = np.random.default_rng([seed, 1])
        for name, (inputs, outputs) in self.LAYERS.items():
            # The last layer starts at zero, so that without a LoRA the prediction is zero: the mean of all
            # photographs.
            last = outputs > 2 * WIDTH
            scale = np.float32(1 / np.sqrt(inputs))
            self.base[name] = None if last else fixed.standard_normal((inputs, outputs), np.float32) * scale
            self.lora[f"{name}.lora_A"] = own.uniform(-scale, scale, (rank, inputs)).astype(np.float32)
            self.lora[f"{name}.lora_B"] = np.zeros((outputs, rank), np.float32)

    def _linear(self, name: str, x: Array) -> Array:
        down = x @ self.lora[f"{name}.lora_A"].T
        self.kept[name] = (x, down)
        up = down @ self.lora[f"{name}.lora_B"].T
        base = self.base[name]
        return np.asarray(up if base is None else x @ base + up)

    def _linear_back(self, name: str, grad: Array) -> Array:
        x, down = self.kept[name]
        a, b = self.lora[f"{name}.lora_A"], self.lora[f"{name}.lora_B"]
        grad_down = grad @ b
        self.grads[f"{name}.lora_B"] = grad.T @ down
        self.grads[f"{name}.lora_A"] = grad_down.T @ x
        back = grad_down @ a
        base = self.base[name]
        return np.asarray(back if base is None else back + grad @ base.T)

    def predict(self, z: Array, t: Array, captions: Array) -> Array:
        """The expected images, for z (n, latent), t (n, 1) and captions (n, WORDS)."""
        self.kept: dict[str, Any] = {}
        a = 1 - t
        waves = t * np.float32(np.pi) * 2.0 ** np.arange(-1, 7, dtype=np.float32)
        visible = z[:, self.low_frequencies] / np.sqrt((a * SPREAD[:, self.low_frequencies]) ** 2 + t**2)
        h = np.concatenate([visible, np.sin(waves), np.cos(waves), captions], 1) @ self.embedder
        for block in ("transformer_blocks.0.ff.net", "transformer_blocks.1.ff.net"):
            value, self.kept[block] = silu(self._linear(f"{block}.0.proj", h))
            h = h + self._linear(f"{block}.2", value)
        value, self.kept["single"] = silu(self._linear("single_transformer_blocks.0.proj_mlp", h))
        out = self._linear("single_transformer_blocks.0.proj_out", value)
        mean, width = out[:, : z.shape[1]] * SPREAD, np.clip(out[:, z.shape[1] :], -6, 1)
        variance = (SPREAD * np.exp(width)) ** 2
        noise = a**2 * variance + t**2
        trust = a * variance / noise  # the weight of z relative to the mean, as in a Wiener filter
        self.kept["end"] = (z, t, a, mean, width, variance, noise, trust)
        return np.asarray(mean + trust * (z - a * mean))

    def backward(self, grad: Array) -> None:
        """Compute self.grads from the gradient of the loss with respect to the expected image."""
        self.grads: dict[str, Array] = {}
        z, t, a, mean, width, variance, noise, trust = self.kept["end"]
        grad_mean = grad * (1 - trust * a) * SPREAD
        slope = (2 * a * variance * t**2 / noise**2) * ((width > -6) & (width < 1))
        grad = np.concatenate([grad_mean, grad * (z - a * mean) * slope], 1)
        grad = self._linear_back("single_transformer_blocks.0.proj_out", grad)
        grad = self._linear_back("single_transformer_blocks.0.proj_mlp", grad * self.kept["single"])
        for block in ("transformer_blocks.1.ff.net", "transformer_blocks.0.ff.net"):
            inner = self._linear_back(f"{block}.2", grad) * self.kept[block]
            grad = grad + self._linear_back(f"{block}.0.proj", inner)

    def loss(self, x: Array, captions: Array, rng: np.random.Generator) -> float:
        """Flow matching: the mean squared error of the velocity, at DRAWS noise levels for each image."""
        x, captions = np.repeat(x, DRAWS, 0), np.repeat(captions, DRAWS, 0)
        u = (rng.permutation(len(x)) + rng.random(len(x))) / len(x)
        t = np.clip(u, 0.03, 1).astype(np.float32)[:, None]
        noise = rng.standard_normal(x.shape, np.float32)
        expected = self.predict((1 - t) * x + t * noise, t, captions)
        error = (x - expected) / t  # the predicted velocity (z - expected) / t minus the true velocity
        self.backward(-2 * error / t / np.float32(x.size))
        return float(np.mean(error**2)) * 10  # scaled to the range of FLUX's losses

    def sample(self, caption: str, steps: int, seed: int) -> Image.Image:
        """Follow the velocity from noise at t = 1 to an image at t = 0."""
        z = np.random.default_rng(seed).standard_normal((1, SPREAD.size), np.float32)
        times = np.linspace(1, 0, steps + 1, dtype=np.float32)
        for t, after in itertools.pairwise(times):
            velocity = (z - self.predict(z, np.full((1, 1), t), embed_caption(caption)[None])) / t
            z = z + (after - t) * velocity
        return decode_latent(z[0])


class Adam:
    def __init__(self, lora: dict[str, Array]) -> None:
        self.state = {f"{kind}.{name}": np.zeros_like(value) for name, value in lora.items() for kind in "mv"}
        self.count = 0

    def step(self, lora: dict[str, Array], grads: dict[str, Array], rate: float) -> None:
        self.count += 1
        scale = np.float32(rate * np.sqrt(1 - 0.999**self.count) / (1 - 0.9**self.count))
        for name, grad in grads.items():
            m, v = self.state[f"m.{name}"], self.state[f"v.{name}"]
            m += np.float32(0.1) * (grad - m)
            v += np.float32(0.001) * (grad * grad - v)
            lora[name] -= scale * m / (np.sqrt(v) + np.float32(1e-10))

    def save(self, path: Path) -> None:
        with path.open("wb") as file:  # a zip file, like those of torch.save
            np.savez(file, allow_pickle=False, count=self.count, **self.state)

    def load(self, path: Path) -> None:
        with np.load(path) as saved:
            if any(saved[name].shape != value.shape for name, value in self.state.items()):
                raise ValueError("its tensors do not have the shapes of this network")
            self.state = {name: saved[name] for name in self.state}
            self.count = int(saved["count"])


# ------------------------------------------------------------------------- .safetensors


def to_bytes(value: Array, dtype: str) -> bytes:
    if dtype == "BF16":
        bits = value.view(np.uint32)
        return bytes(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes())
    return bytes(value.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes())


def save_weights(
    path: Path, lora: dict[str, Array], names: dict[str, str], dtype: str, metadata: dict[str, str]
) -> None:
    """`names`: a tensor's name in the file. Write a temporary file and rename it, like ai-toolkit, so the mode is 0600. By hand, because NumPy has no bfloat16 for safetensors.numpy."""
    header: dict[str, Any] = {"__metadata__": metadata}
    parts: list[bytes] = []
    at = 0
    for name in sorted(lora, key=lambda one: names[one]):
        parts.append(to_bytes(lora[name], dtype))
        extent = [at, at := at + len(parts[-1])]
        entry = {"dtype": dtype, "shape": lora[name].shape, "data_offsets": extent}
        header[names[name]] = entry
    header["__metadata__"] = {**metadata, "sshs_model_hash": hashlib.sha256(b"".join(parts)).hexdigest()}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".tmp{os.getpid()}")
    temporary.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    temporary.chmod(0o600)
    temporary.replace(path)


def load_weights(path: Path, lora: dict[str, Array], names: dict[str, str]) -> dict[str, str]:
    """Fill `lora`; return the metadata. Raises ValueError or KeyError for a truncated file, or one of another network."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata: dict[str, str] = header.pop("__metadata__", {})
    for name in lora:
        entry = header[names[name]]
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if end > len(data):
            raise ValueError("MetadataIncompleteBuffer")
        kind = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[entry["dtype"]]
        raw = np.frombuffer(data[begin:end], kind).reshape(entry["shape"])
        is_bfloat = entry["dtype"] == "BF16"
        value = (raw.astype(np.uint32) << 16).view(np.float32) if is_bfloat else raw.astype(np.float32)
        if value.shape != lora[name].shape:
            raise ValueError(f"{name}: shape {value.shape} instead of {lora[name].shape}")
        lora[name][:] = value
    return metadata
