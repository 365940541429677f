"""The GPUs that SaladCloud rents: their prices, and which of them a name means."""

from __future__ import annotations

import difflib
import re
from decimal import Decimal
from uuid import UUID

from pydantic import Field

from flux_training.clients.http import Answer
from flux_training.training.errors import BadInput


class GpuPrice(Answer):
    """Dollars an hour at a priority. The API has it as a string."""

    priority: str
    price: Decimal


class GpuClass(Answer):
    """A kind of GPU that can be rented."""

    id: str
    name: str
    prices: list[GpuPrice] = Field(default_factory=list)
    gpu_class_type: str = "community"

    def price(self, priority: str) -> Decimal | None:
        """Dollars an hour for one replica, if the class is offered at this priority."""
        return next((offer.price for offer in self.prices if offer.priority == priority), None)


def find_gpu_class(classes: list[GpuClass], wanted: str) -> GpuClass:
    """The class of this UUID, of this name, or the only one whose name contains it. Raises BadInput.

    Case, spaces and punctuation do not count. Where a name is offered as community and secure, it is the
    community one that is meant: that is what this project trains on.
    """
    if _is_uuid(wanted):
        matches = [gpu for gpu in classes if UUID(gpu.id) == UUID(wanted)]
    else:
        key = _letters(wanted)
        matches = [gpu for gpu in classes if _letters(gpu.name) == key]
        matches = matches or [gpu for gpu in classes if key and key in _letters(gpu.name)]
        if len(matches) > 1:
            matches = [gpu for gpu in matches if gpu.gpu_class_type == "community"] or matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(f"{gpu.name} = {gpu.id}" for gpu in matches)
        raise BadInput([f"the GPU ({wanted}) could be several; give one by name or UUID; {names}"])
    by_key = {_letters(gpu.name): gpu.name for gpu in classes}
    near = difflib.get_close_matches(_letters(wanted), by_key, n=3, cutoff=0.3)
    names = ", ".join(by_key[key] for key in near) or ", ".join(sorted(by_key.values()))
    raise BadInput(
        [f"the GPU ({wanted}) is none that SaladCloud offers; use its name or UUID; near: {names}"]
    )


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
