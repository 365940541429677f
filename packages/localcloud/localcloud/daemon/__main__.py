"""The daemon, which `localcloud start` starts: `python -m localcloud.daemon --home DIR [--report FD]`.

It writes one JSON object to the file descriptor FD: {"ok": true} once all servers answer, or {"exit": code, "error": message}.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from localcloud import processes
from localcloud.daemon.ports import PortError, QuietServer, bind_api_and_s3
from localcloud.daemon.services import LocalServices, connection_of
from localcloud.home import EXIT_FAILED, EXIT_PORT, Home, HomeError, HomeState, write_json

log = logging.getLogger(__name__)

HOME_CHECK_SECONDS = 1.0


class StartReport:
    """The pipe to the `start` that waits for this daemon. It can be used once."""

    def __init__(self, handle: int | None) -> None:
        self._handle = handle

    def send(self, message: dict[str, Any]) -> None:
        if self._handle is None:
            return
        with contextlib.suppress(
            OSError
        ):  # the command that started the daemon no longer waits for its report
            os.write(self._handle, json.dumps(message).encode() + b"\n")
            os.close(self._handle)
        self._handle = None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m localcloud.daemon")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--report", type=int)
    options = parser.parse_args()
    # The daemon's files contain keys and private images, so only the user may read them.
    os.umask(0o077)
    # `kill -USR1 PID` writes the stack traces of all threads to the log.
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # httpx would log every URL, and a webhook's URL may contain a key.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return run_daemon(Home(options.home), StartReport(options.report))


def run_daemon(home: Home, report: StartReport) -> int:
    """Run the daemon of this home until it is stopped; return the exit code."""
    lock = processes.try_lock(home.daemon_lock)
    if lock is None:
        report.send({"exit": EXIT_FAILED, "error": f"another daemon holds {home.daemon_lock}"})
        return EXIT_FAILED
    with lock:
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        try:
            previous = home.load_state()
            sockets = bind_api_and_s3(home.load_settings().port, previous)
            ports = [one.getsockname()[1] for one in sockets]
            state = replace(previous, api_port=ports[0], s3_port=ports[1])
            home.save_state(state)
            asyncio.run(serve_cloud(home, state, sockets, keep_nodes=state == previous, report=report))
        except PortError as error:
            report.send({"exit": EXIT_PORT, "error": str(error)})
            return EXIT_PORT
        except (HomeError, OSError, RuntimeError) as error:
            log.exception("the daemon ends")
            report.send({"exit": EXIT_FAILED, "error": str(error)})
            return EXIT_FAILED
    return 0


async def serve_cloud(
    home: Home,
    state: HomeState,
    sockets: tuple[socket.socket, socket.socket],
    *,
    keep_nodes: bool,
    report: StartReport,
) -> None:
    """Run everything until it is stopped. The nodes end before the servers.

    `keep_nodes`: nodes of a killed daemon are kept, because the addresses that they know are still right.
    """
    services = LocalServices(home, state)
    services.jobs.resume()
    api, s3 = QuietServer(services.api()), QuietServer(services.s3())
    # The S3 server has its own thread and event loop, so that writing a large object to disk
    # does not delay heartbeats.
    s3_thread = threading.Thread(target=lambda: asyncio.run(s3.serve([sockets[1]])), name="s3")
    s3_thread.start()
    api_task = asyncio.create_task(api.serve([sockets[0]]))
    try:
        while not (api.started and s3.started):
            if api_task.done() or not s3_thread.is_alive():
                raise RuntimeError(f"a server did not start; see {home.daemon_log}")
            await asyncio.sleep(0.01)
        write_json(home.connection, connection_of(home, state))
        services.supervisor.take_over_nodes(keep=keep_nodes)
        report.send({"ok": True})
        log.info("running, pid %s, ports %s and %s", os.getpid(), state.api_port, state.s3_port)
        await _run_until_stopped(home, services)
    finally:
        home.connection.unlink(missing_ok=True)
        api.should_exit = s3.should_exit = True
        await api_task
        await asyncio.to_thread(s3_thread.join)
        await services.webhooks.close()
        services.database.close()
    log.info("stopped")


async def _run_until_stopped(home: Home, services: LocalServices) -> None:
    supervising = asyncio.create_task(services.supervisor.run())
    tasks = [asyncio.create_task(one) for one in services.background_tasks()]
    await _wait_for_stop(home)
    for task in tasks:
        task.cancel()
    await services.supervisor.close()
    await asyncio.wait([supervising, *tasks])


async def _wait_for_stop(home: Home) -> None:
    """Wait for SIGTERM or SIGINT, or until the home folder was removed, so that no daemon outlives its files."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while home.daemon_lock.exists():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), HOME_CHECK_SECONDS)
            return
    log.warning("%s was removed; stopping", home.path)


if __name__ == "__main__":
    sys.exit(main())
