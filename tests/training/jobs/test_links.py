"""Links that leave the project are not followed, and pipes, devices and sockets are not opened, whatever they are called."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from flux_training.commands.jobs.folders import find_dataset_folder, staging_folder
from flux_training.training.dataset.captions import is_image, uncaptioned
from flux_training.training.dataset.intake import list_files_to_import
from flux_training.training.dataset.renaming import LAST, plan_undo
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.finding import Finding
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.folder import read_config, read_images
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.opening import outside_target, read_regular_file, special_kind
from tests.training.job_folders import add_folders, make_job
from tests.training.lint_folders import stack

SECRET = "machine example.com password canary-7f31"
Spoil = Callable[[Path, Path], None]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Files of the operator beside the project: `.netrc`, an image, a whole job."""
    home = tmp_path / "home"
    job = make_job(home / "jobs", "cat")
    (home / ".netrc").write_text(SECRET, encoding="utf-8")
    (home / "private.jpg").write_bytes((job / "dataset/00001.jpg").read_bytes())
    return home


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    make_job(root / "jobs", "cat")
    make_job(root / "jobs", "dog", seed=1)
    (root / "Pulumi.yaml").write_text("name: flux-training\n", encoding="utf-8")
    return root


def replaced(name: str, target: str) -> Spoil:
    """Replaces a file or folder of the project by a link to something in the operator's home."""

    def spoil(root: Path, home: Path) -> None:
        path = root / name
        path.rename(root / "moved-away")
        path.symlink_to(target if target.startswith("/") else home / target)

    return spoil


def with_folders(spoil: Spoil) -> Spoil:
    """The same, in a job with control images, masks and a second dataset."""

    def spoil_folders(root: Path, home: Path) -> None:
        add_folders(root / "jobs/cat")
        spoil(root, home)

    return spoil_folders


LINKS: dict[str, Spoil] = {
    "a caption to .netrc": replaced("jobs/cat/dataset/00001.txt", ".netrc"),
    "a caption to the environment": replaced("jobs/cat/dataset/00001.txt", "/proc/self/environ"),
    "an image": replaced("jobs/cat/dataset/00001.jpg", "private.jpg"),
    "train.yml": replaced("jobs/cat/train.yml", "jobs/cat/train.yml"),
    "train.yml to .netrc": replaced("jobs/cat/train.yml", ".netrc"),
    "the dataset": replaced("jobs/cat/dataset", "jobs/cat/dataset"),
    "the job folder": replaced("jobs/cat", "jobs/cat"),
    "the jobs folder": replaced("jobs", "jobs"),
    "a relative link": lambda root, _home: _swap(
        root / "jobs/cat/dataset/00001.txt", "../../../../home/.netrc"
    ),
    "a control image": with_folders(replaced("jobs/cat/control/00001.png", "private.jpg")),
    "a mask": with_folders(replaced("jobs/cat/mask/00001.png", "private.jpg")),
    "a caption of regularization images": with_folders(replaced("jobs/cat/reg/00001.txt", ".netrc")),
    "the control folder": with_folders(replaced("jobs/cat/control", "jobs/cat/dataset")),
    "a link to a link": lambda root, home: _two_links(root, home),
}


def _swap(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _two_links(root: Path, home: Path) -> None:
    (root / "harmless").symlink_to(home / ".netrc")
    _swap(root / "jobs/cat/dataset/00001.txt", "../../../harmless")


def links_found(root: Path) -> list[Finding]:
    return [finding for finding in lint_jobs(stack(cat={}), root).findings if finding.code == "link-outside"]


@pytest.mark.parametrize("kind", LINKS)
def test_a_link_out_of_the_project_stops_the_job(kind: str, project: Path, secrets: Path) -> None:
    LINKS[kind](project, secrets)
    found = links_found(project)
    assert found
    assert all("outside the project" in finding.message for finding in found)
    with pytest.raises(BadInput) as bad:
        declare_jobs(stack(cat={}), project)
    assert "canary" not in str(bad.value)
    assert "links to /" in str(bad.value)


@pytest.mark.parametrize("kind", LINKS)
def test_the_program_refuses_such_a_folder_by_itself(kind: str, project: Path, secrets: Path) -> None:
    LINKS[kind](project, secrets)
    with pytest.raises(BadInput, match="outside the project"):
        assert read_config(project / "jobs/cat") == read_images(project / "jobs/cat")


def test_a_link_that_leads_out_cannot_be_silenced() -> None:
    with pytest.raises(ValueError, match="`link-outside` cannot be silenced"):
        stack(cat={"lint": {"silence": {"link-outside": "I know what I do"}}})


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("jobs/cat/dataset/00001.txt", "../../dog/dataset/00001.txt"),
        ("jobs/cat/dataset", "../dog/dataset"),
        ("jobs/cat/train.yml", "shared.yml"),
    ],
)
def test_links_inside_the_project_are_followed(name: str, target: str, project: Path) -> None:
    path = project / name
    if name.endswith(".yml"):
        path.rename(path.parent / target)
    else:
        path.rename(project / "moved-away")
    path.symlink_to(target)
    assert links_found(project) == []
    assert declare_jobs(stack(cat={}), project)


def test_a_project_below_a_link_is_no_link_out_of_it(project: Path, tmp_path: Path) -> None:
    """A checkout may be reached by a link, such as /tmp on a Mac."""
    (tmp_path / "shortcut").symlink_to(project)
    assert declare_jobs(stack(cat={}), tmp_path / "shortcut")


def test_another_job_is_not_affected(project: Path, secrets: Path) -> None:
    LINKS["a caption to .netrc"](project, secrets)
    assert [job.name for job in declare_jobs(stack(dog={}), project)] == ["dog"]


@pytest.mark.parametrize("kind", ["a caption to .netrc", "an image"])
def test_captioning_and_review_do_not_see_what_a_link_leads_to(
    kind: str, project: Path, secrets: Path
) -> None:
    LINKS[kind](project, secrets)
    dataset = project / "jobs/cat/dataset"
    if kind == "an image":
        assert not is_image(dataset / "00001.jpg")
        assert uncaptioned(dataset) == []
    else:
        with pytest.raises(BadInput, match="links to"):
            uncaptioned(dataset)


def test_commands_refuse_a_dataset_that_is_a_link(project: Path, secrets: Path) -> None:
    LINKS["the dataset"](project, secrets)
    with pytest.raises(BadInput, match="outside the project; replace the link by a copy"):
        find_dataset_folder(project / "jobs", "cat")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket has to be short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL = {"a named pipe (FIFO)": pipe, "a socket": unix_socket, "a device": device}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["dataset/00001.jpg", "dataset/00001.txt", "dataset/zz", "train.yml"])
def test_special_files_are_reported_unopened(kind: str, name: str, project: Path) -> None:
    path = project / "jobs/cat" / name
    path.unlink(missing_ok=True)
    SPECIAL[kind](path)
    with pytest.raises(BadInput, match=r"not a file|outside the project"):
        declare_jobs(stack(cat={}), project)
    assert special_kind(path) == kind
    with pytest.raises(OSError, match="not a file"):
        read_regular_file(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_among_photos_are_left_out(kind: str, project: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes((project / "jobs/cat/dataset/00001.jpg").read_bytes())
    SPECIAL[kind](photos / "a.txt")
    SPECIAL[kind](photos / "zz")
    found = list_files_to_import(photos)
    assert [image.name for image in found.images] == ["a.jpg"]
    assert found.captions == {}
    assert len(found.strangers) == 2


def test_links_out_of_the_photos_are_left_out(tmp_path: Path, secrets: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").symlink_to(secrets / "private.jpg")
    (photos / "a.txt").symlink_to(secrets / ".netrc")
    found = list_files_to_import(photos)
    assert (found.images, found.captions) == ([], {})
    assert [line.split(":")[0] for line in found.strangers] == ["a.jpg", "a.txt"]
    assert all("copy the file there" in line for line in found.strangers)


def test_undoing_a_renaming_never_leaves_the_dataset(project: Path) -> None:
    """The journal may come with a job folder of a stranger."""
    dataset = project / "jobs/cat/dataset"
    moves = '[{"old": "../../../escaped.txt", "new": "00001.txt"}]'
    (dataset / LAST).write_text(f'{{"undo": false, "step": "home", "moves": {moves}}}', encoding="utf-8")
    with pytest.raises(FluxError, match="is not the name of a file"):
        plan_undo(dataset)


@pytest.mark.parametrize(
    ("target", "is_outside"),
    [("/etc", True), ("..", True), (".", False), ("missing", False), ("loop", False)],
)
def test_where_a_link_leads(target: str, is_outside: bool, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(target)
    assert bool(outside_target(tmp_path / "link", tmp_path)) == is_outside


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_interrupted_import_leaves_no_folder(number: signal.Signals, tmp_path: Path) -> None:
    def import_photos() -> None:
        with staging_folder(tmp_path, "shots") as staging:
            (staging / "0.jpg").write_bytes(b"x")
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        import_photos()
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before
