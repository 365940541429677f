"""A LoRA for two noise stages (Wan 2.2 14B) is two files: checked, published and resumed together."""

import hashlib
import json
from pathlib import Path

import pytest

from flux_training.node.launcher.errors import ExitCode
from flux_training.training.runs.pins import StageDigests
from tests.node.fake_trainer import weights
from tests.node.runs import Node
from tests.node.test_faults import found_checkpoints

HIGH, LOW = "high_noise", "low_noise"


def saved(step: int, stage: str) -> str:
    return f"job_{step:09}_{stage}.safetensors"


def store(folder: Path, step: int, stages: tuple[str, ...] = (HIGH, LOW)) -> None:
    for stage in stages:
        (folder / saved(step, stage)).write_bytes(weights(step))


def test_both_files_are_published(tmp_path: Path) -> None:
    assert Node(tmp_path, "steps:0-20", "stages:20").run().published
    done = json.loads((tmp_path / "model/done.json").read_text())
    files = [tmp_path / f"model/job_{stage}.safetensors" for stage in (HIGH, LOW)]
    assert [path.read_bytes() for path in files] == [weights(20)] * 2
    assert done["size"] == 2 * len(weights(20))
    assert StageDigests(**done["stages"]).sha256 == done["sha256"]


@pytest.mark.parametrize("fault", ["missing", "cut", "of another step"])
def test_a_result_with_one_sound_file_is_none(fault: str, tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-20", "stages:20")
    change = {"missing": "unlink()", "cut": f"write_bytes({weights(20)[:-3]!r})"}
    change["of another step"] = f"write_bytes({weights(19)!r})"
    path = "output/job/job_low_noise.safetensors"
    script = (node.home / "run.py").read_text()
    node.set_trainer(program=f"{script}\nimport pathlib\npathlib.Path({path!r}).{change[fault]}\n")
    ended = node.run()
    assert (ended.code, ended.published) == (ExitCode.WEIGHTS_UNUSABLE, False)
    assert "job_low_noise.safetensors" in ended.out


def test_the_newest_pair_is_the_newest_for_the_trainer(tmp_path: Path) -> None:
    """Halves and older pairs are empty files, which it may prune."""
    node = Node(tmp_path)
    store(node.stored, 8)
    store(node.stored, 12)
    store(node.stored, 16, (HIGH,))
    assert found_checkpoints(node) == [
        *((saved(8, stage), 0) for stage in (HIGH, LOW)),
        (saved(16, HIGH), 0),
        *((saved(12, stage), len(weights(12))) for stage in (HIGH, LOW)),
    ]


@pytest.mark.parametrize("damaged", [weights(16)[:-1], weights(15)])
def test_a_pair_with_a_damaged_file_is_not_used(damaged: bytes, tmp_path: Path) -> None:
    node = Node(tmp_path)
    store(node.stored, 8)
    store(node.stored, 16)
    (node.stored / saved(16, LOW)).write_bytes(damaged)
    used = [name for name, size in found_checkpoints(node) if size]
    assert used == [saved(8, HIGH), saved(8, LOW)]


def test_a_lone_half_is_no_reason_to_stop(tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-20", "stages:20")
    store(node.stored, 8, (LOW,))
    assert node.run().published


def test_a_parents_pair_is_continued(tmp_path: Path) -> None:
    node = Node(tmp_path)
    parent = node.run_files.base.with_name("parent") / "output"
    parent.mkdir(parents=True)
    store(parent, 8)
    node.run_files.parent_prefix = "runs/job/parent/"
    assert [name for name, _ in found_checkpoints(node)] == [saved(8, HIGH), saved(8, LOW)]


def test_a_planted_half_does_not_hide_the_result_of_one_file(tmp_path: Path) -> None:
    node = Node(tmp_path, "steps:0-20", "final:20")
    (node.stored / "job_high_noise.safetensors").write_bytes(weights(20))
    assert node.run().published
    assert (tmp_path / "model/job.safetensors").is_file()


def test_the_stand_in_trains_saves_and_resumes_both(tmp_path: Path) -> None:
    node = Node(tmp_path)
    path = node.run_files.config / "train.yml"
    path.write_text(path.read_text().replace("is_flux: true", "arch: wan22_14b"))
    node.reconfigure()
    assert node.run().published
    for stage in (HIGH, LOW):
        (node.stored / f"job_{stage}.safetensors").unlink()
    node.bring()
    ended = node.run()
    assert ended.published
    assert "RESUMING FROM output/job/job_000000016_low_noise.safetensors" in ended.out


def test_the_stand_in_counts_videos_only_with_a_number_of_frames(tmp_path: Path) -> None:
    node = Node(tmp_path)
    raw = (Path(__file__).resolve().parents[1] / "support/clip.mp4").read_bytes()
    (node.run_files.dataset / "turn.mp4").write_bytes(raw)
    manifest = json.loads((node.run_files.config / "manifest.json").read_text())
    entry = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest(), "caption": "tr1gger turns"}
    node.change("manifest", images={**manifest["images"], "turn.mp4": entry})
    ended = node.run()
    assert ended.published
    assert "Found 2 images" in ended.out
    path = node.run_files.config / "train.yml"
    path.write_text(
        path.read_text().replace("folder_path: dataset", "folder_path: dataset\n      num_frames: 17")
    )
    node.reconfigure()
    for saved_file in node.stored.glob("job*.safetensors"):
        saved_file.unlink()
    assert "Found 1 videos and 2 images" in node.run().out
