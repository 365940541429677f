"""How a run ends, and the errors that end it."""

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """What the launcher exits with. The queue counts everything but 0 as a failure."""

    FINISHED = 0  # the weights are verified and are in the model folder
    CONFIG_UNUSABLE = 2  # a file in training-config/ or the job's environment cannot be used
    FILES_MISSING = 3  # images or checkpoints could not be downloaded, or are damaged
    NODE_UNUSABLE = 4  # this node failed for another reason than those below
    TRAINER_FAILED = 5  # the trainer exited with an error
    TRAINER_KILLED = 6  # the trainer was killed by a signal; most often the node ran out of memory
    STALLED = 7  # no step for stall_minutes
    HOURS_USED_UP = 8  # max_hours are used up, summed over all restarts; the checkpoints are kept
    WEIGHTS_UNUSABLE = 9  # the trainer succeeded, but its weights are missing, damaged or of another step
    DISK_FULL = 10
    NOT_WRITABLE = 11  # a folder or file on this node cannot be written
    NO_PYTHON = 12  # there is no `python` on this node, or it cannot be started
    NO_TRAINER = 13  # the image has no run.py of ai-toolkit
    CLOCK_JUMPED = 14  # the clock of this node jumped back
    NO_PROGRESS = 15  # MAX_RESTARTS in a row brought no new checkpoint
    TRAINING_FAULTY = 16  # too many batches were skipped, or had a loss that is no number
    LAUNCHER_FAULT = 70  # a bug in the launcher


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
