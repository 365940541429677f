"""The options of a command, and the resources that it applies to."""

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
    """What a command applies to, as URNs or patterns (`**` matches anything, `*` anything without a colon).

    `patterns`: of `--target`; without them, every resource is a target. `excluded`: of `--exclude`. `dependents`: what
    depends on a target is a target too, and what depends on an excluded resource is excluded too. `replaced`: of
    `--replace`; these are replaced even if nothing changes.
    """

    patterns: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    dependents: bool = False
    replaced: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.patterns or self.excluded)

    def includes(self, urn: str) -> bool:
        """Whether the resource itself is a target."""
        return not _matches(self.excluded, urn) and (not self.patterns or _matches(self.patterns, urn))

    def includes_dependent(
        self, urn: str, depends_on: set[str], targeted: set[str], left_out: set[str]
    ) -> bool:
        """Whether a resource is a target, given what was decided about those it depends on."""
        if self.dependents and self.patterns and depends_on & targeted:
            return True
        return self.includes(urn) and not (self.dependents and self.excluded and depends_on & left_out)

    def is_named_for_replacement(self, urn: str) -> bool:
        """Whether `--replace` names the resource."""
        return _matches(self.replaced, urn)

    def select(self, resources: list[Resource]) -> list[Resource]:
        """Those of the resources, dependencies first, that are targets."""
        targeted: set[str] = set()
        left_out: set[str] = set()
        for resource in resources:
            is_target = self.includes_dependent(resource.urn, resource.depends_on(), targeted, left_out)
            (targeted if is_target else left_out).add(resource.urn)
        return [resource for resource in resources if resource.urn in targeted]

    def check_known(self, urns: Iterable[str], message: str = _UNKNOWN) -> None:
        """Raises EngineError with the message if a target matches none of these URNs."""
        known = list(urns)
        for pattern in (*self.patterns, *self.replaced):
            if not any(_compile_patterns(pattern).fullmatch(urn) for urn in known):
                raise EngineError(message.format(pattern))

    def select_for_delete(self, resources: list[Resource]) -> list[Resource]:
        """The resources to delete. What an excluded resource depends on stays too.

        Raises EngineError if a resource that is not a target depends on one of them.
        """
        if not self:
            return resources
        self.check_known(resource.urn for resource in resources)
        selected = {resource.urn for resource in resources if self.includes(resource.urn)}
        if self.excluded:
            for resource in reversed(resources):  # dependents come first
                if resource.urn not in selected:
                    selected -= resource.depends_on()
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


def _matches(patterns: tuple[str, ...], urn: str) -> bool:
    return any(_compile_patterns(pattern).fullmatch(urn) for pattern in patterns)


@cache
def _compile_patterns(pattern: str) -> re.Pattern[str]:
    parts = (re.escape(part).replace(r"\*", "[^:]*") for part in pattern.split("**"))
    return re.compile(".*".join(parts), re.DOTALL)


ALL = Targets()


@dataclass(frozen=True)
class RunOptions:
    """The options of the command.

    `run_program`: a refresh runs the program, which only computes the stack's outputs. `exec_kind`: who runs the
    command, for the history; the Automation API says `auto.local`.
    """

    refresh: bool = False
    continue_on_error: bool = False
    parallel: int = 16
    clear_pending_creates: bool = False
    run_program: bool = False
    targets: Targets = ALL
    message: str = ""
    exec_kind: str = "cli"
