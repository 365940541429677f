"""A node: what SaladCloud runs of our container group, a folder that stands for the image, and in it the Kelpie
worker 0.7.1 with its quirks (UPSTREAM.md, "Kelpie worker").

    python -m localcloud.node --home DIR

Its settings come from the environment: KELPIE_API_URL, NODE_TOKEN, SALAD_MACHINE_ID, SALAD_CONTAINER_GROUP_ID,
SALAD_PROJECT_NAME (or SALAD_PROJECT), AWS_* for the bucket, POLL_SECONDS, HEARTBEAT_SECONDS (the most between two
heartbeats, whatever the job says). It logs to standard output.

SIGTERM: SaladCloud takes the node away; the command gets SIGTERM and three seconds, nothing is reported.
SIGINT: ends after the job at hand.  Exit codes: 0 ended, 1 too many failed jobs or Kelpie out of reach at the end of
one, 2 settings missing or a folder that is not a node's.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from localcloud.chaos import conditions
from localcloud.worker.api import Heartbeat, Kelpie, KelpieError
from localcloud.worker.transfer import OutsideError, Transfers, inside, purge
from localcloud.worker.watch import FolderWatch

log = logging.getLogger("node")

IMAGE = Path(__file__).parent / "trainer"
MARK = ".node"  # in every folder that a node has made its own
MOST_FAILURES = 5
GRACE_SECONDS = 3.0
PAUSE_SECONDS = 1.0


def report_of(code: int) -> Literal["completed", "failed", "nothing"]:
    """What the worker reports when the command ended with `code`; negative: by that signal, which it takes for an
    interruption that nobody counts. `completed` needs the folders of `after` too."""
    return "nothing" if code < 0 else "failed" if code else "completed"


class Command:
    """The job's program, at most one at a time."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: str, arguments: list[str], environment: dict[str, str]) -> int:
        """The exit code; negative when a signal ended it. Raises OSError when it cannot be started."""
        self._process = subprocess.Popen(  # noqa: S603 - running what the job names is the worker's purpose
            [command, *arguments], cwd=self._home, env={**os.environ, **environment}, stdin=subprocess.DEVNULL
        )
        while (code := self._process.poll()) is None:  # not wait(): end() must be able to ask from a handler
            time.sleep(0.05)
        self._process = None
        return code

    def interrupt(self) -> None:
        """A cancelled job: SIGINT, to this one process."""
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


class Worker:
    """Gets work, does it, reports it (src/index.ts)."""

    def __init__(
        self,
        home: Path,
        kelpie: Kelpie,
        poll_seconds: float,
        most_heartbeat: float | None,
        transfers: Transfers | None = None,
    ) -> None:
        self._home, self._kelpie = home, kelpie
        self._poll, self._most_heartbeat = poll_seconds, most_heartbeat
        self._transfers, self._command = transfers or Transfers(home), Command(home)
        self._failures = 0
        self.stopping = False

    def run(self) -> None:
        """Until it is told to stop. Raises SystemExit(1) after MOST_FAILURES failed jobs."""
        while not self.stopping:
            try:
                job = self._kelpie.work()
            except KelpieError as err:
                log.error("no work: %s", err)
                job = None
            if job is None:
                time.sleep(self._poll)
                continue
            log.info("received job %s", job["id"])
            self.do(job)

    def end(self) -> None:
        """The node is taken away."""
        self._command.end()

    def do(self, job: dict[str, Any]) -> None:
        """One job from its first download to its report; the last uploads go on in a thread."""
        sync: dict[str, list[dict[str, Any]]] = job.get("sync") or {}
        compressed = bool(job.get("compression"))
        seconds = float(job.get("heartbeat_interval") or 30)
        watches: list[FolderWatch] = []

        def canceled() -> None:
            for watch in watches:
                watch.stop()
            self._command.interrupt()

        heartbeat = Heartbeat(
            self._kelpie, job["id"], min(seconds, self._most_heartbeat or seconds), canceled
        )
        for entry in sync.get("before") or []:
            self._transfers.download(entry, compressed=compressed)
        for entry in sync.get("during") or []:
            with contextlib.suppress(OutsideError):
                folder = inside(self._home, entry["local_path"])
                watches.append(FolderWatch(folder, entry, self._transfers, compressed=compressed))
        try:
            code = self._execute(job)
            for watch in watches:
                watch.stop()
            self._ended(job, code, heartbeat, sync.get("after") or [], compressed=compressed)
        except (OSError, ValueError, OutsideError) as err:  # ValueError: a zero byte in a word or a variable
            log.error("error processing work: %s", err)
            self._failed(job)
            heartbeat.stop()
        for watch in watches:
            watch.stop()
        for local_path in {
            entry["local_path"] for when in ("before", "during", "after") for entry in sync.get(when) or []
        }:
            purge(self._home, local_path)

    def _execute(self, job: dict[str, Any]) -> int:
        folders = {
            f"{name}_DIR": str(self._home / ".kelpie" / name.lower())
            for name in ("INPUT", "OUTPUT", "CHECKPOINT")
        }
        own = {
            **folders,
            "KELPIE_JOB_ID": job["id"],
            "KELPIE_STATE_FILE": str(self._home / "kelpie-state.json"),
        }
        code = self._command.run(
            job["command"], job.get("arguments") or [], {**(job.get("environment") or {}), **own}
        )
        log.info("job %s: the command ended with %d", job["id"], code)
        return code

    def _ended(
        self,
        job: dict[str, Any],
        code: int,
        heartbeat: Heartbeat,
        after: list[dict[str, Any]],
        *,
        compressed: bool,
    ) -> None:
        report = report_of(code)
        if report == "nothing":
            heartbeat.stop()
        elif report == "failed":
            self._failed(job)
            heartbeat.stop()
        elif not after:
            heartbeat.stop()
            self._kelpie.completed(job["id"])
        else:
            time.sleep(PAUSE_SECONDS)  # "to ensure the output files are written"
            moved = [(self._move(entry, job["id"]), entry) for entry in after]
            # Meanwhile the worker asks for the next job.
            arguments = (job, moved, heartbeat, compressed)
            threading.Thread(target=self._finalize, args=arguments, name=f"finalize-{job['id']}").start()

    def _move(self, entry: dict[str, Any], job_id: str) -> Path:
        """Raises OSError when the folder is missing; it is there, empty, afterwards."""
        folder = inside(self._home, entry["local_path"])
        moved = folder.with_name(f"{folder.name}-{job_id}")
        try:
            folder.rename(moved)
        finally:
            folder.mkdir(parents=True, exist_ok=True)
        return moved

    def _finalize(
        self,
        job: dict[str, Any],
        moved: list[tuple[Path, dict[str, Any]]],
        heartbeat: Heartbeat,
        compressed: bool,
    ) -> None:
        for folder, entry in moved:
            self._transfers.upload_folder(folder, entry, compressed=compressed)
        heartbeat.stop()
        try:
            self._kelpie.completed(job["id"])
            log.info("job %s is completed", job["id"])
        except KelpieError as err:
            log.error("job %s: %s", job["id"], err)
        for folder, _ in moved:
            shutil.rmtree(folder, ignore_errors=True)

    def _failed(self, job: dict[str, Any]) -> None:
        self._kelpie.failed(job["id"])
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            log.error("%d jobs failed on this node, which gives itself up", self._failures)
            sys.exit(1)


def prepare(home: Path) -> None:
    """A fresh container: nothing of an earlier life, and the trainer as the image has it. Raises ValueError."""
    home.mkdir(parents=True, exist_ok=True)
    if any(home.iterdir()) and not (home / MARK).exists():
        raise ValueError(
            f"{home} is neither empty nor a node's folder; give --home a folder that may be wiped"
        )
    for path in home.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARK:
            path.unlink()
    (home / MARK).touch()
    for path in sorted(IMAGE.glob("*.py")):
        shutil.copy(path, home)


def main() -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m localcloud.node", description="A node of the local cloud."
    )
    parser.add_argument("--home", type=Path, required=True, help="the node's folder, which is wiped")
    home = parser.parse_args().home.resolve()
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    environment = os.environ
    environment["AWS_EC2_METADATA_DISABLED"] = "true"  # there is no such service here to ask for credentials
    try:
        prepare(home)
        conditions.apply(home)
        kelpie = Kelpie(
            environment["KELPIE_API_URL"],
            environment["NODE_TOKEN"],
            environment.get("SALAD_PROJECT") or environment["SALAD_PROJECT_NAME"],
            environment["SALAD_MACHINE_ID"],
            environment["SALAD_CONTAINER_GROUP_ID"],
        )
        most = environment.get("HEARTBEAT_SECONDS")
        worker = Worker(
            home, kelpie, float(environment.get("POLL_SECONDS") or 10), float(most) if most else None
        )
    except KeyError as err:
        print(
            f"{err.args[0]} is not set in the environment; SaladCloud gives it to every node", file=sys.stderr
        )
        sys.exit(2)
    except (OSError, ValueError) as err:
        print(f"this node cannot start: {err}", file=sys.stderr)
        sys.exit(2)
    os.chdir(home)
    code = run(worker)
    sys.stdout.flush()
    os._exit(code)


def run(worker: Worker) -> int:
    """The worker until its end; gives the exit code."""

    def taken_away(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(1, b"taken away\n")  # the logger may be in the middle of a line
        worker.end()
        os._exit(0)  # whatever is being moved, or waited for

    def told_to_stop(_number: int, _frame: FrameType | None) -> None:
        worker.stopping = True

    signal.signal(signal.SIGTERM, taken_away)
    signal.signal(signal.SIGINT, told_to_stop)
    try:
        worker.run()
        for thread in threading.enumerate():
            if thread.name.startswith("finalize-"):
                thread.join()
    except KelpieError as err:
        log.error("%s", err)
        return 1
    except SystemExit:
        return 1
    return 0


if __name__ == "__main__":
    main()
