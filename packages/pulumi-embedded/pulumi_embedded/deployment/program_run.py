"""The program's process during one deployment, and the gRPC server it talks to."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.deployment import Deployment
from pulumi_embedded.errors import EngineError
from pulumi_embedded.program.grpc_stubs import GRPC_OPTIONS, engine_pb2_grpc, resource_pb2_grpc
from pulumi_embedded.program.monitor import Monitor
from pulumi_embedded.program.processes import ChildProcess
from pulumi_embedded.program.runner import ALREADY_REPORTED
from pulumi_embedded.providers.registry import ProviderRegistry


@contextmanager
def running_server(
    monitor: Monitor, providers: ProviderRegistry, parallel: int, on_stop: Callable[[], None]
) -> Iterator[str]:
    """Serve the program and the providers. Yields the server's address."""
    # The Pulumi SDK sends requests from up to parallel * 4 threads, and each request waits for its step to
    # end. With fewer server threads, requests could deadlock.
    server = grpc.server(ThreadPoolExecutor(max_workers=parallel * 4 + 64), options=GRPC_OPTIONS)
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(monitor, server)
    engine_pb2_grpc.add_EngineServicer_to_server(monitor, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    providers.set_address(address)
    try:
        yield address
    finally:
        on_stop()
        server.stop(0)  # current calls fail


class NoProgram:
    """The registrar of a run without a program, which only serves messages of providers."""

    def _refuse(self, *_: Any) -> Any:
        raise EngineError("no program is running")

    register_resource = read_resource = invoke_function = register_outputs = end_registrations = _refuse


@dataclass
class ProgramRun:
    """Runs the program of one deployment, and the deletions after it."""

    child: ChildProcess
    deployment: Deployment
    _deleted: threading.Event = field(default_factory=threading.Event, init=False)
    _registered: threading.Event = field(default_factory=threading.Event, init=False)
    _status: int | None = field(default=None, init=False)

    def run_program(self, settings: dict[str, Any], on_line: Callable[[str], None]) -> bool:
        """Run the program to its end, and return whether everything succeeded."""
        self.deployment.on_program_done = self._on_program_done
        parallel = self.deployment.options.parallel
        monitor = Monitor(self.deployment, self.deployment.listener, settings["root_directory"])
        with running_server(monitor, self.deployment.providers, parallel, self.child.kill) as address:
            self.child.send_settings({**settings, "address": address, "parallel": parallel})
            output = self.child.forward_output(on_line)
            waiter = threading.Thread(target=self._wait, daemon=True)
            waiter.start()
            self._registered.wait()
            if self._may_delete():
                self.deployment.delete_undeclared()
            self._deleted.set()
            waiter.join()
            self.deployment.steps.wait_until_idle()
            for thread in output:
                thread.join(1)
        return self._report(monitor)

    def _may_delete(self) -> bool:
        has_succeeded = self._status is None or self._status == 0
        goes_on = not self.deployment.failed or self.deployment.options.continue_on_error
        return has_succeeded and not self.deployment.stop.cancelled and goes_on

    def _on_program_done(self) -> None:
        self._registered.set()
        self._deleted.wait()

    def _wait(self) -> None:
        self._status = self.child.wait()
        self._registered.set()

    def _report(self, monitor: Monitor) -> bool:
        if monitor.failure is not None:
            self.deployment.listener.on_message(events.ERROR, "", str(monitor.failure))
        elif self._status not in (0, ALREADY_REPORTED):
            self.deployment.listener.on_message(
                events.ERROR, "", f"Program exited with non-zero exit code: {self._status}"
            )
        failed = self.deployment.failed or self.deployment.stop.cancelled
        return self._status == 0 and monitor.failure is None and not failed
