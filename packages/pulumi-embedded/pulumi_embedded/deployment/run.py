"""The four commands that look at or change resources: preview, up, refresh, destroy."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pulumi_embedded.cli.session import Session, provider_config
from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.deletions import Deletes
from pulumi_embedded.deployment.deployment import Deployment, DeploymentSettings
from pulumi_embedded.deployment.events import Listener
from pulumi_embedded.deployment.refresh import Refresh
from pulumi_embedded.deployment.steps import Steps
from pulumi_embedded.deployment.targets import ALL, Targets
from pulumi_embedded.errors import EngineError
from pulumi_embedded.program.monitor import EngineServer, Monitor
from pulumi_embedded.program.processes import Child
from pulumi_embedded.program.runner import TOLD
from pulumi_embedded.project import config_schema
from pulumi_embedded.providers.registry import Providers
from pulumi_embedded.providers.stack_references import StackReferences
from pulumi_embedded.state import history, locks, snapshot
from pulumi_embedded.state.locks import Lock
from pulumi_embedded.state.serialization import Pending, StackState
from pulumi_embedded.state.snapshot import StateSnapshot


@dataclass(frozen=True)
class RunOptions:
    """How to run."""

    refresh: bool = False
    continue_on_error: bool = False
    parallel: int = 16
    clear_pending_creates: bool = False
    run_program: bool = False
    targets: Targets = ALL
    message: str = ""


class Run:
    """One engine run on one stack: the preview and the update of one command.

    The children are started before anything else is read, so that they import meanwhile.
    """

    def __init__(self, session: Session, listener: Listener, options: RunOptions, *, program: bool) -> None:
        self._session = session
        self._options = options
        self.listener = listener
        if program:
            _check_program(session)
        self._program = Child.script("program/runner.py", session.project) if program else None
        self._running: Child | None = None
        stacks = StackReferences(session.project.name, session.outputs_of)
        self._providers = Providers(session.project, self.say, options.parallel, stacks)
        self._snapshot: StateSnapshot | None = None
        self._lock: Lock | None = None
        self.cancelled = False
        self.when_cancelled: Callable[[], None] = lambda: None
        try:
            self.stack = session.stack
            self._config = session.config()
            self._deployment = session.deployment()
            self._crypter = session.crypter(self._config, self._deployment)
            if self._crypter is not None:
                self._crypter.check()
            if program:
                values = self._config.values(session.project, self._crypter)
                config_schema.check(self.stack.name, session.project, values)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the children and give the stack back."""
        if self._program is not None:
            self._program.kill()
        self._providers.close()
        if self._lock is not None:
            self._lock.release()

    # The commands.

    def preview(self) -> bool:
        """What an update would do; whether it could."""
        state = self._session.load(self._deployment)
        good = not self._options.refresh or self._refresh(state, None)
        return self._deploy(state, None, {}) and good

    def preview_destroy(self) -> bool:
        """What a destroy would delete."""
        return self._destroy(self._session.load(self._deployment), None, {})

    def preview_refresh(self) -> bool:
        """What a refresh would find."""
        return self._refresh(self._session.load(self._deployment), None)

    def update(self) -> bool:
        """Make the resources what the program says; whether all of them are."""
        return self._changing("update", self._update)

    def destroy(self) -> bool:
        """Delete everything; whether all of it is gone."""
        return self._changing("destroy", self._destroy_all)

    def refresh(self) -> bool:
        """Take over what the providers read; whether everything could be read."""
        return self._changing("refresh", self._refresh_all)

    def _update(self, state: StackState, shot: StateSnapshot, pending: dict[int, Pending]) -> bool:
        self._tell_of_pending(shot, pending)
        if self._options.refresh and not self._refresh(state, shot):
            return False
        return self._deploy(state, shot, pending)

    def _destroy_all(self, state: StackState, shot: StateSnapshot, pending: dict[int, Pending]) -> bool:
        self._tell_of_pending(shot, pending)
        if self._options.refresh and not self._refresh(state, shot):
            return False
        return self._destroy(state, shot, pending)

    def _refresh_all(self, state: StackState, shot: StateSnapshot, pending: dict[int, Pending]) -> bool:
        good = self._refresh(state, shot)
        if self._options.run_program:
            good = self._deploy(state, shot, pending) and good
        if self._options.clear_pending_creates:
            shot.write(end=list(pending))
        else:
            self._tell_of_pending(shot, pending)
        return good

    # Around a change.

    def _changing(
        self, kind: str, change: Callable[[StackState, StateSnapshot, dict[int, Pending]], bool]
    ) -> bool:
        """Lock, recover, load again (a preview has changed what was loaded), change, fold, tell of it, unlock."""
        entry = history.Entry(kind, self._options.message, self._config.stored(self._session.project.name))
        stack, backend = self.stack, self._session.backend
        self._lock = locks.take(backend.store, backend.lock_folder(stack.project, stack.name), self._warn)
        self._deployment = {}  # another run may have changed it; and a large one is not kept twice
        recovered, checkpoint = snapshot.recover(backend, stack)
        if recovered:
            self._warn(f"an earlier update was killed; {recovered} of its steps were added to the state")
        key = self._session.state_crypter(checkpoint.deployment)
        checkpoint = snapshot.take_key(backend, stack, checkpoint, key, self._crypter)
        state = self._session.load(checkpoint.deployment)
        shot = StateSnapshot(backend, stack, self._crypter, checkpoint)
        pending = shot.adopt(state.resources, state.pending)
        shot.open()
        self._snapshot = shot
        try:
            entry.good = change(state, shot, pending)
            return entry.good
        finally:
            lock, self._lock = self._lock, None
            shot.close()  # where it fails, the journal is all there is: the lock stays and keeps the CLI away
            self._note(entry)
            lock.release()

    def _note(self, entry: history.Entry) -> None:
        """Add to the stack's history; where that fails the state is saved all the same."""
        entry.changes = self.listener.changes()
        try:
            history.add(self._session.backend, self.stack, entry)
        except OSError as error:
            self._warn(f"this update could not be noted in the stack's history: {error}")

    def _tell_of_pending(self, shot: StateSnapshot, pending: dict[int, Pending]) -> None:
        """Creates without an outcome are looked at by their providers; nothing can be said of other operations."""
        other = [op for op, operation in pending.items() if operation.type != "creating"]
        for op in other:
            del pending[op]
        if other:
            shot.write(end=other)
        for operation in pending.values():
            self.listener.message(
                events.WARNING,
                operation.resource.urn,
                "an earlier update ended while it was creating this resource, which may therefore exist. Its "
                "provider looks when the resource is created again; `refresh --clear-pending-creates` forgets it",
            )

    # The work.

    def _deploy(self, state: StackState, shot: StateSnapshot | None, pending: dict[int, Pending]) -> bool:
        config = self._config.values(self._session.project, self._crypter)
        settings = DeploymentSettings(
            self.stack.project,
            self.stack.name,
            provider_config(config),
            self._options.continue_on_error,
            self._options.parallel,
            self._options.run_program,
            self._options.targets,
        )
        steps = Steps(self._providers, self.listener, shot, self._options.parallel, pending)
        deployment = Deployment(settings, state, steps, self._providers, self.listener)
        program = _Program(self, deployment, steps, self._options.parallel)
        with _Signals(self, deployment):
            good = program.run(
                {
                    "config": {key: value.text for key, value in config.items()},
                    "secret_keys": [key for key, value in config.items() if value.secret],
                    "project": self.stack.project,
                    "stack": self.stack.name,
                    "organization": "organization",
                    "root_directory": str(self._session.project.folder),
                    "program": str(self._session.project.program_file()),
                    "dry_run": shot is None or self._options.run_program,
                }
            )
        if not good:
            deployment.keep_old_outputs()
        return good

    def _destroy(self, state: StackState, shot: StateSnapshot | None, pending: dict[int, Pending]) -> bool:
        settings = DeploymentSettings(
            self.stack.project, self.stack.name, {}, self._options.continue_on_error, self._options.parallel
        )
        with _Listening(self), _Signals(self, stopping := _Stopping()):
            self._providers.load(state.resources)
            steps = Steps(self._providers, self.listener, shot, self._options.parallel, pending)
            rest = [resource for resource in state.resources if not resource.pending_replacement]
            rest = self._options.targets.among(rest)
            for resource in state.resources:
                if resource.pending_replacement:
                    steps.forget(resource)
            good = Deletes(steps, self.listener, settings, stopping.stopping).run(rest)
        return good and not stopping.cancelled

    def _refresh(self, state: StackState, shot: StateSnapshot | None) -> bool:
        with _Listening(self), _Signals(self, stopping := _Stopping()):
            refresh = Refresh(state, self._providers, self.listener, shot, first=self._options.refresh)
            refresh.targets = self._options.targets
            refresh.stopping = stopping.stopping
            return refresh.run(self._options.parallel)

    def shown_config(self) -> dict[str, str]:
        """The configuration as `--json` shows it."""
        found = self._config.values(self._session.project, self._crypter)
        return {key: "[secret]" if value.secret else value.text for key, value in found.items()}

    def secrets(self) -> list[str]:
        """The texts that must not be shown."""
        return self._config.secrets(self._crypter)

    def cancel(self) -> None:
        """Begin nothing more; what runs is finished and saved."""
        self.cancelled = True
        self.when_cancelled()

    # What the helpers below use.

    def take_program(self) -> Child:
        """The waiting program process, or a new one."""
        child = self._program or Child.script("program/runner.py", self._session.project)
        self._program, self._running = None, child
        return child

    def prepare_next(self) -> None:
        """Start the next program process: it imports while the user decides."""
        self._program = self._program or Child.script("program/runner.py", self._session.project)

    @property
    def goes_on(self) -> bool:
        """Whether to go on after a failure."""
        return self._options.continue_on_error

    def listen(self, server: EngineServer) -> None:
        """Where providers find the engine."""
        self._providers.listen_at(server.address)

    def stop_now(self) -> None:
        """The second Ctrl-C: end the children, save what is known, and leave."""
        lock, shot = self._lock, self._snapshot  # the main thread goes on as its children end
        for child in (self._program, self._running):
            if child is not None:
                child.kill()
        self._providers.kill()
        if shot is not None:
            shot.close()
        if lock is not None:
            lock.release()
        os._exit(1)

    def say(self, line: str) -> None:
        """Pass on what the program or a provider prints."""
        self.listener.message(events.INFO, "", line)

    def _warn(self, text: str) -> None:
        self.listener.message(events.WARNING, "", text)


def _check_program(session: Session) -> None:
    file = session.project.program_file()
    if not file.is_file():
        raise EngineError(f"unable to find the program {file.name} in {file.parent}")


class _Stopping:
    """What Ctrl-C means where no program runs."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.cancelled = False


class _Signals:
    """Ctrl-C once: begin nothing more; twice: stop."""

    def __init__(self, run: Run, target: Any) -> None:
        self._run = run
        self._target = target
        self._count = 0

    def __enter__(self) -> None:
        self._old = {number: signal.signal(number, self._on) for number in (signal.SIGINT, signal.SIGTERM)}
        self._run.when_cancelled = self._cancel
        if self._run.cancelled:
            self._cancel()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if self._count:
            self._run.listener.message(events.ERROR, "", "update canceled")

    def _on(self, _number: int, _frame: object) -> None:
        self._count += 1
        if self._count > 1:
            threading.Thread(target=self._run.stop_now).start()  # the interrupted code may hold locks
            return
        self._run.cancel()
        self._run.listener.message(
            events.INFO,
            "",
            "canceling: what is running is being finished and saved; Ctrl-C again stops at once",
        )

    def _cancel(self) -> None:
        self._target.cancelled = True
        self._target.stopping.set()


class _Listening:
    """A server for providers' messages, where no program runs."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __enter__(self) -> None:
        self._server = EngineServer(4)
        self._server.start(Monitor(_Nobody(), self._run.listener, ""))
        self._run.listen(self._server)

    def __exit__(self, *_: object) -> None:
        self._server.stop()


class _Nobody:
    """Registers nothing."""

    def _refuse(self, *_: Any) -> Any:
        raise EngineError("no program is running")

    register = read = invoke = register_outputs = program_is_done = _refuse


class _Program:
    """The program's process during one deployment."""

    def __init__(self, run: Run, deployment: Deployment, steps: Steps, parallel: int) -> None:
        self._run = run
        self._steps = steps
        self._deployment = deployment
        self._parallel = parallel
        self._deleted = threading.Event()
        self._registered = threading.Event()
        self._status: int | None = None

    def run(self, settings: dict[str, Any]) -> bool:
        """Run the program to its end, and the deletions after it; whether everything worked."""
        deployment = self._deployment
        deployment.shut_down = self._program_is_done
        monitor = Monitor(deployment, self._run.listener, settings["root_directory"])
        server = EngineServer(self._parallel)
        server.start(monitor)
        self._run.listen(server)
        child = self._run.take_program()
        child.send({**settings, "address": server.address, "parallel": self._parallel})
        threads = child.follow(self._run.say)
        ended = threading.Thread(target=self._wait_for, args=(child,), daemon=True)
        ended.start()
        try:
            self._registered.wait()
            done = self._status is None or self._status == 0
            if done and not deployment.cancelled and (not deployment.failed or self._run.goes_on):
                deployment.delete_the_rest()
            self._deleted.set()
            ended.join()
            self._steps.drain()
            for thread in threads:
                thread.join(1)
        finally:
            child.kill()
            server.stop()
        return self._report(monitor)

    def _program_is_done(self) -> None:
        self._registered.set()
        self._deleted.wait()

    def _wait_for(self, child: Child) -> None:
        self._status = child.wait()
        self._registered.set()

    def _report(self, monitor: Monitor) -> bool:
        listener = self._run.listener
        if monitor.failure is not None:
            listener.message(events.ERROR, "", str(monitor.failure))
        if self._status not in (0, TOLD) and not monitor.failure:
            listener.message(events.ERROR, "", f"Program exited with non-zero exit code: {self._status}")
        return (
            self._status == 0
            and monitor.failure is None
            and not self._deployment.failed
            and not self._deployment.cancelled
        )
