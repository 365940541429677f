"""Runs one training job from its first download to its verified weights.

The Kelpie worker starts it, through the bootstrap, in the folder that holds the trainer. It downloads the images and the
checkpoint to go on from, runs the trainer, writes progress.json and loss.csv, checks the final weights, and only then
makes the folder with the results: without that folder the worker cannot report the job as completed.

Exit codes: errors.py. Canceled (SIGINT) or interrupted (SIGTERM, or the worker is gone), it dies by that signal once the
trainer has ended: the worker takes death by a signal for an interruption and counts no failure.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path

from flux_training.node.launcher import process
from flux_training.node.launcher.bucket import BucketClient, BucketError, Timeouts, bucket_from_environment
from flux_training.node.launcher.dataset import bring_dataset, dataset_folders
from flux_training.node.launcher.downloads import Download, DownloadBatch, DownloadProgress
from flux_training.node.launcher.errors import (
    ExitCode,
    RunEndedError,
    UnsoundFileError,
    code_of_os_error,
)
from flux_training.node.launcher.process import pause, say
from flux_training.node.launcher.progress import (
    MAX_CURVE_BYTES,
    MAX_PROGRESS_BYTES,
    LaunchState,
    ProgressWriter,
    now,
)
from flux_training.node.launcher.restore import CheckpointRestore, ResumePoint
from flux_training.node.launcher.retries import RetryingBucket
from flux_training.node.launcher.settings import (
    DATASET_FOLDER,
    MODEL_FOLDER,
    NOISE_STAGES,
    OUTPUT_FOLDER,
    UPLOAD_FOLDER,
    RunSettings,
    read_manifest,
    read_settings,
)
from flux_training.node.launcher.trainer import check_node, train
from flux_training.node.launcher.uploads import STAGING_FOLDER, UploadFolder
from flux_training.node.launcher.weights import digest_of_stages, sha256, weights_step

END_STATES = {
    0: LaunchState.FINISHED,
    -signal.SIGINT: LaunchState.CANCELED,
    -signal.SIGTERM: LaunchState.INTERRUPTED,
}


class Launch:
    """One start of a run on this node."""

    def __init__(self, settings: RunSettings) -> None:
        limits = settings.limits
        self.settings, self._attempts = settings, int(limits.download_attempts)
        timeouts = Timeouts(limits.connect_seconds, limits.read_seconds)
        self._client: BucketClient = bucket_from_environment(settings.bucket, timeouts)
        self.bucket = RetryingBucket(self._client, self._attempts)
        self._started_at = time.monotonic()
        self._deadline = self._started_at + limits.download_minutes * 60
        prefix = settings.output_prefix
        self.progress = ProgressWriter(
            settings,
            self.bucket.get_bytes(f"{prefix}progress.json", MAX_PROGRESS_BYTES),
            self.bucket.get_bytes(f"{prefix}loss.csv", MAX_CURVE_BYTES),
        )

    def run(self) -> None:
        """Raises RunEndedError."""
        images = read_manifest(self.settings)
        check_node(self.settings)
        resume = self._restore()
        self.progress.resume(resume.step)
        if not resume.is_final:
            self.progress.check_hours()
            bring_dataset(self.settings, images, self._download)
            self._train(resume)
        publish(self.settings)
        self.progress.step = self.settings.steps

    def _restore(self) -> ResumePoint:
        progress = self.progress
        restore = CheckpointRestore(
            self.settings, self.bucket, self._download, progress.digests, progress.earlier.has_digests
        )
        return restore.run(were_lost=progress.lost_checkpoints, on_lost=self._note_lost)

    def _note_lost(self) -> None:
        self.progress.lost_checkpoints = True

    def _download(self, downloads: list[Download]) -> None:
        batch = DownloadBatch(self._client, downloads, self._attempts)
        batch.run(self._deadline, self._on_download)

    def _on_download(self, done: DownloadProgress) -> None:
        self.progress.download_seconds = time.monotonic() - self._started_at
        self.progress.write(LaunchState.STARTING, str(done))

    def _train(self, resume: ResumePoint) -> None:
        uploads = UploadFolder(self.settings, resume.restored, self._delete_object, self.progress.digests)
        uploads.start()
        try:
            story = train(self.settings, self.progress)
        except RunEndedError as end:
            if end.code < 0:
                uploads.abandon()
                raise
            uploads.stop()
            # If the trainer crashes after saving the final weights, for instance during the last samples, the run still
            # succeeds.
            if end.code == ExitCode.TRAINING_FAULTY or final_fault(self.settings):
                raise
            say(f"launch: the weights are complete, although {end}")
            return
        uploads.stop()
        self.progress.write(LaunchState.VERIFYING, "")
        if fault := final_fault(self.settings):
            raise RunEndedError(ExitCode.WEIGHTS_UNUSABLE, f"{fault}: {story}")

    def _delete_object(self, name: str) -> None:
        """The trainer pruned a restored file, which the worker knows nothing of."""
        try:
            self.bucket.delete(f"{self.settings.output_prefix}{name}")
        except BucketError as error:
            say(f"launch: {name} stays in the bucket: {error}")

    def finish(self, code: int, message: str) -> None:
        """The last progress.json, twice unless it is urgent: the worker drops a change that comes during an upload."""
        state = END_STATES.get(code, LaunchState.FAILED)
        self.progress.write(state, message if code >= 0 else "", force=True)
        for _ in range(2 if code >= 0 else 0):
            pause(self.settings.limits.settle_seconds / 2)
            self.progress.write(force=True)


# ---- the result


def final_fault(settings: RunSettings) -> str | None:
    faults = (_file_fault(path, settings.steps) for path in settings.final_weights)
    return next(filter(None, faults), None)


def _file_fault(path: Path, steps: int) -> str | None:
    if not path.is_file():
        return f"there is no {path}"
    try:
        step = weights_step(path)
    except UnsoundFileError as error:
        return f"{path}: {error}"
    return None if step == steps else f"{path} is of step {step}, not {steps}"


def publish(settings: RunSettings) -> None:
    """The folder with the weights and done.json appears in one rename."""
    files, folder = settings.final_weights, Path(f".model-{settings.run_id}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in files:
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copyfile(path, folder / path.name)
    digests = [sha256(path) for path in files]
    done: dict[str, object] = {
        "version": 1,
        "job": settings.job,
        "run_id": settings.run_id,
        "steps": settings.steps,
        "size": sum(path.stat().st_size for path in files),
        "sha256": digests[0],
        "finished_at": now(),
    }
    if len(files) > 1:
        done |= {"sha256": digest_of_stages(digests), "stages": dict(zip(NOISE_STAGES, digests, strict=True))}
    (folder / "done.json").write_text(json.dumps(done, indent=1), "utf-8")
    folder.rename(MODEL_FOLDER)


# ---- the process


def prepare(settings: RunSettings) -> None:
    """Removes what an earlier job left. An empty model/ would pass for a result; the worker only clears its own folders."""
    for folder in (MODEL_FOLDER, OUTPUT_FOLDER, STAGING_FOLDER, *dataset_folders()):
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
    if not (UPLOAD_FOLDER / "run.json").is_file():
        message = f"{UPLOAD_FOLDER}/run.json is missing: the worker uploads nothing from a folder that it did not make"
        raise RunEndedError(ExitCode.FILES_MISSING, message)
    for folder in (settings.output_folder, DATASET_FOLDER):
        folder.mkdir(parents=True)


def launch() -> int:
    """The exit code; negative: the signal to die by."""
    started: Launch | None = None
    code, message = 0, ""
    try:
        settings = read_settings()
        prepare(settings)
        started = Launch(settings)
        started.run()
    except RunEndedError as end:
        code, message = end.code, str(end)
    except BucketError as error:
        code, message = ExitCode.FILES_MISSING, f"the bucket cannot be used: {error}"
    except OSError as error:
        code, message = code_of_os_error(error), f"{error.filename or 'this node'}: {error.strerror}"
    except Exception as error:  # noqa: BLE001 - whatever it is, the queue must count it
        code, message = ExitCode.LAUNCHER_FAULT, f"fault of the launcher: {type(error).__name__}: {error}"
    ended = "finished" if not code else f"failed ({int(code)})" if code > 0 else "stopped"
    say(f"launch: {ended}{f': {message}' if message else ''}")
    try:
        if started:
            started.finish(code, message)
    except RunEndedError as end:
        # The job was stopped in its last seconds: a failure still counts, but results can no longer be uploaded.
        return code or end.code
    finally:
        clean()
    return code


def clean() -> None:
    """Leaves neither images nor weights on a stranger's disk. The worker removes the folders that it made."""
    for folder in (OUTPUT_FOLDER, STAGING_FOLDER, *dataset_folders()):
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    process.start()
    process.end(launch())
