"""The prices that go into a bill, from SaladCloud's classes."""

from __future__ import annotations

from typing import Any, cast

import pytest

from flux_training.clients.connection import Connection
from flux_training.clients.gpu_classes import GpuClass
from flux_training.clients.stack.pricing import price_stack
from flux_training.clients.stack.services import StackServices
from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.cost import Rate
from flux_training.training.errors import BadInput
from flux_training.training.settings import DevSettings, StackSettings, StorageSettings

CLASSES = [
    GpuClass.model_validate({"id": name, "name": name, "prices": [{"priority": "high", "price": price}]})
    for name, price in (("RTX 5090 (32 GB)", "0.45"), ("RTX 3090 (24 GB)", "0.25"))
]


class Services:
    """As much of a connection as a bill for no job takes."""

    cloud = "salad"

    def storage(self, _bucket: str) -> None:
        return None

    def salad(self) -> Services:
        return self

    def gpu_classes(self) -> list[GpuClass]:
        return CLASSES


def dev_rate(**dev: Any) -> Rate | None:
    settings = StackSettings(
        cloud="salad",
        storage=StorageSettings(bucket="weights"),
        jobs={},
        cluster=ClusterSettings(gpu="RTX 5090"),
        dev=DevSettings(**dev),
    )
    return price_stack(StackServices(cast(Connection, Services()), settings), [], {}).clusters[""].dev


def test_the_bill_has_what_the_dev_group_rents() -> None:
    assert dev_rate() is None
    assert dev_rate(enabled=True, image="me/dev") == Rate("RTX 5090 (32 GB)", "high", 0.45)
    assert dev_rate(enabled=True, image="me/dev", gpu="RTX 3090") == Rate("RTX 3090 (24 GB)", "high", 0.25)


def test_a_class_that_the_dev_group_cannot_rent_is_said_before_anything_is_made() -> None:
    with pytest.raises(BadInput, match="SaladCloud offers no GPU"):
        dev_rate(enabled=True, image="me/dev", gpu="H100")
