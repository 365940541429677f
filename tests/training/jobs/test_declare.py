"""Which folders a stack's `jobs` select; the exact bytes of manifest and digest."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from flux_training.training.dataset.manifest import (
    Image,
    canonical_json,
    dataset_digest,
    dataset_index,
    manifest_json,
    parse_manifest,
)
from flux_training.training.jobs.declare import choose_jobs, gather_jobs, job_folder_names
from flux_training.training.jobs.examine import Examiner, JobExamination, JobPlace
from flux_training.training.settings import JobSettings, StackSettings

FOLDERS = ["cat", "cat-2", "dog"]
ONE, TWO, SKIP = JobSettings(attempt=2), JobSettings(attempt=3), JobSettings(skip=True)


@pytest.mark.parametrize(
    ("declared", "chosen"),
    [
        ({}, {}),
        ({"cat": ONE}, {"cat": ONE}),
        ({"cat*": ONE}, {"cat": ONE, "cat-2": ONE}),
        ({"*": ONE, "cat*": TWO}, {"cat": TWO, "cat-2": TWO, "dog": ONE}),
        ({"cat*": TWO, "*": ONE}, {"cat": ONE, "cat-2": ONE, "dog": ONE}),
        # An exact name wins over globs, in any order.
        ({"cat": TWO, "cat*": ONE}, {"cat": TWO, "cat-2": ONE}),
        ({"cat*": ONE, "cat": SKIP}, {"cat-2": ONE}),
        ({"cat": SKIP}, {}),
        ({"d?g": ONE}, {"dog": ONE}),
        ({"[cd]?[tg]": ONE}, {"cat": ONE, "dog": ONE}),
    ],
)
def test_names_and_globs_select_folders(
    declared: dict[str, JobSettings], chosen: dict[str, JobSettings]
) -> None:
    assert choose_jobs(declared, FOLDERS, "jobs") == (chosen, [])


def test_names_and_globs_without_a_folder_are_reported() -> None:
    chosen, findings = choose_jobs({"dgo": ONE, "x*": ONE, "none-such": ONE, "cat": ONE}, FOLDERS, "jobs")
    assert chosen == {"cat": ONE}
    assert [(one.code, one.job, one.place, one.message) for one in findings] == [
        ("glob-empty", "", "jobs", "`x*` matches no folder in jobs"),
        ("job-unknown", "", "jobs", "`dgo` is not a folder in jobs (did you mean `dog`?)"),
        ("job-unknown", "", "jobs", "`none-such` is not a folder in jobs"),
    ]


IMAGES = {"b.jpg": Image("b.jpg", 2, "b" * 64), "a.jpg": Image("a.jpg", 1, "a" * 64)}


def test_manifest_bytes_are_stable() -> None:
    # If these bytes changed, every existing stack would upload and train everything again.
    raw = manifest_json(IMAGES, {"a.jpg": "ä", "b.jpg": "b"})
    a = f'"a.jpg":{{"caption":"ä","sha256":"{"a" * 64}","size":1}}'
    b = f'"b.jpg":{{"caption":"b","sha256":"{"b" * 64}","size":2}}'
    assert raw.decode() == f'{{"images":{{{a},{b}}},"version":1}}'
    assert parse_manifest(raw) == (IMAGES, {"a.jpg": "ä", "b.jpg": "b"})
    assert canonical_json({"b": [1, None], "a": 1.5}) == b'{"a":1.5,"b":[1,null]}'


def test_dataset_digest_is_the_hash_of_the_index() -> None:
    a, b = (f'"{name}.jpg":{{"sha256":"{name * 64}","size":{size}}}' for name, size in (("a", 1), ("b", 2)))
    index = f'{{"images":{{{a},{b}}},"version":1}}'
    assert dataset_index(IMAGES).decode() == index
    assert dataset_digest(IMAGES) == hashlib.sha256(index.encode()).hexdigest()


def stack(**jobs: JobSettings) -> StackSettings:
    cluster = {"environment": {"MINE": "1"}}
    return StackSettings.model_validate(
        {"cloud": "local", "storage": {"bucket": "flux"}, "jobs": jobs, "cluster": cluster}
    )


class RecordingExaminer(Examiner):
    """Records the places that it examines."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[JobPlace] = []

    def examine(self, places: Sequence[JobPlace]) -> list[JobExamination]:
        self.places += places
        return super().examine(places)


def test_jobs_given_by_name_are_examined_too(tmp_path: Path) -> None:
    for name in FOLDERS:
        (tmp_path / "jobs" / name).mkdir(parents=True)
    settings = stack(cat=ONE, none=ONE)
    examiner = RecordingExaminer()
    found = gather_jobs(settings, tmp_path, examiner, ["dog", "cat"])
    assert found.settings == {"cat": ONE, "dog": JobSettings()}
    assert [one.message for one in found.findings] == [f"`none` is not a folder in {tmp_path / 'jobs'}"]
    assert [one.name for one in found.jobs] == ["cat", "dog"]
    variables = {"MINE", "FLUX_RUN_ID", "FLUX_ATTEMPT", "FLUX_JOB"}
    assert [one.variables for one in examiner.places] == [variables] * 2
    # Findings in declared jobs are left out with `declared=False`.
    alone = gather_jobs(settings, tmp_path, Examiner(), ["dog"], declared=False)
    assert (alone.settings, alone.findings) == ({"dog": JobSettings()}, [])


def test_an_unknown_dataset_is_reported_for_its_job(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "cat").mkdir(parents=True)
    examiner = RecordingExaminer()
    found = gather_jobs(stack(cat=JobSettings(dataset="kat")), tmp_path, examiner)
    assert [(one.code, one.job, one.message) for one in found.findings] == [
        (
            "dataset-unknown",
            "cat",
            f"job `cat`: dataset `kat` is not a folder in {tmp_path / 'jobs'} (did you mean `cat`?)",
        )
    ]
    # An unknown dataset has no further findings.
    assert [one.dataset for one in examiner.places] == [None]
    assert [finding.code for finding in found.jobs[0].findings] == ["config-missing"]
    for settings in (JobSettings(), JobSettings(dataset="cat")):
        gather_jobs(stack(cat=settings), tmp_path, examiner)
    assert [one.dataset for one in examiner.places] == [None, *[tmp_path / "jobs/cat"] * 2]


def test_hidden_folders_and_files_are_not_jobs(tmp_path: Path) -> None:
    assert job_folder_names(tmp_path / "none") == []
    for name in ("dog", "cat", ".hidden", "XXXX"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    assert job_folder_names(tmp_path) == ["XXXX", "cat", "dog"]
