"""Rules about the names of files and job folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.names import JOB_NAME, TAKEN_NAMES

AREA = Area("names")
# Amazon's "Safe characters", the rest of ASCII's "Characters to avoid": docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
AWKWARD = re.compile(r"[{}^%`\[\]\"<>~#|&$@=;:+?*,]")
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


@AREA.error(
    "job-name",
    "a job's name is letters, digits, `.`, `_` and `-`, at most 63 of them, the first a letter or digit",
    "rename the folder",
    needed=True,
)
def job_name(job: Subject) -> Iterator[Problem]:
    if not JOB_NAME.fullmatch(job.name):
        yield Problem(str(job.folder), f"`{job.name}` is no name for a job")


@AREA.error(
    "job-name-taken",
    f"ai-toolkit takes every file that begins with the job's name for a checkpoint of it ({', '.join(TAKEN_NAMES)} lie beside them)",
    "rename the folder",
    needed=True,
)
def job_name_taken(job: Subject) -> Iterator[Problem]:
    taken = next((name for name in TAKEN_NAMES if JOB_NAME.match(job.name) and name.startswith(job.name)), "")
    if taken:
        yield Problem(str(job.folder), f"the job's name begins {taken}, a file of the trainer")


@AREA.error(
    "name-unsafe",
    "object stores, the Kelpie worker and Windows lose or change such names",
    "rename it to letters, digits, `.`, `_` and `-`",
    needed=True,
)
def name_unsafe(job: Subject) -> Iterator[Problem]:
    for name in _names(job):
        reason = _unsafe(name)
        if reason:
            yield Problem(job.in_dataset(name, "").path, reason)


@AREA.warning(
    "name-awkward",
    "object stores and shells give such characters a meaning of their own, so that tools fail on the file",
    "rename it to letters, digits, `.`, `_` and `-`",
)
def name_awkward(job: Subject) -> Iterator[Problem]:
    for name in _names(job):
        found = "".join(dict.fromkeys(AWKWARD.findall(name)))
        if found and not _unsafe(name):
            yield job.in_dataset(name, f"`{found}` in the name")


@AREA.warning(
    "name-unicode",
    "macOS and Linux write the same letter in two ways, so that one file has two names",
    "rename it without accents, or in composed form (NFC)",
)
def name_unicode(job: Subject) -> Iterator[Problem]:
    for name in _names(job):
        if not _unsafe(name) and not unicodedata.is_normalized("NFC", name):
            yield job.in_dataset(name, "the name has letters with separate accents (not NFC)")


@AREA.warning("name-reserved", "Windows has devices of this name and cannot check the file out", "rename it")
def name_reserved(job: Subject) -> Iterator[Problem]:
    for name in _names(job):
        if RESERVED.fullmatch(name):
            yield job.in_dataset(name, f"`{Path(name).stem}` is a reserved name on Windows")


@AREA.error(
    "name-case",
    "macOS and Windows take names that differ in capitals only for one file, and one of them is lost",
    "rename one of them",
)
def name_case(job: Subject) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for name in _names(job):
        earlier = first.setdefault(name.casefold(), name)
        if earlier != name:
            yield job.in_dataset(name, f"differs from {earlier} in capitals only")


def _names(job: Subject) -> list[str]:
    return [*job.dataset.images, *job.dataset.captions] if job.dataset else []


def _unsafe(name: str) -> str:
    if any("\ud800" <= sign <= "\udfff" for sign in name):
        return "the name is not UTF-8"
    bad = [sign for sign in name if sign == "\\" or unicodedata.category(sign).startswith("C")]
    if bad:
        return f"the name holds {', '.join(f'U+{ord(sign):04X}' for sign in dict.fromkeys(bad))}"
    stem = Path(name).stem
    if name != name.strip() or stem != stem.strip() or stem.endswith("."):
        return "the name begins or ends with a space or a dot"
    return ""
