"""A project of one's own: `flux init` in an empty folder, a job made from photos, and its trained LoRA."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from flux_training.commands.init.command import init, with_submodules
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


def test_two_projects_of_ones_own(own_projects: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = own_projects
    tool = git(one, "ls-files", "--stage", "flux-training").split()
    assert tool[:2] == ["160000", git(one / "flux-training", "rev-parse", "HEAD").strip()]
    assert "Stack" in flux(one, "preview")  # of a stack without jobs

    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        photo(number, (1024, 768)).save(photos / f"{number}.jpg")
        (photos / f"{number}.txt").write_text("tr1gger cat on a gradient")
    flux(one / "jobs", "new", "cat", "--from", str(photos), "--trigger", "tr1gger cat", "--stack", "dev")
    config = one / "jobs/cat/train.yml"
    config.write_text(re.sub(r"(?m)^( *)(steps|save_every): .*", r"\g<1>\g<2>: 20", config.read_text()))
    flux(other, "cloud")
    flux(one, "up")
    assert cloud_page(one) != cloud_page(other)
    (run,) = (one / "outputs/dev/cat").iterdir()
    assert load_file(run / "cat.safetensors")
    assert json.loads((run / ".fetched.json").read_text())["owner"] == "my-loras/dev"
    assert git(one / "flux-training", "status", "--porcelain") == ""
    assert not (other / "outputs").exists()
    moves_under_another_name(one, tmp_path / "moved")


def moves_under_another_name(one: Path, moved: Path) -> None:
    arguments = [str(moved), "--from", str(one), "--name", "renamed"]
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
    assert "'1 a' is no name of a project" in name
    assert [path.name for path in (tmp_path / "1 a").iterdir()] == ["photo.jpg"]


def test_workflows_check_out_the_tool() -> None:
    step = "        with:\n          persist-credentials: false\n          lfs: true\n"
    assert with_submodules(step) == step.replace("false\n", "false\n          submodules: true\n")
