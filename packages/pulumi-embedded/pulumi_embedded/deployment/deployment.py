"""One run of the program against the old state: what happens to each registration.

A registration finds its resource in the old state; its provider checks and compares it; then it is kept, updated, created
or replaced (created first, or deleted first together with the dependents that must be replaced too).
After a failure no new step starts: running ones end, later registrations are skipped, and the program runs to its end.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.decisions import Cascade, Decisions
from pulumi_embedded.deployment.deletions import Deletions
from pulumi_embedded.deployment.events import Listener
from pulumi_embedded.deployment.goals import Goal
from pulumi_embedded.deployment.interrupts import StopFlag
from pulumi_embedded.deployment.provider_resources import ProviderResources
from pulumi_embedded.deployment.resource_index import RegisteredResource, ResourceIndex
from pulumi_embedded.deployment.steps import StepRunner
from pulumi_embedded.deployment.targets import RunOptions
from pulumi_embedded.errors import EngineError, NeedsCliError, StepError
from pulumi_embedded.program.monitor import FAIL, SKIP, Registration
from pulumi_embedded.properties import urns, values
from pulumi_embedded.properties.urns import is_provider
from pulumi_embedded.properties.values import UNKNOWN_TEXT, Properties
from pulumi_embedded.providers import stack_references
from pulumi_embedded.providers.plugins import package_of
from pulumi_embedded.providers.provider import PACKAGE, CheckFailure, Diff, Provider
from pulumi_embedded.providers.registry import ProviderRegistry, check_package
from pulumi_embedded.state.backend import StackId
from pulumi_embedded.state.serialization import Resource, StackState, with_new_references

_GET_RESOURCE: Final = "pulumi:pulumi:getResource"


@dataclass
class Deployment:
    """Does what the program asks for; see `monitor.Registrar`."""

    stack: StackId
    config: Properties
    options: RunOptions
    state: StackState
    steps: StepRunner
    providers: ProviderRegistry
    listener: Listener
    _lock: Any = field(default_factory=threading.RLock, init=False)
    _index: ResourceIndex = field(init=False)
    _provider_resources: ProviderResources = field(init=False)
    _decisions: Decisions = field(init=False)
    _failed_urns: set[str] = field(default_factory=set, init=False)
    _targeted: set[str] = field(default_factory=set, init=False)
    _left_out: set[str] = field(default_factory=set, init=False)
    _uncreated: set[str] = field(default_factory=set, init=False)
    _stack_outputs: Properties | None = field(default=None, init=False)
    failed: bool = field(default=False, init=False)
    stop: StopFlag = field(default_factory=StopFlag, init=False)
    on_program_done: Callable[[], None] = field(default=lambda: None, init=False)

    def __post_init__(self) -> None:
        self._index = ResourceIndex.from_state(self.stack.name, self.stack.project, self.state)
        self._provider_resources = ProviderResources(
            self.config, self._index, self.steps, self.providers, self._report_check_failures
        )
        self._decisions = Decisions(
            self.state, self._index, self.providers, self._report_check_failures, self.options.targets
        )

    # The program's requests. The gRPC monitor calls the methods below.

    def register_resource(self, goal: Goal) -> Registration:
        """Create, change or keep a resource. Raises EngineError for unsupported requests."""
        if goal.custom:
            check_package(goal.type, goal.name, goal.version)
        if self.options.run_program:
            return self._register_unchanged(goal)
        with self._lock:
            registered = self._provider_resources.register_resource(goal)
        urn = registered.new.urn
        try:
            if self.stop.stopping.is_set() or registered.new.depends_on() & self._failed_urns:
                return self._skip(registered)
            return self._deploy(registered)
        except EngineError as error:
            return self._fail(urn, error)

    def read_resource(self, goal: Goal) -> Registration:
        """Look up a resource that exists and that the stack does not manage."""
        if goal.type != stack_references.REFERENCE_TYPE:
            check_package(goal.type, goal.name, goal.version)
        if self.options.run_program:
            return self._register_unchanged(goal)
        with self._lock:
            registered = self._provider_resources.register_resource(goal)
        new, old = registered.new, registered.old
        new.external, new.id = True, goal.read_id
        try:
            if old is not None and not old.external:
                raise NeedsCliError(
                    f"reading the resource {goal.name!r}, which this stack has managed until now,"
                )
            if values.has_unknown(goal.read_id) or values.has_unknown(new.inputs):
                new.id = UNKNOWN_TEXT
                return Registration(new.urn, UNKNOWN_TEXT, new.inputs)
            if self.stop.stopping.is_set():
                return self._skipped_registration(new.urn)
            self.steps.read_resource(new, old, self.providers.get_provider(new.provider))
        except EngineError as error:
            return self._fail(new.urn, error)
        return _registration(new)

    def invoke_function(
        self, function: str, arguments: Properties, reference: str, version: str, url: str
    ) -> tuple[Properties, list[CheckFailure]]:
        """Call a provider function. Raises EngineError."""
        package = package_of(function)
        if function == _GET_RESOURCE:
            return self._resource_state(str(arguments.get("urn", ""))), []
        if package in (PACKAGE, stack_references.PACKAGE):
            raise NeedsCliError(f"the function {function}")
        check_package(function, "", version, f"the function {function}")
        with self._lock:
            reference = reference or self._provider_resources.default_reference(package, version, url)
        if values.has_unknown(arguments) or self._provider_resources.is_configuration_unknown(reference):
            return {}, []
        return self.providers.get_provider(reference).invoke(function, arguments, preview=self.steps.preview)

    def _resource_state(self, urn: str) -> Properties:
        resource = self._index.news.get(urn)
        if resource is None:
            raise EngineError(f"unknown resource {urn}")
        return {"urn": urn, "id": resource.id, "provider": resource.provider, "state": resource.outputs}

    def register_outputs(self, urn: str, outputs: Properties) -> None:
        """Record the outputs of a component or the stack."""
        with self._lock:
            resource = self._index.news.get(urn)
            # A skipped resource has no new row in the state. After Ctrl-C it keeps its old row.
            if resource is None or urn in self._failed_urns:
                return
            if resource.type == urns.STACK_TYPE:
                # After a failure, the stack keeps the outputs of its last complete update. The CLI does the
                # same, because its resource monitor has already ended.
                if self.failed and not self.options.continue_on_error and not self.steps.preview:
                    return
                old = self._index.olds.get(urn)
                self._stack_outputs = outputs
                self.listener.on_outputs(old.outputs if old else None, outputs)
            if not self.steps.preview and values.has_unknown(outputs):
                # Outputs that depend on failed resources are unknown and keep their old values.
                outputs = {**resource.outputs, **_known(outputs)}
            if values.is_same(resource.outputs, outputs):
                return
            resource.outputs = outputs
        self.steps.save_outputs(resource)

    def end_registrations(self) -> None:
        """Called when the program has registered everything. Returns after the deletions."""
        self.on_program_done()

    # The end of a deployment. The methods below are called by Run (deployment/run.py).

    def keep_old_outputs(self) -> None:
        """After a failed run: keep the stack's old outputs for those that are missing now."""
        urn = next((urn for urn, new in self._index.news.items() if new.type == urns.STACK_TYPE), None)
        if urn is None or urn not in self._index.olds or self._stack_outputs is None or self.steps.preview:
            return
        old_outputs = self._index.olds[urn].outputs
        merged = {**old_outputs, **_known(self._stack_outputs)}
        self.listener.on_outputs(old_outputs, merged)
        if not values.is_same(self._index.news[urn].outputs, merged):
            self._index.news[urn].outputs = merged
            self.steps.save_outputs(self._index.news[urn])

    def delete_undeclared(self) -> None:
        """Delete what the program no longer declares, and the originals of replaced resources."""
        targets = self.options.targets
        if self.options.run_program:
            return
        undeclared = [
            old for old in self.state.resources if old.delete or not self._index.has_registration(old)
        ]
        for old in undeclared:
            if old.pending_replacement:
                self.steps.drop_from_state(old)
        try:
            targets.check_known([*self._index.news, *self._index.olds])
        except EngineError as error:
            self.listener.on_message(events.ERROR, "", str(error))
            self.failed = True
            return
        targeted = {old.urn for old in targets.select(self.state.resources)}
        to_delete = [
            old for old in undeclared if not old.pending_replacement and (old.delete or old.urn in targeted)
        ]
        self.providers.load_providers(self.state.resources)
        deletions = Deletions(self.steps, self.listener, self.stop.stopping, self.options)
        if not deletions.delete_all(to_delete, self._index.aliases.taken):
            self.failed = True

    # Deploying one resource.

    def _register_unchanged(self, goal: Goal) -> Registration:
        """Answer with the resource of the old state. A resource that does not exist is not created."""
        with self._lock:
            urn, old = self._index.add_unchanged(goal)
        if old is None:
            return Registration(urn, UNKNOWN_TEXT if goal.custom else "", goal.inputs)
        return _registration(old)

    def _deploy(self, registered: RegisteredResource) -> Registration:
        if not self._is_target(registered.new):
            return self._leave_unchanged(registered)
        missing = registered.new.depends_on() & self._uncreated
        if missing:
            raise EngineError(
                f"Resource '{registered.new.urn}' depends on '{min(missing)}', which does not exist yet and is not a target: "
                "name it with --target too, or do not exclude it"
            )
        if is_provider(registered.new.type):
            self._provider_resources.apply_provider(registered)
            return _registration(registered.new)
        provider = self._provider_resources.provider_of(registered.new)
        self._decisions.check_inputs(registered, provider)
        diff = self._decisions.diff_resource(registered, provider)
        is_deleted, cascade = self._cascade(registered, diff)
        try:
            return self._apply(registered, provider, diff, is_deleted=is_deleted, cascade=cascade)
        finally:
            self._finish(cascade)

    def _apply(
        self,
        registered: RegisteredResource,
        provider: Provider | None,
        diff: Diff | None,
        *,
        is_deleted: bool,
        cascade: Cascade,
    ) -> Registration:
        old, new, alias = registered.old, registered.new, registered.alias
        if self.stop.stopping.is_set():
            return self._skipped_registration(new.urn)
        if old is None:
            self.steps.create_resource(new, alias=alias)
        elif is_deleted or old.pending_replacement:
            self._decisions.check_inputs_as_new(registered, provider)
            self._recreate(registered, old, diff)
        elif diff is None or not (diff.changes or old.init_errors):
            self.steps.keep_resource(old, new, alias)
        elif diff.replaces:
            self._replace(registered, old, provider, diff, cascade)
        else:
            self.steps.update_resource(old, new, diff, alias)
        return _registration(new)

    def _is_target(self, new: Resource) -> bool:
        if is_provider(new.type) or new.type == urns.STACK_TYPE:
            return True
        with self._lock:
            is_target = self.options.targets.includes_dependent(
                new.urn, new.depends_on(), self._targeted, self._left_out
            )
            (self._targeted if is_target else self._left_out).add(new.urn)
        return is_target

    def _leave_unchanged(self, registered: RegisteredResource) -> Registration:
        """Keep a resource that is not a target as it is in the old state. If it does not exist, it is not created."""
        old, new = registered.old, registered.new
        if old is None:
            with self._lock:
                self._uncreated.add(new.urn)
                self._index.news.pop(new.urn)
            return Registration(new.urn, UNKNOWN_TEXT if new.custom else "", new.inputs)
        with self._lock:
            kept = with_new_references(old, self._index.aliases.taken).copy(urn=new.urn, parent=new.parent)
            self._index.news[new.urn] = kept
        self.steps.keep_resource(old, kept, registered.alias)
        return _registration(kept)

    def _report_check_failures(self, registered: RegisteredResource, failures: list[CheckFailure]) -> None:
        new, name = registered.new, registered.goal.name
        for failure in failures:
            where = f"property {failure.property} " if failure.property else ""
            text = f"{new.type} resource '{name}': {where}has a problem: {failure.reason}"
            self.listener.on_message(events.ERROR, new.urn, text)
        if failures:
            raise StepError(f"{name} is invalid")

    # Replacing a resource.

    def _cascade(self, registered: RegisteredResource, diff: Diff | None) -> tuple[bool, Cascade]:
        """Whether another cascade has deleted the old resource and, if not, what to delete before it is replaced.

        If a cascade is deleting it now, this waits for the end of that cascade.
        """
        while True:
            with self._lock:
                deleted_first = self._decisions.deleted_first
                other = deleted_first.get(registered.old.urn) if registered.old is not None else None
                if other is None:
                    resources = self._decisions.find_cascade(registered, diff) if diff is not None else []
                    cascade = Cascade(resources)
                    for resource in resources:
                        deleted_first.setdefault(resource.urn, cascade)
                    return False, cascade
                if other.finished.is_set():
                    return True, Cascade([])
            other.finished.wait()

    def _finish(self, cascade: Cascade) -> None:
        """Wake up the threads that wait for the cascade. Resources it has not deleted still exist."""
        with self._lock:
            deleted_first = self._decisions.deleted_first
            for resource in cascade.resources:
                is_own = deleted_first.get(resource.urn) is cascade
                if is_own and not (resource.pending_replacement or self.steps.preview):
                    del deleted_first[resource.urn]
        cascade.finished.set()

    def _replace(
        self,
        registered: RegisteredResource,
        old: Resource,
        provider: Provider | None,
        diff: Diff,
        cascade: Cascade,
    ) -> None:
        new = registered.new
        if old.protect and new.protect:
            raise EngineError(
                f'unable to replace resource "{new.urn}"\nas it is currently marked for protection. To unprotect the '
                "resource, remove the `protect` flag from the resource in your Pulumi program and run `pulumi up`"
            )
        self._decisions.check_inputs_as_new(registered, provider)
        if cascade.resources:
            self._delete_first(cascade)
            self._recreate(registered, old, diff)
        else:
            self.steps.create_resource(new, replaces=old, keep_old=True, diff=diff, alias=registered.alias)
            self.steps.report_replacement(old, new, diff)

    def _delete_first(self, cascade: Cascade) -> None:
        """Delete the resources of the cascade, or wait for another cascade that is deleting them."""
        deleted_first = self._decisions.deleted_first
        for resource in cascade.resources:
            with self._lock:
                owner = deleted_first.get(resource.urn)
            if owner is not None and owner is not cascade:
                owner.finished.wait()
            elif (
                owner is cascade and not resource.pending_replacement
            ):  # an earlier run may have deleted it already
                self.steps.delete_resource(
                    resource,
                    op=events.DELETE_REPLACED,
                    skip_provider=resource.deleted_with in deleted_first,
                    pending_replacement=True,
                )
            if not (resource.pending_replacement or self.steps.preview):
                raise EngineError(f"{resource.urn}, which depends on this resource, could not be deleted")
        self._finish(cascade)

    def _recreate(self, registered: RegisteredResource, old: Resource, diff: Diff | None) -> None:
        """Create the replacement of a resource that has been deleted."""
        diff = diff or Diff(True)
        self.steps.create_resource(registered.new, replaces=old, diff=diff, alias=registered.alias)
        self.steps.report_replacement(old, registered.new, diff)

    # Failures.

    def _fail(self, urn: str, error: EngineError) -> Registration:
        """Answer with a failure. In an update, no new step starts afterwards; a preview shows all failures."""
        if not isinstance(error, StepError):  # a StepError has already been reported with its step
            self.listener.on_message(events.ERROR, urn, str(error))
        self.failed = True
        with self._lock:
            self._failed_urns.add(urn)
        if not self.options.continue_on_error and not self.steps.preview:
            self.stop.stopping.set()
        return Registration(urn, result=FAIL)

    def _skip(self, registered: RegisteredResource) -> Registration:
        """Answer without a step, but report problems with the inputs."""
        if not self.stop.cancelled and not values.has_unknown(registered.goal.inputs):
            self._decisions.check_inputs(registered, self._provider_resources.provider_of(registered.new))
        return self._skipped_registration(registered.new.urn)

    def _skipped_registration(self, urn: str) -> Registration:
        with self._lock:
            self._failed_urns.add(urn)
        return Registration(urn, result=SKIP)


def _registration(new: Resource) -> Registration:
    return Registration(new.urn, new.id, new.outputs)


def _known(outputs: Properties) -> Properties:
    return {key: value for key, value in outputs.items() if not values.has_unknown(value)}
