"""What editors and git do to text files: encodings, line endings, odd white space, conflict markers, pointers to the content."""

import re
from dataclasses import dataclass

from flux_training.training.words import one_line

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Pointers written before the release of Git LFS have the second address,
# hawser.github.com (Git LFS specification).
LFS_POINTER = re.compile(rb"version https://(git-lfs|hawser)\.github\.com/spec/")
# The content of a file that git-annex has replaced with a pointer
# (git-annex documentation, "pointer files").
ANNEX_POINTER = re.compile(rb"(?:\.git)?/annex/objects/[^\n]+\s*\Z")
CONFLICT_MARKER = re.compile(rb"^(?:(?:<{7}|>{7}|\|{7})(?:[ \t].*)?|={7})\r?$", re.MULTILINE)
CONFLICT_FIX = "keep one version and delete the lines with <<<<<<<, ======= and >>>>>>>"
LFS_FIX = "run `git lfs pull`; for git-annex, `git annex get .`"
# Byte order marks, longest first, because UTF-32's mark begins with UTF-16's.
MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
MAY_BE_SECRET = re.compile("key|secret|token|password|secure|salt", re.IGNORECASE)
MAX_QUOTED = 80
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Characters that look like a space or a quotation mark but have no meaning in YAML.
LOOKALIKES = re.compile("[\u00a0\u2000-\u200b\u202f\u205f\u3000\ufeff\u2018\u2019\u201c\u201d]")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The first bytes of JPEG, GIF and WebP files. Only PNG's signature shows whether line endings were changed.
BINARY_STARTS = (b"\xff\xd8\xff", b"GIF8", b"RIFF", PNG_SIGNATURE[:4])
# In an unchanged file, one of 256 line feeds follows a carriage return by chance. If all of at least this many do, the file was
# changed.
MIN_LINE_FEEDS = 8
RETURNS_ADDED = "carriage returns were added to it, as to a text file for Windows"
RETURNS_REMOVED = "its carriage returns were removed, as from a text file for Linux"
BINARY_FIX = (
    "add a line such as `*.jpg binary` to .gitattributes, delete the file and run `git checkout -- FILE`; "
    "if it was committed or copied like this, copy it again from its source (FTP: in binary mode)"
)


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


def changed_line_endings(raw: bytes) -> str:
    """How git, FTP or an editor changed the line endings of an image; empty if nothing shows that.

    Most such JPEG files can still be decoded, to a picture with wrong lines.
    """
    if raw.startswith(b"\x89PNG\n\x1a\n"):
        return RETURNS_REMOVED
    line_feeds = raw.count(b"\n")
    is_image = raw.startswith(BINARY_STARTS) and not raw.startswith(PNG_SIGNATURE)
    return (
        RETURNS_ADDED
        if is_image and line_feeds >= MIN_LINE_FEEDS and raw.count(b"\r\n") == line_feeds
        else ""
    )


def git_artefact(raw: bytes) -> GitArtefact | None:
    """What git left in a file: a pointer to the content or the markers of a merge conflict; None for anything else."""
    plain = raw.removeprefix(BYTE_ORDER_MARK)
    if LFS_POINTER.match(plain):
        return GitArtefact("git-lfs", "a Git LFS pointer, not the file itself", LFS_FIX)
    if ANNEX_POINTER.match(plain):
        return GitArtefact("git-lfs", "a git-annex pointer, not the file itself", LFS_FIX)
    marker = CONFLICT_MARKER.search(plain)
    if marker is None:
        return None
    line = plain.count(b"\n", 0, marker.start()) + 1
    return GitArtefact("git-conflict", "contains the markers of a merge conflict", CONFLICT_FIX, line)


COMMENT = re.compile(r"(?:^|\s)#.*")
# PyYAML notices these errors on a later line than that on which the key or the quoted text begins.
UNFINISHED = ("while scanning a simple key", "while scanning a quoted scalar")
NOT_A_KEY = "mapping values are not allowed"
MISSING_COLON = "the line has a key without a colon and a space behind it"

# A part of PyYAML's error message, and the most common cause of that error.
YAML_PROBLEMS = {
    NOT_A_KEY: 'the value has a colon and a space, or the line is indented too far; write such a value in quotes, as "a: b"',
    "cannot start any token": "a value begins with a character that YAML uses itself, such as @, % or `; write it in quotes",
    "undefined alias": "a value begins with *, which stands for an anchor that is not there; write it in quotes",
    "unknown escape character": "a value in double quotes has a backslash; write it in single quotes",
    "could not find expected ':'": f"{MISSING_COLON}, or a quote is not closed",
    "expected <block end>": "the line is indented otherwise than those beside it, or a quote is not closed",
    "expected ',' or": "a bracket is not closed",
    "unexpected end of stream": "a quote is not closed",
    "found another document": "a line `---` begins a second document; remove what follows it",
    "could not determine a constructor": "a tag such as !!python/object is not supported; remove it",
    "expected chomping or indentation": "a value begins with > or |, which begin a text of several lines; write it in quotes",
    "unhashable key": "a key is a list or a mapping; use a text",
    "for merging": "`<<:` takes mappings only",
}


def describe_encoding(raw: bytes, start: int) -> str:
    """The encoding of a text that is no UTF-8, as far as its first bytes tell; `start` is the first wrong byte."""
    return next((name for mark, name in MARKS if raw.startswith(mark)), f"not UTF-8 (byte {start})")


def quote_line(text: str, line: int | None) -> str:
    """: `jobs: [cat`, for the end of a message. Empty for a line that may hold a key or a password."""
    lines = text.splitlines()
    if line is None or not 0 < line <= len(lines) or MAY_BE_SECRET.search(lines[line - 1]):
        return ""
    quoted = one_line(lines[line - 1].strip(), MAX_QUOTED)
    return f": `{quoted}`" if quoted else ""


def describe_yaml_error(text: str, error: Exception) -> tuple[str, int | None]:
    """Why PyYAML refused a text, and the line, counted from 1. What people meet often is said in plain words."""
    mark = getattr(error, "problem_mark", None)
    line = None if mark is None else mark.line + 1
    if "\0" in text:
        return (
            "contains NUL characters, as UTF-16 without a byte order mark does, or a file that was cut off",
            line,
        )
    if control := CONTROL.search(text):
        return f"contains the control character U+{ord(control[0]):04X}", line
    # The parser often reports a wrong character one line too late or too early.
    for wrong in text.splitlines()[max(0, line - 2) : line + 1] if line else ():
        if "\t" in wrong[: len(wrong) - len(wrong.lstrip())]:
            return "a line begins with a tab; YAML is indented with spaces", line
        if found := LOOKALIKES.search(wrong):
            return f"a line contains U+{ord(found[0]):04X}, which looks like a space or a quote", line
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    known = next((words for part, words in YAML_PROBLEMS.items() if part in problem), None)
    began = getattr(error, "context_mark", None)
    if began is not None and getattr(error, "context", None) in UNFINISHED:
        line = began.line + 1
    elif NOT_A_KEY in problem and (above := _key_without_colon(text.splitlines(), error)):
        known, line = MISSING_COLON, above
    return (f"not YAML: {known}" if known else f"not YAML ({problem})") + quote_line(text, line), line


def _key_without_colon(lines: list[str], error: Exception) -> int | None:
    """The line, counted from 1, of a key without a colon, if that is why a colon below it is refused: both lines are one text then."""
    mark = getattr(error, "problem_mark", None)
    if mark is None or ": " in lines[mark.line][: mark.column]:
        return None
    found = None
    for number in range(mark.line, 0, -1):
        content = COMMENT.sub("", lines[number - 1]).strip()
        if content.endswith(":"):
            break
        if ": " in content:
            # The value of this key may go on below it, indented further.
            goes_on = found and _indentation(lines[number - 1]) < _indentation(lines[found - 1])
            return None if goes_on else found
        found = number if content else found
        if content.startswith("- "):
            break
    return found


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())
