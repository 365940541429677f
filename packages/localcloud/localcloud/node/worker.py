"""The Kelpie worker 0.7.1 with its quirks (docs/services.md, "Kelpie worker"). Comments name the file of its source."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from localcloud.home import EXIT_REALLOCATE
from localcloud.node.folder_watch import FolderWatch
from localcloud.node.kelpie_api import Heartbeat, KelpieError, WorkerApi
from localcloud.node.transfers import CutBodyError, OutsideError, Transfers, inside, purge

log = logging.getLogger("node")

MAX_FAILURES = 5
GRACE_SECONDS = 3.0
PAUSE_SECONDS = 1.0
PHASES = ("before", "during", "after")


class JobProcess:
    """The job's command. At most one runs at a time."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: str, arguments: list[str], environment: dict[str, str]) -> int:
        """Returns the exit code, negative for a signal. Raises OSError when the command cannot be started."""
        self._process = subprocess.Popen(  # noqa: S603 (a worker runs what the job names)
            [command, *arguments], cwd=self._home, env={**os.environ, **environment}, stdin=subprocess.DEVNULL
        )
        # Poll instead of calling wait(), which holds a lock that end() needs in a signal handler.
        while (code := self._process.poll()) is None:
            time.sleep(0.05)
        self._process = None
        return code

    def interrupt(self) -> None:
        """Cancel: SIGINT to this process only."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """SIGTERM, then SIGKILL."""
        if (process := self._process) is None:
            return
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is None:
            process.kill()


@dataclass(frozen=True)
class IdleLimits:
    """Seconds without a new job before a node asks for another machine; 0: never.

    `setting` is MAX_TIME_WITH_NO_WORK_S. `shorter` is a lower limit for tests, with which the node always reports its last job first.
    """

    setting: float = 0.0
    shorter: float = 0.0

    def is_over(self, seconds: float) -> bool:
        return 0 < self.setting < seconds

    def is_over_shorter_limit(self, seconds: float) -> bool:
        return self.setting > 0 and 0 < self.shorter < seconds


class KelpieWorker:
    """Gets work, does it, reports it (src/index.ts)."""

    def __init__(
        self,
        home: Path,
        api: WorkerApi,
        poll_seconds: float,
        max_heartbeat: float | None,
        transfers: Transfers | None = None,
        idle: IdleLimits | None = None,
    ) -> None:
        self._home, self._api, self._idle = home, api, idle or IdleLimits()
        self._poll, self._max_heartbeat = poll_seconds, max_heartbeat
        self._transfers, self._process = transfers or Transfers(home), JobProcess(home)
        self._failures = 0
        self.uploading: set[str] = set()
        self.stopping = False

    def run(self) -> None:
        """Work until `stopping`, or until the node's folder was removed.

        Raises SystemExit: EXIT_REALLOCATE after MAX_FAILURES failed jobs or without work for too long, 0 after a cut download.
        """
        last_work = time.monotonic()
        while not self.stopping and self._home.exists():
            try:
                job = self._api.work()
            except KelpieError as error:
                log.error("no work: %s", error)
                job = None
            if job is None:
                self._leave_if_idle(time.monotonic() - last_work)
                time.sleep(self._poll)
                continue
            last_work = time.monotonic()
            log.info("received job %s", job["id"])
            self.do(job)

    def end(self) -> None:
        """End the running command: the node is taken away."""
        self._process.end()

    def _leave_if_idle(self, seconds: float) -> None:
        """After a job that took longer than the limit the worker leaves at once, and may not have reported that job (src/index.ts)."""
        if self._idle.is_over(seconds) and self.uploading:
            log.info("no work for %g s: ending after the uploads, on this machine", seconds)
            self.stopping = True
        elif self._idle.is_over(seconds) or (
            self._idle.is_over_shorter_limit(seconds) and not upload_threads()
        ):
            log.info("no work for %g s: asking for another machine", seconds)
            sys.exit(EXIT_REALLOCATE)

    def do(self, job: dict[str, Any]) -> None:
        """Do one job, from its first download to its report. The last uploads continue in a thread."""
        sync: dict[str, list[dict[str, Any]]] = job.get("sync") or {}
        watches: list[FolderWatch] = []

        def stop_watches() -> None:
            for watch in watches:
                watch.stop()

        def on_cancel() -> None:
            stop_watches()
            self._process.interrupt()

        heartbeat = Heartbeat(self._api, job["id"], self._heartbeat_seconds(job), on_cancel)
        try:
            for entry in sync.get("before") or []:
                self._transfers.download(entry, compressed=bool(job.get("compression")))
        except CutBodyError as error:
            # The real worker does not log this.
            log.info(
                "the download of %s was cut: hanging, like the real worker, until the job is canceled", error
            )
            heartbeat.wait_for_cancel()
            sys.exit(0)
        watches += self._start_watches(sync.get("during") or [], job)
        try:
            code = self._execute(job)
            stop_watches()
            self._report(job, code, heartbeat, sync.get("after") or [])
        except (
            OSError,
            ValueError,
            OutsideError,
        ) as error:  # ValueError: a null byte in an argument or environment variable
            log.error("error processing work: %s", error)
            self._report_failure(job)
            heartbeat.stop()
        stop_watches()
        for local_path in {entry["local_path"] for phase in PHASES for entry in sync.get(phase) or []}:
            purge(self._home, local_path)

    def _heartbeat_seconds(self, job: dict[str, Any]) -> float:
        seconds = float(job.get("heartbeat_interval") or 30)
        return min(seconds, self._max_heartbeat or seconds)

    def _start_watches(self, entries: list[dict[str, Any]], job: dict[str, Any]) -> list[FolderWatch]:
        watches, compressed = [], bool(job.get("compression"))
        for entry in entries:
            with contextlib.suppress(OutsideError):
                folder = inside(self._home, entry["local_path"])
                watches.append(FolderWatch(folder, entry, self._transfers, compressed=compressed))
        return watches

    def _execute(self, job: dict[str, Any]) -> int:
        folders = {
            f"{name}_DIR": str(self._home / ".kelpie" / name.lower())
            for name in ("INPUT", "OUTPUT", "CHECKPOINT")
        }
        state_file = str(self._home / "kelpie-state.json")
        own = {**folders, "KELPIE_JOB_ID": job["id"], "KELPIE_STATE_FILE": state_file}
        environment = {**(job.get("environment") or {}), **own}
        code = self._process.run(job["command"], job.get("arguments") or [], environment)
        log.info("job %s: the command ended with %d", job["id"], code)
        return code

    def _report(
        self, job: dict[str, Any], code: int, heartbeat: Heartbeat, after: list[dict[str, Any]]
    ) -> None:
        """Report how the command ended. A signal is taken for an interruption, which is not reported."""
        if code == 0 and after:
            time.sleep(PAUSE_SECONDS)  # the real worker's comment: "to ensure the output files are written"
            moved = [(self._move(entry, job["id"]), entry) for entry in after]
            # Upload in the background: the worker asks for its next job meanwhile.
            self.uploading.add(job["id"])
            name = f"finalize-{job['id']}"
            threading.Thread(target=self._finalize, args=(job, moved, heartbeat), name=name).start()
            return
        if code > 0:
            self._report_failure(job)
        heartbeat.stop()
        if code == 0:
            self._api.completed(job["id"])

    def _move(self, entry: dict[str, Any], job_id: str) -> Path:
        """Rename the folder and create an empty one in its place. Raises OSError when it is missing."""
        folder = inside(self._home, entry["local_path"])
        moved = folder.with_name(f"{folder.name}-{job_id}")
        try:
            folder.rename(moved)
        finally:
            folder.mkdir(parents=True, exist_ok=True)
        return moved

    def _finalize(
        self, job: dict[str, Any], moved: list[tuple[Path, dict[str, Any]]], heartbeat: Heartbeat
    ) -> None:
        for folder, entry in moved:
            self._transfers.upload_folder(folder, entry, compressed=bool(job.get("compression")))
        self.uploading.discard(job["id"])
        heartbeat.stop()
        try:
            self._api.completed(job["id"])
            log.info("job %s is completed", job["id"])
        except KelpieError as error:
            log.error("job %s: %s", job["id"], error)
        for folder, _ in moved:
            shutil.rmtree(folder, ignore_errors=True)

    def _report_failure(self, job: dict[str, Any]) -> None:
        self._api.failed(job["id"])
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            log.error("%d jobs failed on this node: asking for another machine", self._failures)
            sys.exit(EXIT_REALLOCATE)


def upload_threads() -> list[threading.Thread]:
    """The threads that still upload the results of a job."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("finalize-")]


def run_worker(worker: KelpieWorker) -> int:
    """Run the worker until it ends; return the exit code."""

    def on_taken_away(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(
            1, b"taken away\n"
        )  # do not use the logger: the signal may have interrupted it in the middle of a line
        worker.end()
        os._exit(EXIT_REALLOCATE)  # exit without waiting for transfers

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        worker.stopping = True

    signal.signal(signal.SIGTERM, on_taken_away)
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        worker.run()
        for thread in upload_threads():
            thread.join()
    except KelpieError as error:
        log.error("%s", error)
        return 1
    except SystemExit as end:
        return int(end.code or 0)
    return 0
