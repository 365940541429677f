"""One run of the program against the old state: what each registration comes to.

A registration finds its resource in the old state, has the provider check and compare it, and becomes one of:
same, update, create, or replace (create first, or delete first with the dependents that cannot outlive it).
After a failure nothing new is started: what is running ends, the rest is answered as skipped, and the program
comes to its own end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from engine import diffs, events, paths, references, urns, values
from engine.deletes import Deletes
from engine.errors import EngineError, NeedsCliError, StepError
from engine.events import Listener
from engine.goals import Goal, OldNames
from engine.monitor import FAIL, SKIP, Answer, Registered, Wanted
from engine.plugins import INTERNAL, package_of
from engine.providers import PACKAGE, CheckFailure, Diff, Provider
from engine.registry import Providers, check_package
from engine.state import Resource, State
from engine.steps import Steps
from engine.targets import ALL, Targets
from engine.urns import PROVIDER_PREFIX, is_provider
from engine.values import UNKNOWN_TEXT, Properties


@dataclass(frozen=True)
class Settings:
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


@dataclass
class _Placed:
    """A registration whose place in old and new state is known."""

    goal: Goal
    new: Resource
    old: Resource | None
    alias: tuple[str, str] | None = None
    inputs: Properties = field(default_factory=dict)

    @property
    def old_inputs(self) -> Properties:
        return self.old.inputs if self.old else {}


class Deployment:
    """The registrar of one run; see `monitor.Registrar`."""

    def __init__(
        self, settings: Settings, state: State, steps: Steps, providers: Providers, listener: Listener
    ) -> None:
        self._settings = settings
        self._state = state
        self._steps = steps
        self._providers = providers
        self._listener = listener
        self._lock = threading.RLock()
        self._olds = {old.urn: old for old in state.resources if not old.delete}
        self._names = OldNames(settings.stack, settings.project)
        self._matched: set[int] = set()
        self._news: dict[str, Resource] = {}
        self._broken: set[str] = set()
        self._gone: set[str] = set()
        self._left_alone: set[str] = set()
        self._defaults: dict[str, str] = {}
        self._unconfigured: set[str] = set()
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
            placed = self._place(goal)
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
        if goal.type != references.REFERENCE_TYPE:
            check_package(goal.type, goal.name, goal.version)
        if self._settings.look_only:
            return self._look(goal)
        with self._lock:
            placed = self._place(goal)
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

    def invoke(self, function: str, arguments: Properties, wanted: Wanted) -> Answer:
        """Call a provider's function.  Raises EngineError."""
        package = package_of(function)
        if function == _GET_RESOURCE:
            return Answer(self._resource_state(str(arguments.get("urn", ""))))
        if package in (PACKAGE, references.PACKAGE):
            raise NeedsCliError(f"the function {function}")
        check_package(function, "", wanted.version, f"the function {function}")
        with self._lock:
            reference = wanted.reference or self._default(package, wanted.version, wanted.url)
        if values.has_unknown(arguments) or reference in self._unconfigured:
            return Answer({})
        result, failures = self._providers.get(reference).invoke(
            function, arguments, preview=self._steps.preview
        )
        return Answer(result, failures)

    def _resource_state(self, urn: str) -> Properties:
        resource = self._news.get(urn)
        if resource is None:
            raise EngineError(f"unknown resource {urn}")
        return {"urn": urn, "id": resource.id, "provider": resource.provider, "state": resource.outputs}

    def register_outputs(self, urn: str, outputs: Properties) -> None:
        """Note a component's outputs; the stack's are shown at the end."""
        with self._lock:
            resource = self._news.get(urn)
            if resource is None:
                return
            if resource.type == urns.STACK_TYPE:
                old = self._olds.get(urn)
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
        urn = next((urn for urn, new in self._news.items() if new.type == urns.STACK_TYPE), None)
        if urn is None or urn not in self._olds or self._stack_outputs is None:
            return
        if self._steps.preview:
            return
        merged = {**self._olds[urn].outputs, **_known(self._stack_outputs)}
        self._listener.outputs(self._olds[urn].outputs, merged)
        if not values.same(self._news[urn].outputs, merged):
            self._news[urn].outputs = merged
            self._steps.outputs(self._news[urn])

    def delete_the_rest(self) -> None:
        """Delete what the program no longer declares, and what replacements have left behind."""
        if self._settings.look_only:
            return
        rest = []
        for old in self._state.resources:
            if not old.delete and id(old) in self._matched:
                continue
            if old.pending_replacement:
                self._steps.forget(old)
            else:
                rest.append(old)
        if self._settings.targets:
            try:
                self._settings.targets.check_known([*self._news, *self._olds])
            except EngineError as error:
                self._listener.message(events.ERROR, "", str(error))
                self.failed = True
                return
            rest = [
                resource for resource in rest if self._settings.targets.has(resource.urn) or resource.delete
            ]
        self._providers.load(self._state.resources)
        deletes = Deletes(self._steps, self._listener, self._settings, self.stopping)
        if not deletes.run(rest, self._names.taken):
            self.failed = True

    # Finding the resource.

    def _place(self, goal: Goal) -> _Placed:
        urn = urns.make(self._settings.stack, self._settings.project, goal.parent, goal.type, goal.name)
        if urn in self._news:
            raise EngineError(f"Duplicate resource URN '{urn}'; try giving it a unique name")
        if goal.parent and goal.parent not in self._news:
            raise EngineError(
                f"the parent {goal.parent} of {goal.type} {goal.name!r} has not been registered"
            )
        was = self._names.find(goal, urn, self._olds)
        old = self._olds.get(was) if was else None
        provider = ""
        if goal.custom and not is_provider(goal.type):
            provider = goal.provider or self._default(package_of(goal.type), goal.version, goal.plugin_url)
        if goal.custom and is_provider(goal.type):
            goal.inputs = {**goal.inputs, **_plugin_inputs(goal.version, goal.plugin_url)}
        new = goal.resource(urn, provider, old)
        self._news[urn] = new
        if old is not None:
            self._matched.add(id(old))
        alias = (was, urn) if was and was != urn else None
        return _Placed(goal, new, old, alias)

    def _default(self, package: str, version: str = "", url: str = "") -> str:
        """The reference of the provider that resources have without naming one; made at its first use."""
        name = "default" + (f"_{version}" if version else "").replace(".", "_")
        key = f"{package}:{name}"
        if key not in self._defaults:
            inputs = self._settings.config
            if package == references.PACKAGE:
                inputs = {}
            elif package != PACKAGE:
                start = f"{package}:"
                inputs = {k.removeprefix(start): v for k, v in inputs.items() if k.startswith(start)}
            goal = Goal(
                PROVIDER_PREFIX + package, name, custom=True, inputs=inputs, version=version, plugin_url=url
            )
            placed = self._place(goal)
            self._keep_provider(placed)
            self._defaults[key] = f"{placed.new.urn}::{placed.new.id}"
        return self._defaults[key]

    def _look(self, goal: Goal) -> Registered:
        """The resource as the state has it; one that is not there yet is not made."""
        with self._lock:
            urn = urns.make(self._settings.stack, self._settings.project, goal.parent, goal.type, goal.name)
            was = self._names.find(goal, urn, self._olds)
            old = self._olds.get(was) if was else None
            if old is None:
                return Registered(urn, UNKNOWN_TEXT if goal.custom else "", goal.inputs)
            self._news[urn] = old
            return _registered(old)

    # Deciding.

    def _proceed(self, placed: _Placed) -> Registered:
        if not self._is_meant(placed.new):
            return self._leave_alone(placed)
        missing = placed.new.depends_on() & self._left_alone
        if missing:
            raise EngineError(
                f"Resource '{placed.new.urn}' depends on '{min(missing)}', which does not exist yet and is not a target: "
                "name it with --target too"
            )
        if is_provider(placed.new.type):
            self._keep_provider(placed)
            return _registered(placed.new)
        provider = self._provider_of(placed.new)
        self._check(placed, provider)
        diff = self._diff(placed, provider)
        with self._lock:
            gone = placed.old is not None and placed.old.urn in self._gone
            cascade = [] if gone or diff is None else self._cascade_of(placed, diff)
            self._gone.update(resource.urn for resource in cascade)
        if self.stopping.is_set():
            return self._skipped(placed.new.urn)
        if placed.old is None:
            self._steps.create(placed.new, alias=placed.alias)
        elif gone or placed.old.pending_replacement:
            self._check_anew(placed, provider)
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

    def _leave_alone(self, placed: _Placed) -> Registered:
        """A resource that is no target stays as the state has it, and where it is not there, is not made."""
        old, new = placed.old, placed.new
        if old is None:
            with self._lock:
                self._left_alone.add(new.urn)
                self._news.pop(new.urn)
            return Registered(new.urn, UNKNOWN_TEXT if new.custom else "", new.inputs)
        kept = old.copy(urn=new.urn, parent=new.parent)
        with self._lock:
            self._news[new.urn] = kept
        self._steps.same(old, kept, placed.alias)
        return _registered(kept)

    def _provider_of(self, new: Resource) -> Provider | None:
        if not new.custom or new.provider in self._unconfigured:
            return None
        return self._providers.get(new.provider)

    def _keep_provider(self, placed: _Placed) -> None:
        new, old = placed.new, placed.old
        if package_of(new.type) not in (PACKAGE, references.PACKAGE) and not values.has_unknown(new.inputs):
            self._check_plugin(placed)
        new.outputs = {key: value for key, value in new.inputs.items() if key != INTERNAL}
        if old is None:
            self._steps.create(new)
        elif values.same(old.outputs, new.outputs):
            self._steps.same(old, new, placed.alias)
        else:
            diff = diffs.complete(Diff(False, by_engine=True), old.outputs, new.outputs, [])
            self._steps.update(old, new, diff, placed.alias)
        if values.has_unknown(new.inputs):
            self._unconfigured.add(f"{new.urn}::{new.id}")
        else:
            self._providers.register(f"{new.urn}::{new.id}", new.inputs)

    def _check_plugin(self, placed: _Placed) -> None:
        """Let a plugin look at its own configuration.  Raises StepError once every failure has been shown."""
        new, old = placed.new, placed.old
        plugin = self._providers.prepare(new.urn, new.inputs)
        new.inputs, failures = plugin.check_config(placed.old_inputs, new.inputs)
        self._tell(placed, failures)
        if old is not None:
            keys = plugin.replaces_on(old.id, old.inputs, new.inputs)
            if keys:
                raise NeedsCliError(
                    f"replacing the provider {placed.goal.name!r} because of {', '.join(keys)}"
                )

    def _tell(self, placed: _Placed, failures: list[CheckFailure]) -> None:
        for failure in failures:
            where = f"property {failure.property} " if failure.property else ""
            text = f"{placed.new.type} resource '{placed.goal.name}': {where}has a problem: {failure.reason}"
            self._listener.message(events.ERROR, placed.new.urn, text)
        if failures:
            raise StepError(f"{placed.goal.name} is invalid")

    def _check(self, placed: _Placed, provider: Provider | None) -> None:
        """Let the provider check the inputs.  Raises StepError once every failure has been shown."""
        inputs = placed.goal.inputs
        if placed.old is not None:
            inputs = paths.reset(inputs, placed.old.inputs, placed.goal.ignore_changes)
        placed.new.inputs = inputs
        if provider is None:
            return
        placed.new.inputs, failures = provider.check(placed.new.urn, placed.old_inputs, inputs)
        self._tell(placed, failures)

    def _diff(self, placed: _Placed, provider: Provider | None) -> Diff | None:
        old, new, goal = placed.old, placed.new, placed.goal
        if old is None:
            return None
        if old.external:
            raise NeedsCliError(f"managing {goal.name!r}, which this stack has only read until now,")
        if old.custom != new.custom or (new.custom and self._moved_provider(old, new)):
            return Diff(True, ["provider"])
        if new.deleted_with and new.deleted_with in self._gone:
            return Diff(True, ["deletedWith"])
        said = Diff(False, by_engine=True)
        if provider is not None:
            said = provider.diff(old, old.inputs, new.inputs, goal.ignore_changes) or said
        return diffs.complete(said, old.inputs, new.inputs, goal.replace_on_changes)

    def _moved_provider(self, old: Resource, new: Resource) -> bool:
        """Whether another provider resource manages it now: its configuration may reach another place."""
        before, after = urns.provider_urn(old.provider), urns.provider_urn(new.provider)
        return self._names.taken.get(before, before) != after and UNKNOWN_TEXT not in new.provider

    # Replacing.

    def _replace(
        self, placed: _Placed, provider: Provider | None, diff: Diff, cascade: list[Resource]
    ) -> None:
        old, new = placed.old, placed.new
        assert old is not None  # noqa: S101 - only what exists is replaced
        if old.protect and new.protect:
            raise EngineError(
                f'unable to replace resource "{new.urn}"\nas it is currently marked for protection. To unprotect the '
                "resource, remove the `protect` flag from the resource in your Pulumi program and run `up`"
            )
        self._check_anew(placed, provider)
        if not cascade:
            self._steps.create(new, replaces=old, keep_old=True, diff=diff, alias=placed.alias)
            self._steps.replaced(old, new, diff)
            return
        for resource in cascade:
            with_root = resource.deleted_with in self._gone
            self._steps.delete(
                resource, op=events.DELETE_REPLACED, skip_provider=with_root, pending_replacement=True
            )
        self._recreate(placed, diff)

    def _recreate(self, placed: _Placed, diff: Diff | None) -> None:
        """Make the resource whose predecessor has been deleted already."""
        assert placed.old is not None  # noqa: S101 - only what existed is made again
        why = diff or Diff(True)
        self._steps.create(placed.new, replaces=placed.old, diff=why, alias=placed.alias)
        self._steps.replaced(placed.old, placed.new, why)

    def _check_anew(self, placed: _Placed, provider: Provider | None) -> None:
        """The first check carried over what only held for the old resource."""
        if provider is None:
            return
        old, placed.old = placed.old, None
        try:
            self._check(placed, provider)
        finally:
            placed.old = old

    def _cascade_of(self, placed: _Placed, diff: Diff) -> list[Resource]:
        """What is to be deleted before `placed` is made again, in order; empty unless that comes first."""
        old, goal = placed.old, placed.goal
        if old is None or not diff.changes or not diff.replaces or old.pending_replacement:
            return []
        first = (
            diff.delete_before_replace if goal.delete_before_replace is None else goal.delete_before_replace
        )
        if not first:
            return []
        dependents = self._dependents_to_replace(old)
        for resource in dependents:
            if resource.protect:
                raise EngineError(
                    f'unable to replace resource "{resource.urn}" as part of replacing "{old.urn}" as it is currently '
                    "marked for protection. To unprotect the resource, remove the `protect` flag from the resource in "
                    "your Pulumi program and run `up`"
                )
        return [*reversed(dependents), old]

    def _dependents_to_replace(self, root: Resource) -> list[Resource]:
        """Those of the old state that would be replaced by a change of what they depend on, in the state's order.

        A provider is asked with unknowns in place of the values that come from resources that go.
        """
        going = {root.urn}
        touched = {root.urn}
        found = []
        for resource in self._state.resources:
            if resource.delete or id(resource) in self._matched or not resource.depends_on() & touched:
                continue
            touched.add(resource.urn)
            if resource.custom and not resource.external and self._would_go(resource, going):
                going.add(resource.urn)
                found.append(resource)
        return found

    def _would_go(self, resource: Resource, going: set[str]) -> bool:
        if resource.deleted_with in going or urns.provider_urn(resource.provider) in going:
            return True
        changing = {key for key, found in resource.property_dependencies.items() if going.intersection(found)}
        inputs = {key: values.UNKNOWN if key in changing else value for key, value in resource.inputs.items()}
        if not changing.intersection(inputs):
            return False
        self._providers.load(self._state.resources)
        provider = self._providers.get(resource.provider)
        said = provider.diff(resource, resource.inputs, inputs, resource.ignore_changes) or Diff(
            False, by_engine=True
        )
        return bool(diffs.complete(said, resource.inputs, inputs, resource.replace_on_changes).replaces)

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

    def _skip(self, placed: _Placed) -> Registered:
        """Nothing is begun any more; what is wrong with this resource's inputs is still worth knowing."""
        if not self.cancelled and not values.has_unknown(placed.goal.inputs):
            self._check(placed, self._provider_of(placed.new))
        return self._skipped(placed.new.urn)

    def _skipped(self, urn: str) -> Registered:
        with self._lock:
            self._broken.add(urn)
        return Registered(urn, result=SKIP)


def _registered(new: Resource) -> Registered:
    return Registered(new.urn, new.id, new.outputs)


def _known(outputs: Properties) -> Properties:
    return {key: value for key, value in outputs.items() if not values.has_unknown(value)}


def _plugin_inputs(version: str, url: str) -> Properties:
    """What a provider's inputs have beside its configuration."""
    if not version and not url:
        return {}
    named = {"version": version} if version else {}
    return {**named, INTERNAL: {"pluginDownloadURL": url} if url else {}}
