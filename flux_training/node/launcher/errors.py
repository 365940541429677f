"""How a run ends, and the errors that end it."""

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """What the launcher exits with. The queue counts everything but 0 as a failure."""

    FINISHED = 0  # The weights are verified and in the model folder.
    CONFIG_UNUSABLE = 2  # A file in training-config/ or the job's environment cannot be used.
    FILES_MISSING = 3  # Images or checkpoints could not be downloaded, or are damaged.
    NODE_UNUSABLE = 4  # This node failed for a reason that has no exit code of its own.
    TRAINER_FAILED = 5  # The trainer exited with an error.
    TRAINER_KILLED = 6  # The trainer was killed by a signal; most often the node ran out of memory.
    STALLED = 7  # The trainer finished no step for stall_minutes.
    HOURS_USED_UP = 8  # The run has used its max_hours, summed over all restarts; the checkpoints are kept.
    WEIGHTS_UNUSABLE = 9  # The trainer succeeded, but its weights are missing, damaged or of another step.
    DISK_FULL = 10
    NOT_WRITABLE = 11  # A folder or file on this node cannot be written.
    NO_PYTHON = 12  # There is no `python` on this node, or it cannot be started.
    NO_TRAINER = 13  # The image has no run.py of ai-toolkit.
    CLOCK_JUMPED = 14  # The clock of this node jumped back.
    NO_PROGRESS = 15  # MAX_RESTARTS starts in a row brought no new checkpoint.
    TRAINING_FAULTY = 16  # Too many batches were skipped, or had a loss that is not a number.
    LAUNCHER_FAULT = 70  # The launcher has a bug.


_BY_ERRNO = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ExitCode.DISK_FULL)
_BY_ERRNO |= dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), ExitCode.NOT_WRITABLE)


class RunEndedError(Exception):
    """The run ends: as a counted failure with exit code `code`, or, if that is negative, by a signal."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnsoundFileError(Exception):
    """A checkpoint or optimizer file cannot be used."""


def code_of_os_error(error: OSError) -> ExitCode:
    return _BY_ERRNO.get(error.errno or 0, ExitCode.NODE_UNUSABLE)
