"""What a run has cost so far: the GPU time that its launcher counted, at the price of the group's GPU class."""

from __future__ import annotations

from collections.abc import Sequence

from clients.salad import ContainerGroup, GpuClass
from training.cost import HOUR


def usd_an_hour(group: ContainerGroup, classes: Sequence[GpuClass]) -> float | None:
    """The price of one replica; of several classes the dearest counts. None when the class or its price is not known."""
    wanted = group.container.resources.gpu_classes
    prices = [gpu.price(group.priority or "high") for gpu in classes if gpu.id in wanted]
    return max((float(price) for price in prices if price is not None), default=None)


def spent_usd(gpu_seconds: float | None, price: float | None) -> float | None:
    """Dollars; None when the time or the price is not known."""
    return None if gpu_seconds is None or price is None else gpu_seconds / HOUR * price
