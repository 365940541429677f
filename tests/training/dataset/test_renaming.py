"""Renumbering keeps images and captions together, even if it is killed."""

import os
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_training.training.dataset.renaming import (
    JOURNAL,
    LAST,
    Move,
    complete_interrupted,
    interrupted_renaming,
    plan_numbering,
    plan_undo,
    rename_files,
)
from flux_training.training.errors import BadInput, FluxError

STEMS = st.lists(
    st.sampled_from(["00001", "00002", "00003", "2", "10", "a b", "😀", "img", "IMG_2", "00004.x"]),
    min_size=1,
    max_size=7,
    unique=True,
)


def fill(
    folder: Path, stems: list[str], suffix: str = ".JPG", captioned: Callable[[int], bool] = lambda _: True
) -> None:
    """One image per name, with a caption; the content of both is the name."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, stem in enumerate(stems):
        (folder / f"{stem}{suffix}").write_text(stem, encoding="utf-8")
        if captioned(index):
            (folder / f"{stem}.txt").write_text(stem, encoding="utf-8")


def pairs(folder: Path) -> list[tuple[str, str | None]]:
    """The content of each image and of its caption, sorted by file name."""
    images = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".jpg")
    captions = [image.with_suffix(".txt") for image in images]
    return [
        (image.read_text(encoding="utf-8"), caption.read_text(encoding="utf-8") if caption.exists() else None)
        for image, caption in zip(images, captions, strict=True)
    ]


def contents(folder: Path) -> dict[str, str]:
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name not in (LAST, JOURNAL)
    }


def number_images(folder: Path) -> None:
    rename_files(folder, plan_numbering(folder))


def undo(folder: Path) -> None:
    rename_files(folder, plan_undo(folder))


@settings(max_examples=40, deadline=None)
@given(STEMS, st.integers(0, 127))
def test_renaming_keeps_pairs_and_can_be_undone(stems: list[str], which: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, stems, captioned=lambda index: bool(which >> index & 1))
        before, expected = contents(folder), sorted(pairs(folder))
        number_images(folder)
        after = pairs(folder)
        assert sorted(after) == expected
        assert sorted(file for file in contents(folder) if file.endswith(".jpg")) == [
            f"{number:05}.jpg" for number in range(1, len(stems) + 1)
        ]
        assert plan_numbering(folder).moves == ()
        if before != contents(folder):
            undo(folder)
        assert contents(folder) == before
        assert list(folder.glob(".rename*")) == []


def test_images_are_numbered_in_natural_order(tmp_path: Path) -> None:
    fill(tmp_path, ["img10", "img9", "img1"])
    number_images(tmp_path)
    assert pairs(tmp_path) == [("img1", "img1"), ("img9", "img9"), ("img10", "img10")]


def test_hidden_files_and_folders_are_not_numbered(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    for name in ("b.jpg", "._b.jpg", ".c.txt"):
        (tmp_path / name).touch()
    assert plan_numbering(tmp_path).moves == (Move("b.jpg", "00001.jpg"),)


# More calls than the renaming makes, so the last runs are not killed.
KILLED_AT = range(1, 24)


def kill_at(call: int, what: Callable[[], Any]) -> bool:
    """Run `what` in a process that is killed before its n-th change to the folder; False if it ended first."""
    child = os.fork()
    if child == 0:
        left = [call]

        def deadly(name: str) -> Callable[..., Any]:
            real = getattr(Path, name)

            def wrapped(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return wrapped

        for name in ("rename", "replace", "unlink"):
            setattr(Path, name, deadly(name))
        try:
            what()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_killed_renaming_is_completed_by_the_next_call(tmp_path: Path) -> None:
    killed = 0
    for call in KILLED_AT:
        folder = tmp_path / str(call)
        fill(folder, ["00002", "00001", "b", "a"])
        (folder / "00003.jpg").write_text("c", encoding="utf-8")
        expected = sorted(pairs(folder), key=str)
        killed += kill_at(call, partial(number_images, folder))
        complete_interrupted(folder)
        number_images(folder)
        assert sorted(pairs(folder), key=str) == expected, call
        assert [file for file in contents(folder) if file.startswith(".renaming")] == []
        assert plan_numbering(folder).moves == ()
    assert 10 < killed < len(KILLED_AT)


def test_a_killed_undo_is_completed_by_the_next_call(tmp_path: Path) -> None:
    killed = 0
    for call in KILLED_AT:
        folder = tmp_path / str(call)
        fill(folder, ["b", "a", "00001"])
        before = contents(folder)
        number_images(folder)
        killed += kill_at(call, partial(undo, folder))
        ended = complete_interrupted(folder)
        if ended is None and (folder / LAST).exists():
            undo(folder)
        assert not (folder / LAST).exists(), call
        assert {name: text for name, text in contents(folder).items() if name[0] != "."} == before, call
    assert 10 < killed < len(KILLED_AT)


def test_an_interrupted_plan_is_reported(tmp_path: Path) -> None:
    fill(tmp_path, ["b", "a"])
    forth = plan_numbering(tmp_path)
    assert kill_at(4, lambda: rename_files(tmp_path, forth))
    assert (interrupted_renaming(tmp_path), complete_interrupted(tmp_path)) == (forth, forth)
    back = plan_undo(tmp_path)
    assert kill_at(4, lambda: rename_files(tmp_path, back))
    assert (interrupted_renaming(tmp_path), complete_interrupted(tmp_path)) == (back, back)
    assert interrupted_renaming(tmp_path) is None


@pytest.mark.parametrize(("call", "step"), [(3, "away"), (6, "home")])
def test_journal_format_is_stable(tmp_path: Path, call: int, step: str) -> None:
    fill(tmp_path, ["é"], captioned=lambda _: False)
    assert kill_at(call, lambda: number_images(tmp_path))
    assert (
        (tmp_path / ".rename-under-way.json").read_text(encoding="utf-8")
        == f"""\
{{
 "version": 1,
 "undo": false,
 "step": "{step}",
 "moves": [
  {{
   "old": "é.JPG",
   "new": "00001.jpg"
  }}
 ]
}}"""
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.jpg", "a.png", "a.txt"], "2 images share the caption a.txt"),
        (["a.jpg", "b.txt"], "a caption without an image"),
        (["a.jpg", "a.TXT"], "captions end in `.txt`"),
    ],
)
def test_folders_with_ambiguous_pairs_are_rejected(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(BadInput, match=words):
        plan_numbering(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)


def test_undo_does_not_overwrite_a_new_file(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    number_images(tmp_path)
    (tmp_path / "a.JPG").write_text("new", encoding="utf-8")
    with pytest.raises(BadInput, match=r"a\.JPG: this file has a name that the renaming needs"):
        undo(tmp_path)
    assert pairs(tmp_path)[:2] == [("a", "a"), ("b", "b")]


def test_resuming_does_not_overwrite_a_new_file(tmp_path: Path) -> None:
    fill(tmp_path, ["a"], captioned=lambda _: False)
    kill_at(4, lambda: number_images(tmp_path))
    (tmp_path / "00001.jpg").write_text("new", encoding="utf-8")
    with pytest.raises(FluxError) as error:
        complete_interrupted(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / '00001.jpg'} appeared while files were being renamed; a.JPG would overwrite it; "
        "move it elsewhere, then run this again"
    )
    (tmp_path / "00001.jpg").rename(tmp_path / "elsewhere.jpg")
    complete_interrupted(tmp_path)
    assert (tmp_path / "00001.jpg").read_text(encoding="utf-8") == "a"


def test_undo_renames_captions_written_later(tmp_path: Path) -> None:
    fill(tmp_path, ["b", "a", "00001"], captioned=lambda _: False)
    number_images(tmp_path)
    for image in tmp_path.glob("*.jpg"):
        image.with_suffix(".txt").write_bytes(image.read_bytes())
    captioned = pairs(tmp_path)
    undo(tmp_path)
    assert sorted(pairs(tmp_path)) == sorted(captioned) == [("00001",) * 2, ("a",) * 2, ("b",) * 2]


def test_undo_renames_each_file_once(tmp_path: Path) -> None:
    fill(tmp_path, ["00001", "a", "b", "c"], captioned=lambda index: index == 1)
    number_images(tmp_path)
    for name in ("00001.txt", "00003.txt"):
        (tmp_path / name).touch()
    assert [(move.old, move.new) for move in plan_undo(tmp_path).moves] == [
        ("00001.jpg", "00001.JPG"),
        ("00002.jpg", "a.JPG"),
        ("00002.txt", "a.txt"),
        ("00003.jpg", "b.JPG"),
        ("00004.jpg", "c.JPG"),
        ("00003.txt", "b.txt"),
    ]


def test_a_new_file_with_an_old_name_stops_resuming(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    kill_at(4, lambda: number_images(tmp_path))
    (tmp_path / "a.JPG").write_text("new", encoding="utf-8")
    with pytest.raises(FluxError) as error:
        complete_interrupted(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'a.JPG'} appeared while files were being renamed; "
        "the file that had this name is now .renaming-0; move it elsewhere, then run this again"
    )
    (tmp_path / "a.JPG").rename(tmp_path / "c.JPG")
    complete_interrupted(tmp_path)
    assert pairs(tmp_path) == [("a", "a"), ("b", "b"), ("new", None)]


def test_temporary_files_of_a_lost_journal_are_not_overwritten(tmp_path: Path) -> None:
    fill(tmp_path, ["a"])
    (tmp_path / ".renaming-0").write_text("old", encoding="utf-8")
    before = contents(tmp_path)
    with pytest.raises(BadInput, match=r"\.renaming-0: this file has a name that the renaming needs"):
        number_images(tmp_path)
    assert contents(tmp_path) == before


def test_undo_is_refused_if_a_file_is_gone(tmp_path: Path) -> None:
    fill(tmp_path, ["a"])
    number_images(tmp_path)
    (tmp_path / "00001.txt").unlink()
    with pytest.raises(BadInput, match=r"00001\.txt is missing"):
        plan_undo(tmp_path)


def test_undo_needs_a_previous_renaming(tmp_path: Path) -> None:
    with pytest.raises(FluxError) as error:
        plan_undo(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: there is no renaming to undo; undo needs the list of the last renaming, .rename-last.json"
    )


@pytest.mark.parametrize(
    ("name", "call", "step"),
    [
        (
            JOURNAL,
            complete_interrupted,
            "restore the file, or rename the files called .renaming-… by hand and delete it",
        ),
        (LAST, plan_undo, "restore the file, or delete it if you do not need the old names"),
    ],
)
def test_a_damaged_journal_is_reported_and_no_file_renamed(
    name: str, call: Callable[[Path], object], step: str, tmp_path: Path
) -> None:
    fill(tmp_path, ["a"])
    (tmp_path / name).touch()
    with pytest.raises(FluxError) as error:
        call(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / name}: cannot be read (Expecting value: line 1 column 1 (char 0)); "
        f"this file lists which files were renamed; {step}"
    )
    assert (tmp_path / "a.JPG").exists()
