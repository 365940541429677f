"""One replica to try things on a real GPU, by VS Code tunnel. No worker: it has no keys, no queue and no scaling rule."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.dynamic import Resource
from pydantic import SecretStr

from components.container_group import ContainerGroupProvider
from components.provider import Props

TUNNEL_VARIABLE = "FLUX_TUNNEL_NAME"


class DevGroupProvider(ContainerGroupProvider):
    def environment(self, props: Props) -> dict[str, str | SecretStr]:
        return dev_environment(props["tunnel"])


def dev_environment(tunnel: str) -> dict[str, str | SecretStr]:
    return {TUNNEL_VARIABLE: tunnel}


def tunnel_name(group: str, wanted: str | None) -> str:
    """The tunnel's name: as wanted, else the group's, cut to the 20 characters that a tunnel's may have."""
    return wanted or group[-20:].strip("-")


class DevGroup(Resource, module="flux", name="DevGroup"):
    """Its Pulumi id is SaladCloud's id of the group."""

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(DevGroupProvider(), name, {**props, "gpuClass": None}, opts)
