"""What editors and git do to text files: byte order marks, line endings, conflict markers, Git LFS pointers."""

import re
from dataclasses import dataclass

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The second address is that of Git LFS before its release (the specification of Git LFS).
LFS_POINTER = re.compile(rb"version https://(git-lfs|hawser)\.github\.com/spec/")
CONFLICT_MARKER = re.compile(rb"^(?:(?:<{7}|>{7}|\|{7})(?:[ \t].*)?|={7})\r?$", re.MULTILINE)
CONFLICT_FIX = "keep one version and delete the lines with <<<<<<<, ======= and >>>>>>>"
LFS_FIX = "run `git lfs pull`"


@dataclass(frozen=True)
class GitArtefact:
    """What git left in a file instead of its content. `code` is the lint rule, `line` counts from 1."""

    code: str
    message: str
    fix: str
    line: int | None = None

    def finding(self, name: str) -> str:
        """The message about a file that is not part of a job."""
        place = name if self.line is None else f"{name}:{self.line}"
        return f"{place}: {self.message}; {self.fix}"


def normalized(raw: bytes) -> bytes:
    """UTF-8 text without a byte order mark, with lines that end in a line feed."""
    return raw.removeprefix(BYTE_ORDER_MARK).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def normalized_text(text: str) -> str:
    """Like `normalized`, for text that is already decoded."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def git_artefact(raw: bytes) -> GitArtefact | None:
    """What git left in a file: a Git LFS pointer or the markers of a merge conflict; None for anything else."""
    plain = raw.removeprefix(BYTE_ORDER_MARK)
    if LFS_POINTER.match(plain):
        return GitArtefact("git-lfs", "a Git LFS pointer, not the file itself", LFS_FIX)
    marker = CONFLICT_MARKER.search(plain)
    if marker is None:
        return None
    line = plain.count(b"\n", 0, marker.start()) + 1
    return GitArtefact("git-conflict", "contains the markers of a merge conflict", CONFLICT_FIX, line)
