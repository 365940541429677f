"""The pytest plugin of this repository's suite: an environment that is the same everywhere, nothing left behind, and which tests run.

`--long-share K/N` runs the K-th of N shares of the selected tests. `--stop-after SECONDS` skips all tests after that time.
`--expected-skips FILE` fails the run when a test is skipped for a reason that no line of FILE (a regular expression) matches.
"""

import os
import re
import shutil
import signal
import sys
import tempfile
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

# Marks every process that the tests start. Workers of pytest-xdist inherit it, and the temporary folder.
SESSION_VARIABLE = "FLUX_TEST_SESSION"
# Settings of the tests themselves.
KEPT_PREFIX = "FLUX_TEST_"
FOREIGN_PREFIXES = (
    "AWS_",
    "CLOUDFLARE_",
    "FLUX_",
    "GIT_",
    "HF_",
    "KELPIE_",
    "LC_",
    "MAKE",
    "MFLAGS",
    "OPENAI_",
    "PULUMI_",
    "SALAD_",
    "XDG_",
)
FOREIGN_NAMES = (
    "CI",
    "COLUMNS",
    "ENGINE",
    "FORCE_COLOR",
    "GITHUB_ACTIONS",
    "LINES",
    "LOCALCLOUD",
    "NO_COLOR",
    # Without compiled files each of the thousand processes would compile everything that it imports.
    "PYTHONDONTWRITEBYTECODE",
    "STACK",
    *(
        name
        for scheme in ("ALL", "HTTP", "HTTPS", "NO")
        for name in (f"{scheme}_PROXY", f"{scheme}_proxy".lower())
    ),
)
# How long a process that was told to end may take.
END_SECONDS = 10.0
BEGUN = time.monotonic()
# The exit code when something was left behind, or a test was skipped for an unexpected reason.
PROBLEMS = 70
# pytest removes its own folders, those of failed tests excepted.
KEPT_FOLDERS = re.compile(r"pytest-of-.*|home")


def _is_first() -> bool:
    """Whether this is the process that was started, not a worker of pytest-xdist."""
    return "PYTEST_XDIST_WORKER" not in os.environ


def _prepare_environment() -> None:
    pyenv = os.environ.get("PYENV_ROOT") or str(Path.home() / ".pyenv")
    for name in list(os.environ):
        is_foreign = name.startswith(FOREIGN_PREFIXES) and not name.startswith(KEPT_PREFIX)
        if is_foreign or name in FOREIGN_NAMES:
            del os.environ[name]
    # A short path: Unix sockets below it have to fit in 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="flux-t-"))
    (folder / "home").mkdir()
    os.environ |= {
        SESSION_VARIABLE: uuid.uuid4().hex,
        "TMPDIR": str(folder),
        "HOME": str(folder / "home"),
        "PYENV_ROOT": pyenv,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        # There are none; looking for them takes each process a while.
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
    }
    tempfile.tempdir = None


def _accept_interrupts() -> None:
    """A shell that starts the tests in the background has SIGINT ignored, and children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_first():
    _prepare_environment()
_accept_interrupts()
sys.dont_write_bytecode = False
# The same examples in every run: a failure can be repeated, and a change is judged by itself.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None, max_examples=30)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("flux")
    group.addoption("--long-share", metavar="K/N", help="run the K-th of N shares of the selected tests")
    group.addoption("--stop-after", metavar="SECONDS", type=float, help="skip all tests after this time")
    group.addoption(
        "--expected-skips", metavar="FILE", type=Path, help="fail when the reason of a skip is not in FILE"
    )


def pytest_configure(config: pytest.Config) -> None:
    if _is_first():
        config.pluginmanager.register(_Session(config.getoption("--expected-skips")))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("--stop-after")
    if seconds and time.monotonic() > BEGUN + seconds:
        pytest.skip("not begun within the time of --stop-after")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share = config.getoption("--long-share")
    if not share:
        return
    number, count = map(int, share.split("/"))
    kept = [item for item in items if zlib.crc32(item.nodeid.encode()) % count == number % count]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


class _Session:
    """What is checked when all tests have ended."""

    def __init__(self, expected_skips: Path | None) -> None:
        self._expected = expected_skips.read_text(encoding="utf-8").splitlines() if expected_skips else None
        self._reasons: Counter[str] = Counter()
        self._problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            self._reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        yield
        if self._expected is not None:
            self._problems += [
                f"{count} tests were skipped for a reason that .ci/expected-skips.txt does not list: {reason}"
                for reason, count in self._reasons.items()
                if not any(re.fullmatch(line, reason) for line in self._expected if line)
            ]
        self._problems += [f"a process was left running: {command}" for command in _end_leftovers()]
        folder = Path(os.environ["TMPDIR"])
        self._problems += [f"a temporary file was left: {path}" for path in _left_files(folder)]
        if self._problems:
            session.exitstatus = PROBLEMS
        elif session.exitstatus == pytest.ExitCode.OK:
            shutil.rmtree(folder, ignore_errors=True)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._expected is not None and self._reasons:
            terminalreporter.section("skipped")
            for reason, count in self._reasons.most_common():
                terminalreporter.line(f"{count:4} {reason}")
        for problem in self._problems:
            terminalreporter.line(f"ERROR: {problem}", red=True)


def _end_leftovers() -> list[str]:
    """End the processes that tests have left running; their command lines."""
    ours = psutil.Process()
    spared = {ours.pid, *(parent.pid for parent in ours.parents())}
    mark, folder = os.environ[SESSION_VARIABLE], os.environ["TMPDIR"]
    left = [
        process
        for process in psutil.process_iter()
        if process.pid not in spared and _is_marked(process, mark, folder)
    ]
    # Workers and children of the last tests may just be ending.
    _, left = psutil.wait_procs(left, timeout=END_SECONDS)
    commands = []
    for process in left:
        try:
            commands.append(f"{process.pid} {' '.join(process.cmdline())}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return commands


def _is_marked(process: psutil.Process, mark: str, folder: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get(SESSION_VARIABLE) == mark or process.cwd().startswith(folder)
    except psutil.Error:
        return False


def _left_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not KEPT_FOLDERS.fullmatch(path.name))
