"""One run of the program against the old state: what each registration comes to.

A registration finds its resource in the old state, has the provider check and compare it, and becomes one of:
same, update, create, or replace (create first, or delete first with the dependents that cannot outlive it).
After a failure nothing new is started: what is running ends, the rest is answered as skipped, and the program
comes to its own end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.decisions import Cascade, Decisions
from pulumi_embedded.deployment.deletions import Deletes
from pulumi_embedded.deployment.events import Listener
from pulumi_embedded.deployment.goals import Goal
from pulumi_embedded.deployment.places import Placed, Places
from pulumi_embedded.deployment.provider_resources import ProviderResources
from pulumi_embedded.deployment.steps import Steps
from pulumi_embedded.deployment.targets import ALL, Targets
from pulumi_embedded.errors import EngineError, NeedsCliError, StepError
from pulumi_embedded.program.monitor import FAIL, SKIP, InvokeResult, ProviderChoice, Registered
from pulumi_embedded.properties import urns, values
from pulumi_embedded.properties.urns import is_provider
from pulumi_embedded.properties.values import UNKNOWN_TEXT, Properties
from pulumi_embedded.providers import stack_references
from pulumi_embedded.providers.plugins import package_of
from pulumi_embedded.providers.provider import PACKAGE, CheckFailure, Diff, Provider
from pulumi_embedded.providers.registry import Providers, check_package
from pulumi_embedded.state.serialization import Resource, StackState, renamed


@dataclass(frozen=True)
class DeploymentSettings:
    """What a deployment is of.

    `look_only`: the program only tells what its stack outputs are; every resource stays as the state has it.
    """

    project: str
    stack: str
    config: Properties
    continue_on_error: bool = False
    parallel: int = 16
    look_only: bool = False
    targets: Targets = ALL


_GET_RESOURCE: Final = "pulumi:pulumi:getResource"


class Deployment:
    """The registrar of one run; see `monitor.Registrar`."""

    def __init__(
        self,
        settings: DeploymentSettings,
        state: StackState,
        steps: Steps,
        providers: Providers,
        listener: Listener,
    ) -> None:
        self._settings = settings
        self._state = state
        self._steps = steps
        self._providers = providers
        self._listener = listener
        self._lock = threading.RLock()
        self._places = Places.of(settings.stack, settings.project, state)
        self._managers = ProviderResources(settings.config, self._places, steps, providers, self._tell)
        self._decisions = Decisions(state, self._places, providers, self._tell)
        self._broken: set[str] = set()
        self._left_alone: set[str] = set()
        self._stack_outputs: Properties | None = None
        self.failed = False
        self.cancelled = False
        self.stopping = threading.Event()
        self.shut_down: Callable[[], None] = lambda: None

    # What the program calls.

    def register(self, goal: Goal) -> Registered:
        """Make, change or keep a resource.  Raises EngineError for what cannot be asked of this engine."""
        if goal.custom:
            check_package(goal.type, goal.name, goal.version)
        if self._settings.look_only:
            return self._look(goal)
        with self._lock:
            placed = self._managers.place(goal)
        urn = placed.new.urn
        try:
            if self.stopping.is_set() or placed.new.depends_on() & self._broken:
                return self._skip(placed)
            return self._proceed(placed)
        except StepError:
            return self._failed(urn)
        except EngineError as error:
            self._listener.message(events.ERROR, urn, str(error))
            return self._failed(urn)

    def read(self, goal: Goal) -> Registered:
        """Look up a resource that exists already and is nobody's to change."""
        if goal.type != stack_references.REFERENCE_TYPE:
            check_package(goal.type, goal.name, goal.version)
        if self._settings.look_only:
            return self._look(goal)
        with self._lock:
            placed = self._managers.place(goal)
        new, old = placed.new, placed.old
        new.external, new.id = True, goal.read_id
        try:
            if old is not None and not old.external:
                raise NeedsCliError(f"reading {goal.name!r}, which this stack has managed until now,")
            if values.has_unknown(goal.read_id) or values.has_unknown(new.inputs):
                new.id = UNKNOWN_TEXT
                return Registered(new.urn, UNKNOWN_TEXT, new.inputs)
            if self.stopping.is_set():
                return self._skipped(new.urn)
            self._steps.read(new, old, self._providers.get(new.provider))
        except EngineError as error:
            if not isinstance(error, StepError):
                self._listener.message(events.ERROR, new.urn, str(error))
            return self._failed(new.urn)
        return _registered(new)

    def invoke(self, function: str, arguments: Properties, wanted: ProviderChoice) -> InvokeResult:
        """Call a provider's function.  Raises EngineError."""
        package = package_of(function)
        if function == _GET_RESOURCE:
            return InvokeResult(self._resource_state(str(arguments.get("urn", ""))))
        if package in (PACKAGE, stack_references.PACKAGE):
            raise NeedsCliError(f"the function {function}")
        check_package(function, "", wanted.version, f"the function {function}")
        with self._lock:
            reference = wanted.reference or self._managers.default(package, wanted.version, wanted.url)
        if values.has_unknown(arguments) or self._managers.is_unconfigured(reference):
            return InvokeResult({})
        result, failures = self._providers.get(reference).invoke(
            function, arguments, preview=self._steps.preview
        )
        return InvokeResult(result, failures)

    def _resource_state(self, urn: str) -> Properties:
        resource = self._places.news.get(urn)
        if resource is None:
            raise EngineError(f"unknown resource {urn}")
        return {"urn": urn, "id": resource.id, "provider": resource.provider, "state": resource.outputs}

    def register_outputs(self, urn: str, outputs: Properties) -> None:
        """Note a component's outputs; the stack's are shown at the end."""
        with self._lock:
            resource = self._places.news.get(urn)
            if resource is None:
                return
            if resource.type == urns.STACK_TYPE:
                old = self._places.olds.get(urn)
                self._stack_outputs = outputs
                self._listener.outputs(old.outputs if old else None, outputs)
            if not self._steps.preview and values.has_unknown(outputs):
                outputs = {**resource.outputs, **_known(outputs)}  # something failed
            if values.same(resource.outputs, outputs):
                return
            resource.outputs = outputs
        self._steps.outputs(resource)

    def program_is_done(self) -> None:
        """Everything is registered: what the state has beyond that is deleted."""
        self.shut_down()

    # What the run calls.

    def keep_old_outputs(self) -> None:
        """The run failed after the stack's outputs were registered: keep the old ones that are not among them."""
        urn = next((urn for urn, new in self._places.news.items() if new.type == urns.STACK_TYPE), None)
        if urn is None or urn not in self._places.olds or self._stack_outputs is None:
            return
        if self._steps.preview:
            return
        merged = {**self._places.olds[urn].outputs, **_known(self._stack_outputs)}
        self._listener.outputs(self._places.olds[urn].outputs, merged)
        if not values.same(self._places.news[urn].outputs, merged):
            self._places.news[urn].outputs = merged
            self._steps.outputs(self._places.news[urn])

    def delete_the_rest(self) -> None:
        """Delete what the program no longer declares, and what replacements have left behind."""
        if self._settings.look_only:
            return
        rest = []
        for old in self._state.resources:
            if not old.delete and self._places.is_matched(old):
                continue
            if old.pending_replacement:
                self._steps.forget(old)
            else:
                rest.append(old)
        if self._settings.targets:
            try:
                self._settings.targets.check_known([*self._places.news, *self._places.olds])
            except EngineError as error:
                self._listener.message(events.ERROR, "", str(error))
                self.failed = True
                return
            rest = [
                resource for resource in rest if self._settings.targets.has(resource.urn) or resource.delete
            ]
        self._providers.load(self._state.resources)
        deletes = Deletes(self._steps, self._listener, self._settings, self.stopping)
        if not deletes.run(rest, self._places.names.taken):
            self.failed = True

    # One registration.

    def _look(self, goal: Goal) -> Registered:
        """The resource as the state has it; one that is not there yet is not made."""
        with self._lock:
            urn, old = self._places.look(goal)
        if old is None:
            return Registered(urn, UNKNOWN_TEXT if goal.custom else "", goal.inputs)
        return _registered(old)

    def _proceed(self, placed: Placed) -> Registered:
        if not self._is_meant(placed.new):
            return self._leave_alone(placed)
        missing = placed.new.depends_on() & self._left_alone
        if missing:
            raise EngineError(
                f"Resource '{placed.new.urn}' depends on '{min(missing)}', which does not exist yet and is not a target: "
                "name it with --target too"
            )
        if is_provider(placed.new.type):
            self._managers.keep(placed)
            return _registered(placed.new)
        provider = self._managers.of(placed.new)
        self._decisions.check(placed, provider)
        diff = self._decisions.diff(placed, provider)
        gone, cascade = self._cascade(placed, diff)
        try:
            return self._decided(placed, provider, diff, gone=gone, cascade=cascade)
        finally:
            self._end(cascade)

    def _decided(
        self, placed: Placed, provider: Provider | None, diff: Diff | None, *, gone: bool, cascade: Cascade
    ) -> Registered:
        if self.stopping.is_set():
            return self._skipped(placed.new.urn)
        if placed.old is None:
            self._steps.create(placed.new, alias=placed.alias)
        elif gone or placed.old.pending_replacement:
            self._decisions.check_anew(placed, provider)
            self._recreate(placed, diff)
        elif diff is None or not (diff.changes or placed.old.init_errors):
            self._steps.same(placed.old, placed.new, placed.alias)
        elif diff.replaces:
            self._replace(placed, provider, diff, cascade)
        else:
            self._steps.update(placed.old, placed.new, diff, placed.alias)
        return _registered(placed.new)

    def _is_meant(self, new: Resource) -> bool:
        return self._settings.targets.has(new.urn) or is_provider(new.type) or new.type == urns.STACK_TYPE

    def _leave_alone(self, placed: Placed) -> Registered:
        """A resource that is no target stays as the state has it, and where it is not there, is not made."""
        old, new = placed.old, placed.new
        if old is None:
            with self._lock:
                self._left_alone.add(new.urn)
                self._places.news.pop(new.urn)
            return Registered(new.urn, UNKNOWN_TEXT if new.custom else "", new.inputs)
        with self._lock:
            kept = renamed(old, self._places.names.taken).copy(urn=new.urn, parent=new.parent)
            self._places.news[new.urn] = kept
        self._steps.same(old, kept, placed.alias)
        return _registered(kept)

    def _tell(self, placed: Placed, failures: list[CheckFailure]) -> None:
        for failure in failures:
            where = f"property {failure.property} " if failure.property else ""
            text = f"{placed.new.type} resource '{placed.goal.name}': {where}has a problem: {failure.reason}"
            self._listener.message(events.ERROR, placed.new.urn, text)
        if failures:
            raise StepError(f"{placed.goal.name} is invalid")

    # Replacing.

    def _cascade(self, placed: Placed, diff: Diff | None) -> tuple[bool, Cascade]:
        """Whether the old one has been deleted with another already, and else what is to be deleted with it."""
        while True:
            with self._lock:
                gone = self._decisions.gone
                another = gone.get(placed.old.urn) if placed.old is not None else None
                if another is None:
                    resources = self._decisions.cascade_of(placed, diff) if diff is not None else []
                    cascade = Cascade(resources)
                    for resource in resources:
                        gone.setdefault(resource.urn, cascade)
                    return False, cascade
                if another.over.is_set():
                    return True, Cascade([])
            another.over.wait()

    def _end(self, cascade: Cascade) -> None:
        """Let those go on that wait for the cascade; what it has not deleted is not gone."""
        with self._lock:
            for resource in cascade.resources:
                mine = self._decisions.gone.get(resource.urn) is cascade
                if mine and not (resource.pending_replacement or self._steps.preview):
                    del self._decisions.gone[resource.urn]
        cascade.over.set()

    def _replace(self, placed: Placed, provider: Provider | None, diff: Diff, cascade: Cascade) -> None:
        old, new = placed.old, placed.new
        assert old is not None  # noqa: S101 - only what exists is replaced
        if old.protect and new.protect:
            raise EngineError(
                f'unable to replace resource "{new.urn}"\nas it is currently marked for protection. To unprotect the '
                "resource, remove the `protect` flag from the resource in your Pulumi program and run `up`"
            )
        self._decisions.check_anew(placed, provider)
        if not cascade.resources:
            self._steps.create(new, replaces=old, keep_old=True, diff=diff, alias=placed.alias)
            self._steps.replaced(old, new, diff)
            return
        self._delete_first(cascade)
        self._recreate(placed, diff)

    def _delete_first(self, cascade: Cascade) -> None:
        """Delete what has to go before; where another cascade is at it already, wait for that."""
        for resource in cascade.resources:
            with self._lock:
                by = self._decisions.gone.get(resource.urn)
            if by is not None and by is not cascade:
                by.over.wait()
            elif by is cascade and not resource.pending_replacement:  # else an earlier run has deleted it
                with_root = resource.deleted_with in self._decisions.gone
                self._steps.delete(
                    resource, op=events.DELETE_REPLACED, skip_provider=with_root, pending_replacement=True
                )
            if not (resource.pending_replacement or self._steps.preview):
                raise EngineError(f"{resource.urn} stands on it and could not be deleted")
        self._end(cascade)

    def _recreate(self, placed: Placed, diff: Diff | None) -> None:
        """Make the resource whose predecessor has been deleted already."""
        assert placed.old is not None  # noqa: S101 - only what existed is made again
        why = diff or Diff(True)
        self._steps.create(placed.new, replaces=placed.old, diff=why, alias=placed.alias)
        self._steps.replaced(placed.old, placed.new, why)

    # Failing.

    def _failed(self, urn: str) -> Registered:
        self.failed = True
        with self._lock:
            self._broken.add(urn)
        if not self._settings.continue_on_error:
            self._stop_starting()
        return Registered(urn, result=FAIL)

    def _stop_starting(self) -> None:
        """In a preview all failures are worth seeing; in an update nothing more is begun."""
        if not self._steps.preview:
            self.stopping.set()

    def _skip(self, placed: Placed) -> Registered:
        """Nothing is begun any more; what is wrong with this resource's inputs is still worth knowing."""
        if not self.cancelled and not values.has_unknown(placed.goal.inputs):
            self._decisions.check(placed, self._managers.of(placed.new))
        return self._skipped(placed.new.urn)

    def _skipped(self, urn: str) -> Registered:
        with self._lock:
            self._broken.add(urn)
        return Registered(urn, result=SKIP)


def _registered(new: Resource) -> Registered:
    return Registered(new.urn, new.id, new.outputs)


def _known(outputs: Properties) -> Properties:
    return {key: value for key, value in outputs.items() if not values.has_unknown(value)}
