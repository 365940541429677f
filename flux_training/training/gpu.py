"""Which GPU class a stack trains on: by name, by memory, or the cheapest one that fits. Pure."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_training.training.errors import BadInput
from flux_training.training.models.choice import choose_model
from flux_training.training.models.table import DEFAULT_MODEL, MODELS
from flux_training.training.train_yml.document import first_process, resolutions_of
from flux_training.training.values import mapping, whole_number

CHEAPEST = "cheapest"
FASTEST = "fastest"
# Separates the names in a list of GPU classes. SaladCloud rents whichever class is available.
SEPARATOR = ", "
AT_LEAST = re.compile(r">=\s*([1-9]\d{0,3})\s*GB", re.IGNORECASE)
MODEL = re.compile(r"\b(RTX|GTX)\s?(A?\d{4})((?:\s(?:Ti|Super|Laptop))*)", re.IGNORECASE)

# A GPU's speed in TFLOPS, from NVIDIA's data sheets: half of the dense BF16 peak (FP32 accumulation) of a
# GeForce GPU, which equals its FP32 rate, and a quarter of it for other GPUs. Published training times are
# proportional to these values (docs/costs.md).
TFLOPS = {
    "RTX 5090": 104.8,
    "RTX 5080": 56.3,
    "RTX 5070 Ti": 43.9,
    "RTX 5070": 30.9,
    "RTX 4090": 82.6,
    "RTX 4080 Super": 52.2,
    "RTX 4080": 48.7,
    "RTX 4070 Ti Super": 44.1,
    "RTX 4070 Ti": 40.1,
    "RTX 4070": 29.1,
    "RTX 3090 Ti": 40.0,
    "RTX 3090": 35.6,
    "RTX 3080 Ti": 34.1,
    "RTX 3080": 29.8,
    "RTX 3060": 12.7,
    "RTX A6000": 38.7,
    "RTX A5000": 27.8,
    "A40": 37.4,
    "L40S": 90.5,
    "A100": 78.0,
    "H100": 247.0,
}

# How many GB of GPU memory each additional megapixel in a batch takes: a rule of thumb.
GB_EACH_MORE_MEGAPIXEL = 8
# GB of memory of each GPU model, from NVIDIA's data sheets. Laptop versions have less.
MEMORY_GB = {
    "rtx 5090": 32,
    "rtx 5080": 16,
    "rtx 5070 ti": 16,
    "rtx 5070": 12,
    "rtx 4090": 24,
    "rtx 4080": 16,
    "rtx 4070 ti super": 16,
    "rtx 4070 ti": 12,
    "rtx 4070": 12,
    "rtx 3090 ti": 24,
    "rtx 3090": 24,
    "rtx 3080 ti": 12,
    "rtx 3080": 10,
    "rtx 3060": 12,
    "rtx a5000": 24,
    "l40s": 48,
    "a100": 80,
    "h100": 80,
}
_SIZE = re.compile(r"(\d+)\s*GB", re.IGNORECASE)


@dataclass(frozen=True)
class Offer:
    """A GPU class on offer at the stack's priority.

    `memory` in GB comes from the name, because the API has no field for it. `memory` and `usd_an_hour` (per replica) are None if unknown.
    """

    id: str
    name: str
    memory: int | None
    usd_an_hour: float | None


def gpu_model_of(name: str) -> str:
    """The model in a name: `RTX 5090` for `RTX 5090 (32 GB)` and for `NVIDIA GeForce RTX 5090, 32607 MiB`."""
    match = MODEL.search(name)
    if match is None:
        return " ".join(name.split("(")[0].split(",")[0].split())
    extra = "".join(f" {word.title()}" for word in match[3].split())
    return f"{match[1].upper()} {match[2].upper()}{extra}"


def gpu_names_in_setting(gpu: str) -> list[str]:
    """The names in `cluster.gpu`: one, or several if it is a list."""
    return gpu.split(SEPARATOR)


def memory_gb(gpu: str) -> int | None:
    """GB of `RTX 5090`, `RTX 3080 (10 GB)` or `>= 24 GB`; None if the name is unknown, such as a UUID. Of several classes, the least."""
    found = [_memory_of(name) for name in gpu_names_in_setting(gpu)]
    return min((memory for memory in found if memory is not None), default=None)


def smallest_class(gpu: str) -> str:
    """The one of several classes that has the least memory; the text itself if none is known."""
    found = [(memory, name) for name in gpu_names_in_setting(gpu) if (memory := _memory_of(name)) is not None]
    return min(found, key=lambda pair: pair[0])[1] if found else gpu


def _memory_of(gpu: str) -> int | None:
    match = _SIZE.search(gpu)
    if match:
        return int(match[1])
    return MEMORY_GB.get(" ".join(gpu.lower().replace("nvidia", "").replace("geforce", "").split()))


def is_gpu_name(wanted: str) -> bool:
    """Whether `cluster.gpu` is a name rather than a condition."""
    return wanted.strip().lower() not in (CHEAPEST, FASTEST) and not wanted.lstrip().startswith(
        (">", "<", "=")
    )


def check_condition(wanted: str) -> None:
    """Raises ValueError if `cluster.gpu` is an unknown condition."""
    known = wanted.strip().lower() in (CHEAPEST, FASTEST) or AT_LEAST.fullmatch(wanted.strip())
    if not is_gpu_name(wanted) and not known:
        raise ValueError(
            f"`{wanted}` is not a known condition; write a name such as `RTX 5090`, `>= 24 GB`, `{CHEAPEST}` or `{FASTEST}`"
        )


def memory_needed(document: Mapping[str, Any], weights_in_image: str = "") -> int:
    """GB of GPU memory that a train.yml needs: a rule of thumb. Models that the table lacks count as the default model.

    Weights that it lacks count as the model of their architecture that needs most.
    `weights_in_image`: the id of what `/model` holds; empty if unknown.
    """
    process = first_process(document)
    model, train = mapping(process.get("model")), mapping(process.get("train"))
    choice = choose_model(model, weights_in_image)
    needs = [row.memory for row in (choice.possible_models if choice.key else ()) or [MODELS[DEFAULT_MODEL]]]
    if model.get("quantize") is not True:
        return max(need.unquantized for need in needs)
    batch = whole_number(train.get("batch_size"), 1)
    megapixels = batch * (max(resolutions_of(process)) / 1024) ** 2
    more = GB_EACH_MORE_MEGAPIXEL * max(0, math.ceil(megapixels) - 1) if batch > 1 else 0
    return max(need.quantized for need in needs) + more


def choose_gpu(
    wanted: str,
    need: int,
    offers: Sequence[Offer],
    hours_on: Callable[[Offer], float | None],
    kept: str | None,
) -> Offer:
    """The class with enough memory on which the work costs least, or takes the least time for `fastest`; then by name.

    `need`: GB that the jobs need, unless the condition is `>= N GB`. `hours_on` returns the work's GPU hours on a class, None if its speed
    is unknown. `kept`: the id of the class that stays as long as it satisfies the condition. Raises BadInput if no class does.
    """
    match = AT_LEAST.fullmatch(wanted.strip())
    least = int(match[1]) if match else need
    large = [offer for offer in offers if offer.memory is not None and offer.memory >= least]
    for offer in large:
        if offer.id == kept:
            return offer
    is_fastest = wanted.strip().lower() == FASTEST
    priced = [
        (hours if is_fastest else offer.usd_an_hour * hours, offer.name, offer)
        for offer in large
        if offer.usd_an_hour is not None and (hours := hours_on(offer)) is not None
    ]
    if not priced:
        raise BadInput([_describe_no_fitting_gpu(wanted, least, large, offers)])
    return min(priced, key=lambda found: found[:2])[2]


def _describe_no_fitting_gpu(wanted: str, least: int, large: Sequence[Offer], offers: Iterable[Offer]) -> str:
    if large:
        names = ", ".join(offer.name for offer in large)
        return f"cluster.gpu (`{wanted}`): {names} would fit, but price or speed is unknown; set one of them by name"
    names = ", ".join(sorted(offer.name for offer in offers)) or "none"
    return (
        f"cluster.gpu (`{wanted}`): no GPU class with at least {least} GB is available; available: {names}; "
        "require less memory, or set `quantize: true` in train.yml"
    )
