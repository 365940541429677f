"""Rules about the names of files and job folders."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject, faults_of_rule
from flux_training.training.lint.rules.stack import find_names_that_differ_only_in_case
from flux_training.training.names import JOB_NAME, MAX_JOB_NAME, TAKEN_NAMES
from flux_training.training.train_yml.trainer_config import OUTSIDE

AREA = Area("names")
# The "characters that might require special handling" and "characters to avoid" in S3's documentation:
# docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
AWKWARD = re.compile(r"[{}^%`\[\]\"<>~#|&$@=;:+?*,]")
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
OTHERS_FILES = "the files of the operator's computer would be published"
RENAME = "rename it using only letters, digits, `.`, `_` and `-`"


@AREA.error(
    "job-name",
    f"a job's name has at most {MAX_JOB_NAME} letters, digits, `.`, `_` and `-`, and begins with a letter or digit",
    "rename the folder",
    needed=True,
)
def invalid_job_names(job: Subject) -> Iterator[Problem]:
    if not JOB_NAME.fullmatch(job.name):
        yield Problem(str(job.folder), f"`{job.name}` is not a valid job name")


@AREA.error(
    "job-name-taken",
    f"ai-toolkit treats every file whose name begins with the job's name as one of the job's checkpoints, and the same folder contains {', '.join(TAKEN_NAMES)}",
    "rename the folder",
    needed=True,
)
def job_names_of_trainer_files(job: Subject) -> Iterator[Problem]:
    taken = next((name for name in TAKEN_NAMES if JOB_NAME.match(job.name) and name.startswith(job.name)), "")
    if taken:
        yield Problem(str(job.folder), f"{taken}, a file of the trainer, begins with the job's name")


@AREA.error(
    "name-unsafe",
    "object stores, the Kelpie worker and Windows change or lose files with such names",
    RENAME,
    needed=True,
)
def names_that_object_stores_change(job: Subject) -> Iterator[Problem]:
    for name in _names(job):
        reason = _unsafe(name)
        if reason:
            yield job.dataset_problem(name, reason)


@AREA.warning(
    "name-awkward",
    "these characters have a special meaning for object stores and shells, so some tools fail on the file",
    RENAME,
)
def names_with_special_characters(job: Subject) -> Iterator[Problem]:
    for name in _names(job):
        found = "".join(dict.fromkeys(AWKWARD.findall(name)))
        if found and not _unsafe(name):
            yield job.dataset_problem(name, f"`{found}` in the name")


@AREA.warning(
    "name-unicode",
    "macOS and Linux encode a letter with an accent in two ways, so one file can have two names",
    "rename it without accents, or in composed form (NFC)",
)
def names_that_are_not_nfc(job: Subject) -> Iterator[Problem]:
    for name in _names(job):
        if not _unsafe(name) and not unicodedata.is_normalized("NFC", name):
            yield job.dataset_problem(name, "the name has letters with separate accents (not NFC)")


@AREA.warning(
    "name-reserved", "Windows reserves this name for a device and cannot check out the file", "rename it"
)
def names_reserved_on_windows(job: Subject) -> Iterator[Problem]:
    for name in _names(job):
        if RESERVED.fullmatch(name):
            yield job.dataset_problem(name, f"`{Path(name).stem}` is a reserved name on Windows")


@AREA.error(
    "name-case",
    "macOS and Windows treat two names that differ only in case as the same file, so one of the files is lost",
    "rename one of them",
)
def names_that_differ_only_in_case(job: Subject) -> Iterator[Problem]:
    for name, earlier in find_names_that_differ_only_in_case(_names(job)):
        yield job.dataset_problem(name, f"differs from {earlier} only in case")


@AREA.error(
    OUTSIDE,
    "the file that the link points to would be uploaded to the bucket and to every node; it may contain keys",
    "replace the link with a copy of the file or folder, or delete the link",
    needed=True,
    always=OTHERS_FILES,
)
def links_out_of_the_project(job: Subject) -> Iterator[Problem]:
    yield from faults_of_rule(job, OUTSIDE)
    for name, target in job.dataset.outside.items() if job.dataset else ():
        yield job.dataset_problem(name, f"links to {target}, outside the project; it is not read")


@AREA.error(
    "file-special",
    "a program that reads a pipe or device may wait forever",
    "delete the file, or replace it with a regular file",
    needed=True,
)
def pipes_and_devices(job: Subject) -> Iterator[Problem]:
    for name, kind in job.dataset.special.items() if job.dataset else ():
        yield job.dataset_problem(name, f"{kind}, not a file; it is not opened")


def _names(job: Subject) -> list[str]:
    return [*job.dataset.images, *job.dataset.captions] if job.dataset else []


def _unsafe(name: str) -> str:
    """Why object stores or Windows would change the name; empty if they would not."""
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "the name is not UTF-8"
    bad = [
        character
        for character in name
        if character == "\\" or unicodedata.category(character).startswith("C")
    ]
    if bad:
        return f"the name contains {', '.join(f'U+{ord(character):04X}' for character in dict.fromkeys(bad))}"
    stem = Path(name).stem
    if name != name.strip() or stem != stem.strip() or stem.endswith("."):
        return "the name begins or ends with a space or a dot"
    return ""
