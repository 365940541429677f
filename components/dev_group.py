"""A container group with one replica for interactive work on a real GPU, through a VS Code tunnel.

It has no Kelpie worker, bucket keys, job queue or scaling rule.
"""

from pydantic import SecretStr

from components.container_group import ContainerGroupArgs, ContainerGroupProvider
from components.provider import FluxResource

TUNNEL_VARIABLE = "FLUX_TUNNEL_NAME"
# VS Code refuses longer tunnel names.
MAX_TUNNEL_NAME = 20


class DevGroupProvider(ContainerGroupProvider):
    def environment(self, args: ContainerGroupArgs) -> dict[str, str | SecretStr]:
        return dev_environment(args.tunnel or "")


def dev_environment(tunnel: str) -> dict[str, str | SecretStr]:
    return {TUNNEL_VARIABLE: tunnel}


def tunnel_name(group: str, configured: str | None) -> str:
    """The configured tunnel name, or else the last characters of the group's name."""
    return configured or group[-MAX_TUNNEL_NAME:].strip("-")


class DevGroup(FluxResource[ContainerGroupArgs], module="flux", name="DevGroup"):
    """Its Pulumi id is the group's id at SaladCloud."""

    provider_class = DevGroupProvider
