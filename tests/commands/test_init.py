"""`flux init` where something is in the way."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from flux_training.commands.init import command
from flux_training.commands.init.command import (
    commit_of_tool,
    git_source_of_package,
    why_clones_lack_the_tool,
)
from flux_training.commands.init.existing import MOVED, ExistingSetup
from flux_training.commands.init.renaming import ProjectRename
from flux_training.training.errors import FluxError


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for path in MOVED:
        (tmp_path / "clone" / path).mkdir(parents=True)
        (tmp_path / "clone" / path / "file").write_text(str(path))
    (tmp_path / "new").mkdir()
    return tmp_path / "clone"


def files(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/file"))


def test_the_move_comes_after_everything_that_git_does(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []
    setup = ExistingSetup(clone, ProjectRename("p", "p"))
    monkeypatch.setattr(command, "existing_setup", lambda *_: setup)
    monkeypatch.setattr(ExistingSetup, "check", lambda _: None)
    monkeypatch.setattr(ExistingSetup, "copy_to", lambda *_: None)
    monkeypatch.setattr(command, "_add_tool", lambda *_: None)

    def git(_folder: Path, *arguments: str) -> str:
        done.append(arguments[0])
        if arguments[0] == "add":
            raise FluxError("no space left")
        return ""

    monkeypatch.setattr(command, "_git", git)
    with pytest.raises(FluxError, match="no space left"):
        command.init.main([str(clone.parent / "new"), "--from", str(clone)], standalone_mode=False)
    assert done[-1] == "add"
    assert files(clone) == sorted(map(str, MOVED))
    capsys.readouterr()


@pytest.mark.parametrize("new_name", ["p", "q"])
def test_a_failed_move_is_undone(clone: Path, monkeypatch: pytest.MonkeyPatch, new_name: str) -> None:
    """In the middle of the move, or, under another name, after it."""
    move = shutil.move

    def fail_at_state(source: Path, target: Path) -> None:
        if new_name == "p" and source == clone / ".pulumi":
            raise PermissionError(13, "Permission denied", str(source))
        move(source, target)

    def fail(*_: object) -> None:
        raise FluxError("no space left")

    monkeypatch.setattr(shutil, "move", fail_at_state)
    monkeypatch.setattr(ExistingSetup, "_write_states", fail)
    with pytest.raises(FluxError) as raised:
        ExistingSetup(clone, ProjectRename("p", new_name)).move_to(clone.parent / "new")
    assert f"everything is in {clone}" in str(raised.value)
    assert ("may have the name q" in str(raised.value)) == (new_name == "q")
    assert files(clone) == sorted(map(str, MOVED))
    assert files(clone.parent / "new") == []


def test_what_cannot_be_moved_back_is_named(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = shutil.move

    def fail_at_state_and_back(source: Path, target: Path) -> None:
        if source == clone / ".pulumi" or target == clone / "outputs":
            raise OSError("read-only file system")
        move(source, target)

    monkeypatch.setattr(shutil, "move", fail_at_state_and_back)
    new = clone.parent / "new"
    with pytest.raises(
        FluxError, match=rf"outputs could not be moved back.*do not delete {new}; move outputs"
    ):
        ExistingSetup(clone, ProjectRename("p", "p")).move_to(new)
    assert files(new) == ["outputs"]


def test_an_empty_git_repository_is_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine/.git").mkdir(parents=True)
    monkeypatch.setattr(command, "_add_tool", lambda *_: None)
    monkeypatch.setattr(command, "_git", lambda *_: "")
    command.init.main([str(tmp_path / "mine")], standalone_mode=False)
    assert (tmp_path / "mine/Pulumi.yaml").is_file()


def test_the_next_steps_caption_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without captions, `make up` would refuse the job."""
    printed: list[str] = []
    monkeypatch.setattr(command, "_add_tool", lambda *_: None)
    monkeypatch.setattr(command, "_git", lambda *_: "")
    monkeypatch.setattr(command, "say", printed.append)
    command.init.main([str(tmp_path / "mine")], standalone_mode=False)
    for text in (printed[-1], (tmp_path / "mine/README.md").read_text()):
        assert -1 < text.find("./flux new") < text.find("./flux caption NAME") < text.find("make up")


@pytest.mark.parametrize(
    ("noted", "source"),
    [
        (
            '{"url": "https://example.org/tool.git", "vcs_info": {"vcs": "git"}}',
            "https://example.org/tool.git",
        ),
        ('{"url": "file:///home/me/tool", "dir_info": {}}', "file:///home/me/tool"),
        ('{"url": "file:///tmp/flux_training-0.2.0.whl", "archive_info": {}}', "ADDRESS"),
        (None, "ADDRESS"),
        ("{", "ADDRESS"),
    ],
)
def test_the_repository_from_which_pip_installed_the_tool(
    noted: str | None, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "distribution", lambda _: SimpleNamespace(read_text=lambda _: noted))
    assert git_source_of_package() == source


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit_of(folder: Path, name: str) -> str:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", name)
    return git(folder, "rev-parse", "HEAD")


def test_a_project_gets_a_commit_that_others_can_fetch(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "tool")
    tool = tmp_path / "tool"
    published = commit_of(tool, "code.py")
    assert str(tool) in why_clones_lack_the_tool(tool, published)
    git(tool, "remote", "add", "origin", "https://example.org/tool.git")
    git(tool, "update-ref", "refs/remotes/origin/main", published)
    assert (commit_of_tool(tool), why_clones_lack_the_tool(tool, published)) == (published, "")
    for name in ("Pulumi.dev.yaml", "jobs/train.yml"):
        commit_of(tool, name)
        assert commit_of_tool(tool) == published
    # A newer version of the tool, merged as docs/upgrading.md says.
    git(tool, "checkout", "--quiet", "-b", "theirs", published)
    newer = commit_of(tool, "newer.py")
    git(tool, "update-ref", "refs/remotes/origin/main", newer)
    git(tool, "checkout", "--quiet", "-")
    git(tool, "merge", "--quiet", "--no-edit", newer)
    assert (commit_of_tool(tool), why_clones_lack_the_tool(tool, newer)) == (newer, "")
    own = commit_of(tool, "more.py")
    assert commit_of_tool(tool) == own
    note = why_clones_lack_the_tool(tool, own)
    assert f"commit {own[:12]} of the tool is not in https://example.org/tool.git" in note
    assert f"run `git push` in {tool}" in note
