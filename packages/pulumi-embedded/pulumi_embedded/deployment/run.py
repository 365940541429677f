"""The commands preview, up, refresh and destroy, without their command line."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.deletions import Deletions
from pulumi_embedded.deployment.deployment import Deployment
from pulumi_embedded.deployment.events import Listener
from pulumi_embedded.deployment.interrupts import Interrupts, StopFlag
from pulumi_embedded.deployment.program_run import NoProgram, ProgramRun, running_server
from pulumi_embedded.deployment.refresh import Refresh
from pulumi_embedded.deployment.steps import StepRunner
from pulumi_embedded.deployment.targets import RunOptions
from pulumi_embedded.errors import CANCELLED, EngineError
from pulumi_embedded.program.monitor import Monitor
from pulumi_embedded.program.processes import ChildProcess
from pulumi_embedded.project import config_schema
from pulumi_embedded.properties.values import Secret
from pulumi_embedded.providers.registry import ProviderRegistry
from pulumi_embedded.providers.stack_references import StackReferences
from pulumi_embedded.session import Session
from pulumi_embedded.state import history, locks, snapshot
from pulumi_embedded.state.locks import Lock
from pulumi_embedded.state.serialization import StackState
from pulumi_embedded.state.snapshot import StateSnapshot

Change = Callable[[StackState, StateSnapshot], bool]


class Run:
    """The preview and the update of one command on one stack.

    Child processes are started first, so that they import their modules while the engine reads the state.
    """

    def __init__(self, session: Session, listener: Listener, options: RunOptions, *, program: bool) -> None:
        self._session = session
        self._options = options
        self.listener = listener
        if program:
            file = session.project.program_file()
            if not file.is_file():
                raise EngineError(f"unable to find the program {file.name} in {file.parent}")
        self._next_program = self._start_program() if program else None
        self._program: ChildProcess | None = None
        stacks = StackReferences(session.project.name, session.outputs_of)
        self._providers = ProviderRegistry(session.project, self._on_output_line, options.parallel, stacks)
        self._snapshot: StateSnapshot | None = None
        self._lock: Lock | None = None
        self._interrupts = Interrupts(listener, self._stop_now)
        try:
            self._load(check_config=program)
        except BaseException:
            self.close()
            raise

    def _load(self, *, check_config: bool) -> None:
        session = self._session
        self.stack = session.stack
        self._config = session.config()
        self._deployment = session.deployment()
        self._crypter = session.crypter(self._config, self._deployment)
        if self._crypter is not None:
            self._crypter.check()
        if check_config:
            values = self._config.values(session.project, self._crypter)
            config_schema.check_config(self.stack.name, session.project, values)

    def close(self) -> None:
        """End the child processes and release the lock."""
        if self._next_program is not None:
            self._next_program.kill()
        self._providers.close()
        if self._lock is not None:
            self._lock.release()

    # Commands. Each method returns whether everything succeeded.

    def preview(self) -> bool:
        state = self._session.load(self._deployment)
        succeeded = not self._options.refresh or self._refresh(state, None)
        return self._deploy(state, None) and succeeded

    def preview_destroy(self) -> bool:
        return self._delete_all(self._session.load(self._deployment), None)

    def preview_refresh(self) -> bool:
        return self._refresh(self._session.load(self._deployment), None)

    def update(self) -> bool:
        return self._change_locked_stack("update", self._refresh_first(self._deploy))

    def destroy(self) -> bool:
        return self._change_locked_stack("destroy", self._refresh_first(self._delete_all))

    def refresh(self) -> bool:
        return self._change_locked_stack("refresh", self._refresh_and_clear_pending_creates)

    def _refresh_first(self, change: Change) -> Change:
        def refresh_and_change(state: StackState, changing: StateSnapshot) -> bool:
            self._report_pending(changing)
            if self._options.refresh and not self._refresh(state, changing):
                return False
            return change(state, changing)

        return refresh_and_change

    def _refresh_and_clear_pending_creates(self, state: StackState, changing: StateSnapshot) -> bool:
        succeeded = self._refresh(state, changing)
        if self._options.run_program:
            succeeded = self._deploy(state, changing) and succeeded
        if self._options.clear_pending_creates:
            changing.record_step(end=list(changing.pending))
        else:
            self._report_pending(changing)
        return succeeded

    # Locking, saving and history.

    def _change_locked_stack(self, kind: str, change: Change) -> bool:
        """Lock the stack, load its state again (the preview has changed the loaded one), change it, save it, unlock."""
        options = self._options
        config = self._config.stored(self._session.project.name)
        entry = history.HistoryEntry(kind, options.message, options.exec_kind, config)
        stack, backend = self.stack, self._session.backend
        self._lock = locks.take_lock(backend.store, backend.lock_folder(stack), self._warn)
        recovered, checkpoint = snapshot.recover_journal(backend, stack)
        if recovered:
            self._warn(f"an earlier update was killed; {recovered} of its steps were added to the state")
        key = self._session.state_crypter(checkpoint.deployment)
        checkpoint = snapshot.reencrypt_state(backend, stack, checkpoint, key, self._crypter)
        state = self._session.load(checkpoint.deployment)
        changing = StateSnapshot(backend, stack, self._crypter, checkpoint)
        changing.open(state)
        self._snapshot = changing
        try:
            entry.succeeded = change(state, changing)
            return entry.succeeded
        finally:
            lock, self._lock = self._lock, None
            changing.close()  # if closing fails, the lock remains: without the lock, the CLI would ignore the journal
            self._add_to_history(entry)
            lock.release()

    def _add_to_history(self, entry: history.HistoryEntry) -> None:
        entry.changes = self.listener.outcome_counts()
        try:
            history.add_entry(self._session.backend, self.stack, entry)
        except OSError as error:
            self._warn(f"the state was saved, but the update could not be added to its history: {error}")

    def _report_pending(self, changing: StateSnapshot) -> None:
        """Warn about creates with an unknown outcome. Other operations are dropped: they will be repeated."""
        other = [op for op, operation in changing.pending.items() if operation.type != "creating"]
        for op in other:
            del changing.pending[op]
        if other:
            changing.record_step(end=other)
        for operation in changing.pending.values():
            self.listener.on_message(
                events.WARNING,
                operation.resource.urn,
                "an earlier update ended while it was creating this resource, which may therefore exist. Its provider "
                "checks that when the resource is created again; `pulumi refresh --clear-pending-creates` forgets it",
            )

    # Deploying, deleting and refreshing.

    def _deploy(self, state: StackState, changing: StateSnapshot | None) -> bool:
        config = self._config.values(self._session.project, self._crypter)
        options = self._options
        steps = StepRunner(self._providers, self.listener, changing, options.parallel)
        inputs = {key: Secret(value.text) if value.secret else value.text for key, value in config.items()}
        deployment = Deployment(self.stack, inputs, options, state, steps, self._providers, self.listener)
        program = ProgramRun(self._take_program(), deployment)
        program_settings: dict[str, Any] = {
            "config": {key: value.text for key, value in config.items()},
            "secret_keys": [key for key, value in config.items() if value.secret],
            "project": self.stack.project,
            "stack": self.stack.name,
            "organization": "organization",
            "root_directory": str(self._session.project.folder),
            "program": str(self._session.project.program_file()),
            "dry_run": changing is None or options.run_program,
        }
        with self._interrupts.handled(deployment.stop):
            succeeded = program.run_program(program_settings, self._on_output_line)
        if not succeeded:
            deployment.keep_old_outputs()
        return succeeded

    def _delete_all(self, state: StackState, changing: StateSnapshot | None) -> bool:
        with self._without_program() as flag:
            self._providers.load_providers(state.resources)
            steps = StepRunner(self._providers, self.listener, changing, self._options.parallel)
            existing = [resource for resource in state.resources if not resource.pending_replacement]
            to_delete = self._options.targets.select_for_delete(existing)
            for resource in state.resources:
                if resource.pending_replacement:
                    steps.drop_from_state(resource)
            succeeded = Deletions(steps, self.listener, flag.stopping, self._options).delete_all(to_delete)
        return succeeded and not flag.cancelled

    def _refresh(self, state: StackState, changing: StateSnapshot | None) -> bool:
        with self._without_program() as flag:
            refresh = Refresh(state, self._providers, self.listener, changing, flag.stopping, self._options)
            return refresh.refresh_all()

    @contextmanager
    def _without_program(self) -> Iterator[StopFlag]:
        flag = StopFlag()
        monitor = Monitor(NoProgram(), self.listener, "")
        with (
            running_server(monitor, self._providers, 4, on_stop=lambda: None),
            self._interrupts.handled(flag),
        ):
            yield flag

    def config_for_display(self) -> dict[str, str]:
        """The configuration as `--json` shows it."""
        found = self._config.values(self._session.project, self._crypter)
        return {key: "[secret]" if value.secret else value.text for key, value in found.items()}

    def secret_texts(self) -> list[str]:
        """The texts that must not be shown."""
        return self._config.secrets(self._crypter)

    def stop_starting_steps(self) -> None:
        """Start no more steps. Running steps are finished and saved."""
        self._interrupts.stop_starting_steps()

    def start_next_program(self) -> None:
        """Start the next program process, which imports its modules while the user answers the question."""
        self._next_program = self._next_program or self._start_program()

    def _start_program(self) -> ChildProcess:
        return ChildProcess.start_script("program/runner.py", self._session.project)

    def _take_program(self) -> ChildProcess:
        self._program, self._next_program = self._next_program or self._start_program(), None
        return self._program

    def _stop_now(self) -> None:
        """Kill the child processes, save what is known, and exit."""
        # Copy these first: the main thread continues when its child processes end, and it resets them.
        lock, changing = self._lock, self._snapshot
        for child in (self._next_program, self._program):
            if child is not None:
                child.kill()
        self._providers.kill()
        if changing is not None:
            changing.close()
        if lock is not None:
            lock.release()
        print(
            "error: update canceled: the steps that were running may have taken effect; the next `pulumi up` tries them again",
            file=sys.stderr,
            flush=True,
        )
        os._exit(CANCELLED)

    def _on_output_line(self, line: str) -> None:
        """Show a line that the program or a provider has printed."""
        self.listener.on_message(events.INFO, "", line)

    def _warn(self, text: str) -> None:
        self.listener.on_message(events.WARNING, "", text)
