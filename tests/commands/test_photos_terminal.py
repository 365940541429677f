"""`flux new`, `caption`, `rename` and `sweep` in a terminal, without colours, and in a pipe."""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.flux import (
    BAR,
    COLOUR,
    ESCAPE,
    environment,
    in_pipe,
    in_terminal,
    line_of,
    make_checkout,
    with_code,
)
from tests.support.openai_server import captioner, make_images
from tests.support.photos import photo
from tests.training.job_folders import make_job


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the command in it and one small job, `cat`; the tests of this file share it."""
    root = with_code(make_checkout(tmp_path_factory.mktemp("checkout") / "here"))
    make_job(root / "jobs", "cat", images=2)
    (root / "photos").mkdir()
    for number in range(1, 4):
        photo(number).save(root / f"photos/p{number}.png")
    return root


def test_help_is_coloured_in_a_terminal_and_plain_elsewhere(code: Path) -> None:
    shown = in_terminal(code, "caption", "--help")
    assert (shown.code, bool(COLOUR.search(shown.output))) == (0, True)
    plain = in_terminal(code, "caption", "--help", env=environment(NO_COLOR="1"))
    assert (plain.code, COLOUR.search(plain.output)) == (0, None)
    piped = in_pipe(code, "caption", "--help")
    assert (piped.code, ESCAPE in piped.output) == (0, False)
    for printed in (shown, plain, piped):
        assert "--base-url" in printed.output


def runs(name: str, url: str) -> dict[str, tuple[str, ...]]:
    """A run of each command that does something, on a job of its own."""
    return {
        "new": ("new", f"new-{name}", "--from", "photos", "--trigger", "ohwx"),
        "caption": ("caption", f"caption-{name}", "--base-url", url),
        "rename": ("rename", f"rename-{name}"),
        "sweep": ("sweep", "cat", "--set", f"train.steps={20 + len(name)},30", "--dry-run"),
    }


@pytest.fixture(scope="module")
def url(code: Path) -> Iterator[str]:
    for name in ("terminal", "plain", "pipe"):
        make_images(make_job(code / "jobs", f"caption-{name}", images=1) / "dataset", 3)
        make_job(code / "jobs", f"rename-{name}", images=1)
        dataset = code / f"jobs/rename-{name}/dataset"
        (dataset / "00001.jpg").rename(dataset / "x.jpg")
        (dataset / "00001.txt").rename(dataset / "x.txt")
    with captioner() as server:
        yield server.url


@pytest.mark.parametrize(
    "command",
    ["new", "caption", *(pytest.param(name, marks=pytest.mark.long) for name in ("rename", "sweep"))],
)
def test_progress_bars_appear_only_on_a_terminal(code: Path, url: str, command: str) -> None:
    shown = in_terminal(code, *runs("terminal", url)[command])
    assert shown.code == 0, shown.output
    assert (BAR in shown.output) is (command in ("new", "caption"))
    plain = in_terminal(code, *runs("plain", url)[command], env=environment(NO_COLOR="1"))
    assert (plain.code, COLOUR.search(plain.output)) == (0, None)
    piped = in_pipe(code, *runs("pipe", url)[command])
    assert piped.code == 0, piped.output
    assert not [part for part in (ESCAPE, BAR, "\r") if part in piped.output]


def test_what_new_leaves_out_is_wrapped_at_the_width_of_the_terminal(code: Path) -> None:
    folder = code / "photos-with-others"
    folder.mkdir()
    photo(9).save(folder / "good.png")
    (folder / "a-name-that-takes-much-of-the-line.psd").write_bytes(b"8BPS")
    (folder / "another-name-that-takes-much-of-it.jpg").write_bytes(b"not a photo")
    narrow = environment(COLUMNS="60", NO_COLOR="1")
    shown = in_terminal(code, "new", "wrapped", "--from", str(folder), "--trigger", "ohwx", env=narrow)
    printed = shown.output.split("added (00001", 1)[1]
    assert "Left out:" in printed
    lines = printed.replace("\r", "").splitlines()[1:]
    assert [line for line in lines if len(line) > 60 and "`" not in line] == []


def test_a_message_about_wrong_options_is_wrapped_at_the_width_of_the_terminal(code: Path) -> None:
    narrow = environment(COLUMNS="60", NO_COLOR="1")
    arguments = ("new", "dog", "--from", "photos", "--trigger", "x", "--model", "flix1")
    shown = in_terminal(code, *arguments, env=narrow)
    assert shown.output.replace("\r", "").rstrip().splitlines()[-3:] == [
        "Error: Invalid value for '--model': there is no model",
        "  'flix1' (did you mean `flex1`?); `./flux models` lists",
        "  them",
    ]


def test_paths_are_relative_to_the_working_directory(code: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    photo(7).save(tmp_path / "pictures/a.png")
    line = line_of(["new", "from-elsewhere", "--from", "pictures", "--trigger", "ohwx"])
    done = subprocess.run(
        line, cwd=tmp_path, env=environment(PYTHONPATH=str(code)), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (code / "jobs/from-elsewhere/dataset/00001.jpg").is_file()


@pytest.mark.parametrize(
    ("arguments", "code_wanted"),
    [
        (("new", "cat", "--from", "photos", "--trigger", "x"), 1),
        (("new", "dog"), 2),
        (("new", "dog", "--from", "nowhere"), 2),
        (("caption", "nobody"), 1),
        (("caption", "cat", "--price", "cheap"), 2),
        (("rename", "cat", "--undo"), 1),
        (("sweep", "cat", "--set", "train.lrr=1"), 1),
        (("sweep", "cat"), 2),
    ],
)
def test_wrong_input_gives_a_message_and_an_exit_code(
    code: Path, arguments: tuple[str, ...], code_wanted: int
) -> None:
    ended = in_pipe(code, *arguments)
    assert ended.code == code_wanted
    assert "Traceback" not in ended.output
    assert "rror" in ended.output


def test_the_review_prints_its_address_and_ends_at_ctrl_c(code: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        line_of(["caption", "cat", "--review"]),
        cwd=code,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        start_new_session=True,
    )
    os.close(theirs)
    printed = ""
    deadline = time.monotonic() + 60
    while "Ctrl-C ends" not in printed and time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            printed += os.read(ours, 4096).decode()
    address = next(word for word in printed.split() if word.startswith("http://127.0.0.1:"))
    answer = httpx.get(address, trust_env=False)
    assert (answer.status_code, "cat: captions" in answer.text) == (200, True)
    assert httpx.get(address.rsplit("/", 2)[0] + "/", trust_env=False).status_code == 404
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 0
    assert "0 captions changed" in os.read(ours, 4096).decode()
    os.close(ours)
