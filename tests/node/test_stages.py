"""A LoRA for two noise stages (Wan 2.2 14B) is two files: checked, published and resumed together."""

import hashlib
import json
from pathlib import Path

import pytest

from flux_training.node.launcher.errors import ExitCode
from flux_training.training.runs.pins import StageDigests
from tests.node.fake_trainer import weights
from tests.node.runs import RUN_ID, Node
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
    """Older pairs are empty files, which it may prune. Half of a newer one is deleted, or it would pass for half of the next."""
    node = Node(tmp_path)
    store(node.stored, 8)
    store(node.stored, 12)
    store(node.stored, 16, (HIGH,))
    assert found_checkpoints(node) == [
        *((saved(8, stage), 0) for stage in (HIGH, LOW)),
        *((saved(12, stage), len(weights(12))) for stage in (HIGH, LOW)),
    ]
    assert not (node.stored / saved(16, HIGH)).exists()


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
    assert not (node.stored / saved(8, LOW)).exists()


# Of the same step and size as weights(), from another training.
OTHER_VALUES = (0.5, -1.0, 2.0, 1.0)


def record(node: Node, *names: str, lost: bool = False) -> None:
    """What an earlier start of this launcher has recorded: the digests of the files as they are in the bucket."""
    digests = {name: hashlib.sha256((node.stored / name).read_bytes()).hexdigest() for name in names}
    report = {"run_id": RUN_ID, "checkpoints": digests, "checkpoints_lost": lost}
    (node.stored / "progress.json").write_text(json.dumps(report))


@pytest.mark.parametrize("swapped", [(), (HIGH,), (LOW,), (HIGH, LOW)])
def test_a_pair_is_resumed_only_with_the_recorded_digests_of_both(
    swapped: tuple[str, ...], tmp_path: Path
) -> None:
    node = Node(tmp_path)
    store(node.stored, 8)
    store(node.stored, 16)
    record(node, *(saved(step, stage) for step in (8, 16) for stage in (HIGH, LOW)))
    for stage in swapped:
        (node.stored / saved(16, stage)).write_bytes(weights(16, OTHER_VALUES))
    used = 8 if swapped else 16
    assert [name for name, size in found_checkpoints(node) if size] == [saved(used, HIGH), saved(used, LOW)]
    left = [(node.stored / saved(16, stage)).exists() for stage in (HIGH, LOW)]
    assert left == [not swapped] * 2


@pytest.mark.parametrize("recorded", [(), (HIGH,), (LOW,)])
def test_a_pair_of_two_trainings_is_not_resumed(recorded: tuple[str, ...], tmp_path: Path) -> None:
    """The node of the second one died between the uploads of its two files."""
    node = Node(tmp_path)
    store(node.stored, 8)
    store(node.stored, 16)
    (node.stored / saved(16, HIGH)).write_bytes(weights(16, OTHER_VALUES))
    pair = [saved(8, stage) for stage in (HIGH, LOW)]
    record(node, *pair, *(saved(16, stage) for stage in recorded))
    assert [name for name, size in found_checkpoints(node) if size] == pair


def test_a_first_pair_without_digests_is_trained_again_and_its_gpu_seconds_are_kept(tmp_path: Path) -> None:
    """Its node died between the upload of the pair and that of the progress.json that records it."""
    node = Node(tmp_path, "steps:0-20", "stages:20")
    store(node.stored, 8)
    earlier = {"run_id": RUN_ID, "restarts": 0, "gpu_seconds": 100, "begun": [0, 1], "checkpoints": {}}
    (node.stored / "progress.json").write_text(json.dumps(earlier))
    ended = node.run()
    assert ended.published
    assert f"{saved(8, HIGH)} is not used: no SHA-256 of both noise stages was recorded" in ended.out
    assert f"{saved(8, LOW)} is deleted: it is trained again" in ended.out
    assert ended.progress["gpu_seconds"] >= 100
    assert {key: ended.progress[key] for key in ("restarts", "resumed", "begun")} == {
        "restarts": 1,
        "resumed": [0],
        "begun": [0, 2],
    }


def test_a_final_pair_of_two_trainings_is_never_published(tmp_path: Path) -> None:
    node = Node(tmp_path, "exit:1")
    for stage, values in ((HIGH, OTHER_VALUES), (LOW, (0.5, -1.0, 2.0, 0.0))):
        (node.stored / f"job_{stage}.safetensors").write_bytes(weights(20, values))
    record(node, "job_high_noise.safetensors")
    assert not node.run().published
    assert list(node.stored.glob("job_*_noise.safetensors")) == []


def test_of_a_lost_pair_both_files_are_deleted(tmp_path: Path) -> None:
    """Half of it would pass for half of the next one."""
    node = Node(tmp_path, "steps:0-20", "stages:20")
    store(node.stored, 8)
    record(node, saved(8, HIGH), saved(8, LOW), lost=True)
    (node.stored / saved(8, LOW)).write_bytes(weights(8, OTHER_VALUES))
    assert node.run().published
    assert list(node.stored.glob("job_0*")) == []


def test_a_pair_of_an_older_launcher_is_resumed_twice(tmp_path: Path) -> None:
    """It recorded no digests; the next start finds those of this one."""
    node = Node(tmp_path, "exit:1")
    store(node.stored, 8)
    (node.stored / "progress.json").write_text(json.dumps({"run_id": RUN_ID}))
    for _ in range(2):
        assert node.run().progress["begun"][0] == 8
        node.bring()


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
