"""What a run has cost so far: the GPU time that its launcher counted, at the price of the group's GPU class."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from clients.salad import ContainerGroup, GpuClass

SECONDS_AN_HOUR = 3600


def usd_an_hour(group: ContainerGroup, classes: Sequence[GpuClass]) -> Decimal | None:
    """The price of one replica; of several classes the dearest counts. None when the class or its price is not known."""
    prices = [
        gpu.price(group.priority or "high")
        for gpu in classes
        if gpu.id in group.container.resources.gpu_classes
    ]
    return max((price for price in prices if price is not None), default=None)


def spent_usd(gpu_seconds: float | None, price: Decimal | None) -> Decimal | None:
    """Dollars; None when the time or the price is not known."""
    if gpu_seconds is None or price is None:
        return None
    return Decimal(str(gpu_seconds)) * price / SECONDS_AN_HOUR


def dollars(amount: Decimal | None) -> str:
    """`$1.23`, `<$0.01` for less than a cent, empty when it is not known."""
    if amount is None:
        return ""
    return f"${amount:.2f}" if amount >= Decimal("0.01") or amount == 0 else "<$0.01"
