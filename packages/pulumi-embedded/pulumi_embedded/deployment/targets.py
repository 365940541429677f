"""Which resources a command is about: all, or those of `--target`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

from pulumi_embedded.errors import EngineError
from pulumi_embedded.state.serialization import Resource

_UNKNOWN: Final = "Target '{}' could not be found in the stack. Did you forget to escape $ in your shell?"


@dataclass(frozen=True)
class Targets:
    """URNs, or patterns of them (`**` stands for anything, `*` for anything without a colon); none at all means every resource.

    `dependents`: what depends on a target is a target too (`--target-dependents`).
    """

    patterns: tuple[str, ...] = ()
    dependents: bool = False

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def has(self, urn: str) -> bool:
        """Whether the resource is meant."""
        return not self.patterns or any(_matches(urn, pattern) for pattern in self.patterns)

    def check_known(self, urns: Iterable[str], text: str = _UNKNOWN) -> None:
        """Raises EngineError with the text for a target that is no resource."""
        known = list(urns)
        for pattern in self.patterns:
            if not any(_matches(urn, pattern) for urn in known):
                raise EngineError(text.format(pattern))

    def among(self, resources: list[Resource]) -> list[Resource]:
        """Those that are to be deleted.  Raises EngineError where something else stands on one of them."""
        if not self.patterns:
            return resources
        self.check_known(resource.urn for resource in resources)
        going = {resource.urn for resource in resources if self.has(resource.urn)}
        for resource in resources:  # a resource comes after what it depends on
            on = resource.depends_on() & going
            if on and resource.urn not in going:
                if not self.dependents:
                    raise EngineError(
                        f"Resource '{resource.urn}' will be destroyed but was not specified in --target list.\nEither "
                        "include resource in --target list or pass --target-dependents to proceed."
                    )
                going.add(resource.urn)
        return [resource for resource in resources if resource.urn in going]


def _matches(urn: str, pattern: str) -> bool:
    return bool(_compiled(pattern).fullmatch(urn))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (re.escape(part).replace(r"\*", "[^:]*") for part in pattern.split("**"))
    return re.compile(".*".join(parts), re.DOTALL)


ALL = Targets()
