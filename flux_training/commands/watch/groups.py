"""The container groups in a stack's outputs, and what a replica of each costs."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flux_training.clients.connection import Connection
from flux_training.clients.errors import ServiceError
from flux_training.clients.gpu_classes import GpuClass
from flux_training.clients.salad import ContainerGroup
from flux_training.training.settings import SINGLE_CLUSTER


@dataclass(frozen=True)
class StackGroup:
    """The id and name of a container group at SaladCloud."""

    id: str
    name: str


def stack_groups(outputs: Mapping[str, Any]) -> dict[str, StackGroup]:
    """The groups by cluster; the group of a stack with a single cluster as SINGLE_CLUSTER."""
    single = outputs.get("containerGroup")
    found = {SINGLE_CLUSTER: single} if single else outputs.get("clusters") or {}
    groups = {
        name: StackGroup(str(one.get("id") or ""), str(one.get("name") or "")) for name, one in found.items()
    }
    return {name: group for name, group in groups.items() if group.id or group.name}


def prices_by_cluster(connection: Connection, outputs: Mapping[str, Any]) -> dict[str, float | None]:
    """Dollars an hour for one replica of each cluster; None if SaladCloud does not answer or there is no group."""
    groups = stack_groups(outputs)
    prices: dict[str, float | None] = dict.fromkeys(groups)
    named = {name: group.name for name, group in groups.items() if group.name}
    if not named:
        return prices
    with suppress(ServiceError):
        salad = connection.salad()
        classes = salad.gpu_classes()
        for name, group_name in named.items():
            group = salad.get_group(group_name)
            prices[name] = usd_an_hour(group, classes) if group else None
    return prices


def usd_an_hour(group: ContainerGroup, classes: Sequence[GpuClass]) -> float | None:
    """The price of one replica, by the most expensive of its GPU classes. None if no price is known."""
    wanted = group.container.resources.gpu_classes
    prices = [gpu.price(group.priority or "high") for gpu in classes if gpu.id in wanted]
    return max((float(price) for price in prices if price is not None), default=None)
