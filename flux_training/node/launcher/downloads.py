"""Downloads several objects at a time. A break is resumed where it happened; wrong bytes are fetched again."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flux_training.node.launcher.bucket import BucketClient, BucketError, WrongContentError
from flux_training.node.launcher.errors import ExitCode, RunEndedError, code_of_os_error
from flux_training.node.launcher.process import check_stopped, say
from flux_training.node.launcher.retries import pause_seconds

MAX_PARALLEL = 8
MAX_WRONG_CONTENTS = 3
# An attempt that downloads at least this many bytes counts as progress and resets the count of failures.
PROGRESS_BYTES = 1 << 20


@dataclass(frozen=True)
class Download:
    """An object, and the file it is for. Without `sha256` only the size is checked."""

    key: str
    path: Path
    size: int
    sha256: str = ""

    @property
    def partial_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part")


@dataclass(frozen=True)
class DownloadProgress:
    """How far a batch of downloads is."""

    files: int
    all_files: int
    received_bytes: int
    all_bytes: int

    def __str__(self) -> str:
        megabytes = f"{self.received_bytes / 1e6:.1f} of {self.all_bytes / 1e6:.1f} MB"
        return f"downloading: {self.files} of {self.all_files} files, {megabytes}"


OnDownload = Callable[[DownloadProgress], None]


class _AbandonedError(Exception):
    """Another download of the batch failed, or the job ends."""


class DownloadBatch:
    """Downloads that are all needed: the first one that fails ends the batch."""

    def __init__(self, client: BucketClient, downloads: Sequence[Download], attempts: int) -> None:
        self._client, self._downloads, self._attempts = client, downloads, attempts
        self._pending: queue.SimpleQueue[Download] = queue.SimpleQueue()
        self._lock, self._abandoned = threading.Lock(), threading.Event()
        self._received, self._finished = 0, 0
        self._failure: RunEndedError | None = None
        for download in downloads:
            self._pending.put(download)

    def run(self, deadline: float, on_progress: OnDownload) -> None:
        """Download until all files are complete. Raises RunEndedError; no file is left half-written under its own name."""
        threads = min(MAX_PARALLEL, len(self._downloads))
        for number in range(threads):
            threading.Thread(target=self._work, name=f"download-{number}", daemon=True).start()
        try:
            while self._finished < len(self._downloads):
                check_stopped()
                if self._failure:
                    raise self._failure
                on_progress(self.progress)
                if time.monotonic() > deadline:
                    message = f"the time for downloads is over: {self.progress}"
                    raise RunEndedError(ExitCode.FILES_MISSING, message)
                time.sleep(0.02)
        finally:
            self._abandoned.set()

    @property
    def progress(self) -> DownloadProgress:
        all_bytes = sum(download.size for download in self._downloads)
        return DownloadProgress(self._finished, len(self._downloads), self._received, all_bytes)

    def _work(self) -> None:
        with contextlib.suppress(queue.Empty, _AbandonedError):
            while True:
                download = self._pending.get_nowait()
                try:
                    self._fetch(download)
                except BucketError as error:
                    self._fail(ExitCode.FILES_MISSING, f"{download.path}: {error}")
                except OSError as error:
                    self._fail(code_of_os_error(error), f"{download.path}: {error.strerror}")
                except _AbandonedError:
                    raise
                except Exception as error:  # noqa: BLE001 - nobody would notice that this thread has ended
                    self._fail(ExitCode.LAUNCHER_FAULT, f"{download.path}: {type(error).__name__}: {error}")
                with self._lock:
                    self._finished += 1

    def _fail(self, code: ExitCode, message: str) -> None:
        self._failure = self._failure or RunEndedError(code, f"cannot be downloaded: {message}")
        raise _AbandonedError

    def _fetch(self, download: Download) -> None:
        """One object, through breaks. Raises BucketError and OSError."""
        partial = PartialFile(download)
        failures = wrong_contents = 0
        while not partial.is_complete:
            before = partial.received
            try:
                self._attempt(download, partial)
                if not partial.has_right_digest():
                    partial.restart()
                    raise WrongContentError("its content is not what the manifest says")
            except BucketError as error:
                failures = 1 if partial.received - before >= PROGRESS_BYTES else failures + 1
                wrong_contents += isinstance(error, WrongContentError)
                is_wrong = wrong_contents >= MAX_WRONG_CONTENTS
                if not error.retryable or failures >= self._attempts or is_wrong:
                    raise
                say(f"launch: {download.path}: {error}; try {failures + 1} of {self._attempts}")
                if self._abandoned.wait(pause_seconds(failures)):
                    raise _AbandonedError from None
        partial.finish()

    def _attempt(self, download: Download, partial: PartialFile) -> None:
        # Everything has arrived: the object is empty, or the connection broke after its last byte.
        if partial.received == download.size:
            return
        with self._client.get(download.key, partial.received) as body:
            if body.size not in (None, download.size):
                raise WrongContentError(f"it has {body.size} bytes instead of {download.size}")
            partial.begin(body.start, body.version)
            for chunk in body:
                if self._abandoned.is_set():
                    raise _AbandonedError
                partial.write(chunk)
                with self._lock:
                    self._received += len(chunk)
            partial.check_size()


class PartialFile:
    """What has arrived of a download."""

    def __init__(self, download: Download) -> None:
        self._download, self._path = download, download.partial_path
        self._digest, self._version = hashlib.sha256(), ""
        self.received, self.is_complete = 0, False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(b"")

    def begin(self, start: int, version: str) -> None:
        """The next bytes are those from `start` on. Raises BucketError when they belong to another version."""
        if self.received and (start != self.received or version != self._version):
            self.restart()
            if start:
                raise BucketError("the object changed during the download", retryable=True)
        self._version = version

    def write(self, chunk: bytes) -> None:
        """Raises BucketError when these are too many bytes."""
        if self.received + len(chunk) > self._download.size:
            self.restart()
            raise WrongContentError(f"it has more than {self._download.size} bytes")
        with self._path.open("ab") as file:
            file.write(chunk)
        self._digest.update(chunk)
        self.received += len(chunk)

    def check_size(self) -> None:
        """At the end of an answer. Raises BucketError when bytes are missing."""
        if (received := self.received) < self._download.size:
            self.restart()
            raise WrongContentError(f"it has {received} bytes instead of {self._download.size}")

    def restart(self) -> None:
        self._path.write_bytes(b"")
        self._digest, self.received = hashlib.sha256(), 0

    def has_right_digest(self) -> bool:
        self.is_complete = not self._download.sha256 or self._digest.hexdigest() == self._download.sha256
        return self.is_complete

    def finish(self) -> None:
        self._path.replace(self._download.path)
