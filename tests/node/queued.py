# ruff: noqa: ARG002
# ARG002: the signatures are those of localcloud.node.transfers.
"""The node's own code with a folder for a bucket and Kelpie's own table in a file: a queue that a test can hold.

What is real: localcloud.node.worker.KelpieWorker, its watcher, localcloud.kelpie.jobs. What is not: HTTP and S3 between them.
"""

import asyncio
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from localcloud.database import open_database
from localcloud.home import CloudSettings
from localcloud.kelpie.jobs import JobTable
from localcloud.node.transfers import Transfers

GROUP, USER = "group", "user"


class LocalQueue:
    """The local Kelpie without HTTP. Each thread has its own connection to the database."""

    def __init__(self, path: Path, machine: str = "machine", heartbeat_seconds: float = 0.0) -> None:
        self._path, self._machine, self._cap = path, machine, heartbeat_seconds
        self._local = threading.local()
        self.job_now = ""

    @property
    def _jobs(self) -> JobTable:
        if not hasattr(self._local, "jobs"):
            # The one machine here stands for all machines.
            settings = CloudSettings(heartbeat_seconds=self._cap, ban_machines=False)
            self._local.jobs = JobTable(open_database(self._path), USER, settings)
        jobs: JobTable = self._local.jobs
        return jobs

    def submit(self, command: list[str], **job: Any) -> str:
        body = {"command": command[0], "arguments": command[1:], "sync": {}, "environment": {}} | job
        defaults = {"heartbeat_interval": 30, "max_failures": 3, "webhook": None, "container_group_id": GROUP}
        return str(self._jobs.create(defaults | body)["id"])

    def job(self, identity: str) -> dict[str, Any]:
        return self._jobs.get(identity) or {}

    def cancel(self, identity: str) -> None:
        self._jobs.cancel(identity)

    # ---- what a node asks

    def work(self) -> dict[str, Any] | None:
        return asyncio.run(self._jobs.hand_out(self._machine, GROUP))

    def heartbeat(self, identity: str) -> str:
        return str(self._jobs.heartbeat(identity, self._machine))

    def completed(self, identity: str) -> None:
        self._jobs.complete(identity, self._machine)

    def failed(self, identity: str) -> None:
        self._jobs.fail(identity, self._machine)


class FolderTransfers(Transfers):
    """A folder as a bucket. An object appears at once, as with S3, `upload_seconds` after the file was read."""

    def __init__(self, home: Path, root: Path, upload_seconds: float = 0.0) -> None:
        super().__init__(home)
        self._root, self._seconds = root, upload_seconds
        root.mkdir(parents=True, exist_ok=True)

    def _list(self, bucket: str, prefix: str) -> Iterable[str]:
        return [
            path.relative_to(self._root).as_posix()
            for path in sorted((self._root / prefix).rglob("*"))
            if path.is_file()
        ]

    def _download_one(self, bucket: str, key: str, local: str, *, compressed: bool) -> None:
        path = self._home / local
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._root / key, path)

    def upload(self, path: Path, bucket: str, key: str, *, compressed: bool) -> None:
        part = self._root.with_name(f"{self._root.name}.part-{time.monotonic_ns()}-{threading.get_ident()}")
        try:
            part.write_bytes(path.read_bytes())
        except FileNotFoundError:
            return
        time.sleep(self._seconds)
        (self._root / key).parent.mkdir(parents=True, exist_ok=True)
        part.replace(self._root / key)

    def delete(self, bucket: str, key: str) -> None:
        (self._root / key).unlink(missing_ok=True)
