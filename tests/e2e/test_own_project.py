"""A project of one's own: `flux init` in an empty folder, a job made from photos, and its trained LoRA."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from flux_training.commands.init.command import check_out_with_submodules, init
from flux_training.training.errors import BadInput
from tests.support.flux import FinishedCommand, environment, in_pipe
from tests.support.photos import photo

QUICK = environment(LOCALCLOUD="--step-seconds 0")
Flux = Callable[..., FinishedCommand]


@pytest.fixture
def own_projects(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two new projects; their local clouds are stopped at the end."""
    one, other = tmp_path / "my-loras", tmp_path / "others"
    for folder in (one, other):
        init.main([str(folder)], standalone_mode=False)
    yield one, other
    for folder in (one, other):
        in_pipe(folder, "down")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def cloud_page(project: Path) -> str:
    return str(json.loads((project / ".localcloud/connection.json").read_text())["page"])


def flux(project: Path, *arguments: str) -> str:
    done = in_pipe(project, *arguments, env=QUICK)
    assert done.code == 0, done.output
    return done.output


def declare_job(project: Path, job: str, photos: Path) -> None:
    """A job of 20 steps on six photos, made as users make it."""
    photos.mkdir()
    for number in range(6):
        photo(number, (1024, 768)).save(photos / f"{number}.jpg")
        (photos / f"{number}.txt").write_text("tr1gger cat on a gradient")
    flux(project / "jobs", "new", job, "--from", str(photos), "--trigger", "tr1gger cat", "--stack", "dev")
    config = project / "jobs" / job / "train.yml"
    config.write_text(re.sub(r"(?m)^( *)(steps|save_every): .*", r"\g<1>\g<2>: 20", config.read_text()))


def has_trained(project: Path, job: str) -> None:
    """This job and no other: its verified weights with the project as their owner, and nothing changed in the tool."""
    assert [path.name for path in (project / "outputs/dev").iterdir() if path.is_dir()] == [job]
    (run,) = (project / "outputs/dev" / job).iterdir()
    assert load_file(run / f"{job}.safetensors")
    assert json.loads((run / ".fetched.json").read_text())["owner"] == f"{project.name}/dev"
    assert git(project / "flux-training", "status", "--porcelain") == ""


@pytest.mark.long
def test_a_project_of_ones_own(own_projects: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = own_projects
    tool = git(one, "ls-files", "--stage", "flux-training").split()
    assert tool[:2] == ["160000", git(one / "flux-training", "rev-parse", "HEAD").strip()]
    assert "Stack" in flux(one, "preview")  # of a stack without jobs
    declare_job(one, "cat", tmp_path / "photos")
    flux(other, "cloud")
    flux(one, "up")
    assert cloud_page(one) != cloud_page(other)
    has_trained(one, "cat")
    assert not (other / "outputs").exists()
    moves_under_another_name(one, tmp_path / "moved")


@pytest.mark.long
def test_two_projects_train_at_the_same_time(own_projects: tuple[Path, Path], tmp_path: Path) -> None:
    jobs = dict(zip(own_projects, ("cat", "dog"), strict=True))
    for project, job in jobs.items():
        declare_job(project, job, tmp_path / job)
    with ThreadPoolExecutor() as pool:
        outputs = list(pool.map(lambda project: flux(project, "up"), jobs))
    for (project, job), output in zip(jobs.items(), outputs, strict=True):
        assert f"outputs/dev/{job}/" in output
        has_trained(project, job)
    assert len({cloud_page(project) for project in jobs}) == len(jobs)


def moves_under_another_name(one: Path, moved: Path) -> None:
    arguments = [str(moved), "--from", str(one), "--name", "renamed"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FLUX_LOCAL_CLOUD", "connection.json")
        with pytest.raises(BadInput, match=r"FLUX_LOCAL_CLOUD names .*unset it"):
            init.main(arguments, standalone_mode=False)
    with pytest.raises(BadInput, match=r"local cloud of .* is running"):
        init.main(arguments, standalone_mode=False)
    flux(one, "down")
    lock = one / ".pulumi/locks/organization/my-loras/dev/0.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    with pytest.raises(BadInput, match="stack dev is in the middle of an update"):
        init.main(arguments, standalone_mode=False)
    lock.unlink()
    assert not moved.exists()
    init.main(arguments, standalone_mode=False)
    try:
        assert not (one / ".pulumi").exists()
        preview = flux(moved, "preview")
        assert re.search(r"Resources:\n +\d+ unchanged\n", preview), preview
        assert "files fetched: 0" in flux(moved, "fetch")
        assert (
            json.loads(next(moved.glob("outputs/dev/cat/*/.fetched.json")).read_text())["owner"]
            == "renamed/dev"
        )
        flux(moved, "destroy", "--yes")
    finally:
        in_pipe(moved, "down")


def test_init_names_everything_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "1 a").mkdir()
    (tmp_path / "1 a/photo.jpg").touch()
    with pytest.raises(BadInput) as raised:
        init.main([str(tmp_path / "1 a")], standalone_mode=False)
    full, name = raised.value.findings
    assert "exists and is not empty" in full
    assert "'1 a' is not a valid project name" in name
    assert [path.name for path in (tmp_path / "1 a").iterdir()] == ["photo.jpg"]


def test_an_installed_package_makes_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_training.commands.init.command.tool_root", lambda: tmp_path / "site-packages")
    with pytest.raises(
        BadInput,
        match=r"not a git repository.*; run `git clone \S+ flux-training && flux-training/flux init .*my-loras`",
    ):
        init.main([str(tmp_path / "my-loras")], standalone_mode=False)
    assert not (tmp_path / "my-loras").exists()


def test_workflows_check_out_the_tool() -> None:
    step = "        with:\n          persist-credentials: false\n          lfs: true\n"
    assert check_out_with_submodules(step) == step.replace("false\n", "false\n          submodules: true\n")
