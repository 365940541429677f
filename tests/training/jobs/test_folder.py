"""Reading job folders, and the faults that are reported."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flux_training.training.errors import BadInput
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.folder import read_config, read_images
from flux_training.training.settings import JobSettings, StackSettings, StorageSettings
from tests.training.job_folders import make_job, write_image


def settings(**jobs: JobSettings) -> StackSettings:
    return StackSettings(cloud="local", storage=StorageSettings(bucket="bucket"), jobs=jobs)


def test_a_valid_folder_is_read(tmp_path: Path) -> None:
    make_job(tmp_path / "jobs", "cat", steps=30, save_every=15)
    (job,) = declare_jobs(settings(cat=JobSettings()), tmp_path)
    assert sorted(job.image_set.captions) == ["00001.jpg", "00002.jpg", "00003.jpg"]
    assert job.image_set.captions["00002.jpg"] == "tr1gger, picture 2"
    sizes = [path.stat().st_size for path in (tmp_path / "jobs/cat/dataset").glob("*.jpg")]
    assert (job.image_set.count, job.image_set.size) == (3, sum(sizes))
    assert (job.folder.steps, job.folder.save_every) == (30, 15)
    assert job.folder.raw_config == (tmp_path / "jobs/cat/train.yml").read_bytes()


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".webp", ".JPG"])
def test_every_image_suffix_of_the_trainer_is_accepted(tmp_path: Path, suffix: str) -> None:
    folder = make_job(tmp_path, "cat", images=0)
    write_image(folder / "dataset" / f"a{suffix}", 1)
    (folder / "dataset/a.txt").write_text("tr1gger", encoding="utf-8")
    assert list(read_images(folder).images) == [f"a{suffix}"]


def _spoil_train_yml(old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "train.yml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return spoil


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no train.yml": (lambda f: (f / "train.yml").unlink(), "no train.yml"),
    "another name": (_spoil_train_yml('"cat"', '"dog"'), "config.name is `dog`, but the folder is `cat`"),
    "not YAML": (_spoil_train_yml("meta:", "meta: ]"), "not YAML"),
    "no steps": (_spoil_train_yml("steps: 20", "stepps: 20"), "train.steps is not set"),
    "elsewhere trained": (
        _spoil_train_yml("training_folder: output", "training_folder: out"),
        "training_folder is 'out'",
    ),
    "elsewhere read": (
        _spoil_train_yml("folder_path: dataset", "folder_path: /data"),
        "folder_path is '/data'",
    ),
    "image without caption": (lambda f: (f / "dataset/00001.txt").unlink(), "00001.txt: no caption"),
    "caption without image": (
        lambda f: (f / "dataset/00001.jpg").unlink(),
        "00001.txt: a caption without an image",
    ),
    "empty caption": (lambda f: (f / "dataset/00001.txt").write_text("\n"), "the caption is empty"),
    "caption not UTF-8": (lambda f: (f / "dataset/00001.txt").write_bytes(b"caf\xe9"), "not UTF-8"),
    "not an image": (lambda f: (f / "dataset/00001.jpg").write_text("hello"), "not an image"),
    "half an image": (
        lambda f: (f / "dataset/00001.jpg").write_bytes((f / "dataset/00001.jpg").read_bytes()[:500]),
        "cannot be read as an image",
    ),
    "a subfolder": (lambda f: (f / "dataset/more").mkdir(), "more: neither an image"),
    "an impossible date": (_spoil_train_yml("meta:", "when: 2024-99-99\nmeta:"), "cannot be read"),
    "a date as a key": (
        _spoil_train_yml("meta:", "2024-01-01: x\nmeta:"),
        "ai-toolkit cannot convert it to JSON",
    ),
    "a circle": (_spoil_train_yml("meta:", "loop: &a [*a]\nmeta:"), "ai-toolkit cannot convert it to JSON"),
    "a quote in the name": (_spoil_train_yml('"cat"', "'c\"at'"), 'config.name is `c"at`'),
    "a stranger": (lambda f: (f / "dataset/notes.doc").write_text("x"), "neither an image"),
    "two images, one caption": (
        lambda f: write_image(f / "dataset/00001.png", 9),
        "would share the caption 00001.txt",
    ),
    "no dataset": (lambda f: (f / "dataset").rename(f / "data"), "no such folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_reported(tmp_path: Path, fault: str) -> None:
    break_it, words = FAULTS[fault]
    break_it(make_job(tmp_path / "jobs", "cat"))
    with pytest.raises(BadInput) as caught:
        declare_jobs(settings(cat=JobSettings()), tmp_path)
    assert len(caught.value.findings) == 1
    assert words in caught.value.findings[0]


def test_all_faults_of_all_folders_are_reported_together(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    (make_job(jobs, "cat") / "train.yml").unlink()
    dog = make_job(jobs, "dog")
    (dog / "dataset/00001.txt").unlink()
    (dog / "dataset/00002.jpg").write_text("no picture")
    declared = {"cat": JobSettings(), "dog": JobSettings(), "bird": JobSettings(), "x*": JobSettings()}
    with pytest.raises(BadInput) as caught:
        declare_jobs(settings(**declared), tmp_path)
    text = "\n".join(caught.value.findings)
    assert len(caught.value.findings) == 5
    for words in (
        "`x*` matches no folder",
        "`bird` is not a folder",
        "no train.yml",
        "00001.txt: no caption",
        "00002.jpg",
    ):
        assert words in text


def test_jobs_with_the_same_images_share_a_dataset(tmp_path: Path) -> None:
    for name in ("cat-1", "cat-2"):
        make_job(tmp_path / "jobs", name)
    make_job(tmp_path / "jobs", "dog", seed=1)
    globbed = settings(
        **{"cat-*": JobSettings(attempt=2), "cat-2": JobSettings(attempt=3), "dog": JobSettings()}
    )
    jobs = {job.name: job for job in declare_jobs(globbed, tmp_path)}
    assert {name: job.settings.attempt for name, job in jobs.items()} == {"cat-1": 2, "cat-2": 3, "dog": 1}
    assert {name: job.dataset_of for name, job in jobs.items()} == {
        "cat-1": "cat-1",
        "cat-2": "cat-1",
        "dog": "dog",
    }


def test_a_job_can_train_on_the_images_of_another(tmp_path: Path) -> None:
    make_job(tmp_path / "jobs", "cat")
    other = make_job(tmp_path / "jobs", "cat-high-rank", images=0)
    (other / "dataset").rmdir()
    jobs = declare_jobs(
        settings(**{"cat-high-rank": JobSettings(dataset="cat"), "cat": JobSettings()}), tmp_path
    )
    assert {job.dataset_of for job in jobs} == {"cat"}
    assert len({job.run_id for job in jobs}) == 2
    with pytest.raises(BadInput, match=r"dataset `kat` is not a folder .*did you mean `cat`"):
        declare_jobs(settings(**{"cat-high-rank": JobSettings(dataset="kat")}), tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [("my dog", "letters, digits"), ("-dog", "letters, digits"), ("sam", "samples"), ("run", "run.json")],
)
def test_invalid_job_names_are_rejected(tmp_path: Path, name: str, words: str) -> None:
    make_job(tmp_path, name)
    with pytest.raises(BadInput, match=words):
        read_config(tmp_path / name)
