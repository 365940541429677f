"""The main job on machines as people have them: proxies, users without a home, LANG=C, odd paths, Windows checkouts."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.checkout import ROOT, Checkout, new_checkout

DEAD_PROXY = "http://127.0.0.1:9"
VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
EVERY_PROXY = {name: DEAD_PROXY for lower in VARIABLES for name in (lower, lower.upper())}
# What people exclude does not name this machine.
PROXIES = {
    **{name: {name: DEAD_PROXY} for name in EVERY_PROXY},
    "no_proxy": {**EVERY_PROXY, "no_proxy": "example.org, .internal"},
    "NO_PROXY": {**EVERY_PROXY, "NO_PROXY": "10.0.0.0/8"},
    "no_grpc_proxy": {**EVERY_PROXY, "no_grpc_proxy": "example.org"},
    "all": EVERY_PROXY,
}
FOREIGN_USER = 54321
# Folders above Python that only root may enter.
HIDDEN = [
    folder for folder in reversed(Path(sys.base_prefix).parents) if not folder.stat().st_mode & stat.S_IXOTH
]
AS_ROOT = pytest.mark.skipif(
    sys.platform != "linux"
    or os.geteuid() != 0
    or any(Path(sys.prefix).is_relative_to(folder) for folder in HIDDEN),
    reason="only root can run commands as another user",
)
# In a view of the file system of its own: the folder $1, which only root may enter, shows nothing but its subfolder $2, where Python is.
BECOME = f"""
if [ -n "$1" ]; then
  mount --bind "$2" /mnt && mount -t tmpfs -o mode=755 none "$1" && mkdir -p "$2" && mount --move /mnt "$2" || exit 1
fi
shift 2
exec setpriv --reuid={FOREIGN_USER} --regid={FOREIGN_USER} --clear-groups "$@"
"""


def trained_by(checkout: Checkout) -> Checkout:
    """Train the two jobs; nothing is left to train afterwards."""
    printed = checkout.make("up")
    assert "Traceback" not in printed
    assert {path.name for path in (checkout.root / "outputs/dev").iterdir()} >= {"cat", "dog"}
    return checkout


def with_environment(checkout: Checkout, added: Mapping[str, str]) -> Checkout:
    inherited = {
        name: value
        for name, value in checkout.environment.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("LC_", "LANG"))
    }
    return replace(checkout, environment={**inherited, **added})


@pytest.mark.long
@pytest.mark.parametrize("name", PROXIES)
def test_a_dead_proxy_does_not_matter_on_this_machine(name: str, tmp_path: Path, virtualenv: Path) -> None:
    with new_checkout(tmp_path / "checkout", virtualenv=virtualenv) as checkout:
        trained_by(with_environment(checkout, PROXIES[name])).make("down")


@pytest.mark.long
def test_a_path_may_have_spaces_umlauts_and_an_emoji(tmp_path: Path, virtualenv: Path) -> None:
    with new_checkout(tmp_path / "Müllers neue Katze 🐱", virtualenv=virtualenv) as checkout:
        trained_by(checkout).make("down")


@pytest.mark.long
def test_the_locale_c_and_a_missing_home_folder_are_enough(tmp_path: Path) -> None:
    """With an interpreter that starts anew: it chooses its encoding when it starts."""
    added = {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "HOME": "/nowhere"}
    with new_checkout(tmp_path / "Jürgen") as checkout:
        (checkout.root / "jobs/cat/dataset/00001.txt").write_text("tr1gger, größer 猫\n", encoding="utf-8")
        trained_by(with_environment(checkout, added)).make("down")


@pytest.mark.long
def test_a_windows_checkout_names_the_runs_as_any_other(tmp_path: Path, virtualenv: Path) -> None:
    """A clone with `core.autocrlf`; then, in the same checkout, what an editor leaves: carriage returns and byte order marks."""
    with new_checkout(tmp_path / "linux", virtualenv=virtualenv) as first:
        runs = {name: job["runId"] for name, job in trained_by(first).outputs()["jobs"].items()}
        first.make("down")
        commit_all(first.root)
        windows = replace(first, root=tmp_path / "windows", environment={**first.environment})
        clone = ["git", "clone", "-q", "-c", "core.autocrlf=true", str(first.root), str(windows.root)]
        subprocess.run(clone, check=True)
        (windows.root / ".venv").symlink_to(virtualenv)
        try:
            trained_by(windows)
            assert {name: job["runId"] for name, job in windows.outputs()["jobs"].items()} == runs
            with_carriage_returns(windows)
            assert "2 unchanged" in windows.make("plan")
        finally:
            windows.make("down", code=None)


def commit_all(folder: Path) -> None:
    """Make a repository of a checkout, with the attributes that this project has."""
    for name in (".gitattributes", ".gitignore"):
        shutil.copy2(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)


def with_carriage_returns(checkout: Checkout) -> None:
    for path in [*checkout.root.glob("jobs/*/train.yml"), *checkout.root.glob("jobs/*/dataset/*.txt")]:
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    config = checkout.root / "jobs/cat/train.yml"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())


def as_foreign_user() -> list[str]:
    """What runs a command as a user without home and name, who may use the Python of these tests."""
    folders = [str(HIDDEN[0]), sys.base_prefix] if HIDDEN else ["", ""]
    return ["unshare", "--mount", "sh", "-c", BECOME, "sh", *folders]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter: those of pytest are root's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.long
@AS_ROOT
def test_a_user_without_home_and_name_can_train(open_folder: Path) -> None:
    """As in a container that is started with a user id alone."""
    with new_checkout(open_folder / "checkout") as checkout:
        (checkout.root / "tmp").mkdir()
        for path in (checkout.root, *checkout.root.rglob("*")):
            os.chown(path, FOREIGN_USER, FOREIGN_USER, follow_symlinks=False)
        without = {
            name: value
            for name, value in checkout.environment.items()
            if name not in ("HOME", "USER", "LOGNAME", "PULUMI_HOME") and not name.startswith("XDG_")
        }
        done = subprocess.run(
            [*as_foreign_user(), "make", "up"],
            cwd=checkout.root,
            env={**without, "TMPDIR": str(checkout.root / "tmp")},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        printed = done.stdout + done.stderr
        assert done.returncode == 0, printed
        assert "Traceback" not in printed
        assert {path.name for path in (checkout.root / "outputs/dev").iterdir()} >= {"cat", "dog"}
        assert (checkout.root / ".pulumi").stat().st_uid == FOREIGN_USER
