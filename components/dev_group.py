"""One replica for trying things on a real GPU, through a VS Code tunnel. It has no worker, keys, queue or scaling rule."""

from pydantic import SecretStr

from components.container_group import ContainerGroupArgs, ContainerGroupProvider
from components.provider import FluxResource

TUNNEL_VARIABLE = "FLUX_TUNNEL_NAME"
# VS Code refuses longer names.
MAX_TUNNEL_NAME = 20


class DevGroupProvider(ContainerGroupProvider):
    def environment(self, args: ContainerGroupArgs) -> dict[str, str | SecretStr]:
        return dev_environment(args.tunnel or "")


def dev_environment(tunnel: str) -> dict[str, str | SecretStr]:
    return {TUNNEL_VARIABLE: tunnel}


def tunnel_name(group: str, configured: str | None) -> str:
    """The configured name, or the end of the group's."""
    return configured or group[-MAX_TUNNEL_NAME:].strip("-")


class DevGroup(FluxResource[ContainerGroupArgs], module="flux", name="DevGroup"):
    """Its Pulumi id is the group's id at SaladCloud."""

    provider_class = DevGroupProvider
