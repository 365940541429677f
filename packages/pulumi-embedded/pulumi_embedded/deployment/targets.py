"""The options of a command, and the resources that it applies to: all, or those of `--target`."""

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
    """URNs or patterns (`**` matches anything, `*` anything without a colon). Without patterns, every resource is a target.

    `dependents`: resources that depend on a target are targets too (`--target-dependents`).
    """

    patterns: tuple[str, ...] = ()
    dependents: bool = False

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def includes(self, urn: str) -> bool:
        return not self.patterns or any(_compiled(pattern).fullmatch(urn) for pattern in self.patterns)

    def check_known(self, urns: Iterable[str], message: str = _UNKNOWN) -> None:
        """Raises EngineError with the message if a target matches none of these URNs."""
        known = list(urns)
        for pattern in self.patterns:
            if not any(_compiled(pattern).fullmatch(urn) for urn in known):
                raise EngineError(message.format(pattern))

    def select_for_delete(self, resources: list[Resource]) -> list[Resource]:
        """The resources to delete. Raises EngineError if another resource depends on one of them."""
        if not self.patterns:
            return resources
        self.check_known(resource.urn for resource in resources)
        selected = {resource.urn for resource in resources if self.includes(resource.urn)}
        for resource in resources:  # dependencies come first
            if resource.urn in selected or not resource.depends_on() & selected:
                continue
            if not self.dependents:
                raise EngineError(
                    f"Resource '{resource.urn}' will be destroyed but was not specified in --target list.\nEither "
                    "include resource in --target list or pass --target-dependents to proceed."
                )
            selected.add(resource.urn)
        return [resource for resource in resources if resource.urn in selected]


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (re.escape(part).replace(r"\*", "[^:]*") for part in pattern.split("**"))
    return re.compile(".*".join(parts), re.DOTALL)


ALL = Targets()


@dataclass(frozen=True)
class RunOptions:
    """The options of the command. `run_program`: a refresh runs the program, which only computes the stack's outputs."""

    refresh: bool = False
    continue_on_error: bool = False
    parallel: int = 16
    clear_pending_creates: bool = False
    run_program: bool = False
    targets: Targets = ALL
    message: str = ""
