"""Resources and registrations of no program, for tests of what the engine decides about them."""

from typing import Any

from pulumi_embedded.deployment.goals import Goal
from pulumi_embedded.properties.urns import make_urn
from pulumi_embedded.state.serialization import Resource

TYPE = "t:i:T"
PROVIDER = "urn:pulumi:dev::p::pulumi:providers:t::default::1"


def urn(name: str) -> str:
    return make_urn("dev", "p", "", TYPE, name)


def resource(name: str, *on: str, **more: Any) -> Resource:
    """A resource that depends on those of the names `on`."""
    more = {"custom": True, "provider": PROVIDER, "dependencies": [urn(one) for one in on]} | more
    return Resource(urn=urn(name), type=TYPE, **more)


def goal(name: str, **more: Any) -> Goal:
    return Goal(**{"type": TYPE, "name": name, "custom": True, **more})
