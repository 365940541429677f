"""SaladCloud's GPU classes: their prices, and finding one by name."""

import difflib
import re
from decimal import Decimal
from uuid import UUID

from pydantic import Field

from flux_training.clients.http import Answer
from flux_training.training.errors import BadInput

# Suffixes such as `Ti`: a name with one of these words means another GPU than the name without.
OTHER_GPUS = (["ti"], ["super"], ["laptop"])


class GpuPrice(Answer):
    """Dollars an hour at a priority."""

    priority: str
    price: Decimal


class GpuClass(Answer):
    """A kind of GPU that can be rented."""

    id: str
    name: str
    prices: list[GpuPrice] = Field(default_factory=list)
    gpu_class_type: str = "community"

    def price(self, priority: str) -> Decimal | None:
        """Dollars an hour for one replica, or None if the class is not offered at this priority."""
        return next((offer.price for offer in self.prices if offer.priority == priority), None)


class GpuAvailability(Answer):
    """How many replicas could start now, by priority."""

    available_gpu_high: int = 0
    available_gpu_medium: int = 0
    available_gpu_low: int = 0
    available_gpu_batch: int = 0

    def at(self, priority: str) -> int:
        return int(getattr(self, f"available_gpu_{priority}"))


def find_gpu_class(classes: list[GpuClass], wanted: str) -> GpuClass:
    """The class of this UUID, of this name, or the only one whose name contains it as whole words: `RTX 509` is not `RTX 5090`,
    nor is `RTX 4070` the `RTX 4070 Ti`. Raises BadInput.

    Ignores case, spaces and punctuation. If a name is offered as community and secure, the community class is meant: this project
    trains on those.
    """
    if _is_uuid(wanted):
        matches = [gpu for gpu in classes if UUID(gpu.id) == UUID(wanted)]
    else:
        key = _letters(wanted)
        matches = [gpu for gpu in classes if _letters(gpu.name) == key]
        matches = matches or [gpu for gpu in classes if key and key in _word_sequences(gpu.name)]
        if len(matches) > 1:
            matches = [gpu for gpu in matches if gpu.gpu_class_type == "community"] or matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(f"{gpu.name} = {gpu.id}" for gpu in matches)
        raise BadInput(
            [f"the GPU {wanted!r} is ambiguous; give the full name or UUID of one of these: {names}"]
        )
    by_key = {_letters(gpu.name): gpu.name for gpu in classes}
    near = difflib.get_close_matches(_letters(wanted), by_key, n=3, cutoff=0.3)
    names = ", ".join(by_key[key] for key in near) or ", ".join(sorted(by_key.values()))
    raise BadInput([f"SaladCloud offers no GPU with the name or UUID {wanted!r}; similar names: {names}"])


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _word_sequences(name: str) -> set[str]:
    """The letters of each sequence of whole words in a name. `RTX 4070` is none in `RTX 4070 Ti`, because it is another GPU."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    ends = [j for j in range(1, len(words) + 1) if words[j : j + 1] not in OTHER_GPUS]
    return {"".join(words[i:j]) for j in ends for i in range(j)}


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
