"""Which folders a stack's `jobs` mean; the manifest and its digest, byte for byte."""

from __future__ import annotations

import hashlib

import pytest

from training.declare import choose
from training.manifest import Image, canonical_json, dataset_digest, dataset_index, manifest, parse_manifest
from training.settings import JobSettings

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
        # A name's own entry wins, wherever it stands.
        ({"cat": TWO, "cat*": ONE}, {"cat": TWO, "cat-2": ONE}),
        ({"cat*": ONE, "cat": SKIP}, {"cat-2": ONE}),
        ({"cat": SKIP}, {}),
        ({"d?g": ONE}, {"dog": ONE}),
        ({"[cd]?[tg]": ONE}, {"cat": ONE, "dog": ONE}),
    ],
)
def test_which_folders_are_meant(declared: dict[str, JobSettings], chosen: dict[str, JobSettings]) -> None:
    assert choose(declared, FOLDERS, "jobs") == (chosen, [])


def test_what_means_no_folder_is_told_each_by_itself() -> None:
    chosen, findings = choose({"dgo": ONE, "x*": ONE, "none-such": ONE, "cat": ONE}, FOLDERS, "jobs")
    assert chosen == {"cat": ONE}
    assert [(one.code, one.job, one.place, one.message) for one in findings] == [
        ("glob-empty", "", "jobs", "`x*` matches no folder under jobs"),
        ("job-unknown", "", "jobs", "`dgo` is no folder under jobs (did you mean `dog`?)"),
        ("job-unknown", "", "jobs", "`none-such` is no folder under jobs"),
    ]


IMAGES = {"b.jpg": Image("b.jpg", 2, "b" * 64), "a.jpg": Image("a.jpg", 1, "a" * 64)}


def test_the_manifests_bytes_stay_what_they_are() -> None:
    # Were these to change, every stack out there would send and train everything again.
    raw = manifest(IMAGES, {"a.jpg": "ä", "b.jpg": "b"})
    a = f'"a.jpg":{{"caption":"ä","sha256":"{"a" * 64}","size":1}}'
    b = f'"b.jpg":{{"caption":"b","sha256":"{"b" * 64}","size":2}}'
    assert raw.decode() == f'{{"images":{{{a},{b}}},"version":1}}'
    assert parse_manifest(raw) == (IMAGES, {"a.jpg": "ä", "b.jpg": "b"})
    assert canonical_json({"b": [1, None], "a": 1.5}) == b'{"a":1.5,"b":[1,null]}'


def test_the_digest_is_that_of_the_index() -> None:
    a, b = (f'"{name}.jpg":{{"sha256":"{name * 64}","size":{size}}}' for name, size in (("a", 1), ("b", 2)))
    index = f'{{"images":{{{a},{b}}},"version":1}}'
    assert dataset_index(IMAGES).decode() == index
    assert dataset_digest(IMAGES) == hashlib.sha256(index.encode()).hexdigest()
