"""Importing a folder of photos: captions stay with their images, duplicates are skipped."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from flux_training.training.dataset.images import fingerprint_of, is_same, read_image
from flux_training.training.dataset.intake import (
    Duplicate,
    Intake,
    fingerprints_in,
    import_images,
    list_files_to_import,
    next_number,
)
from flux_training.training.errors import BadInput
from tests.support.photos import mixed_folder, photo


def taken_from(folder: Path, staging: Path, known: tuple[str, ...] = (), max_side: int = 0) -> Intake:
    staging.mkdir(exist_ok=True)
    return import_images(
        list_files_to_import(folder),
        staging,
        fingerprints_in(folder, [folder / name for name in known]),
        max_side,
    )


def folder_with(folder: Path, **captions: str | None) -> Path:
    """One image per name, with its caption unless that is None."""
    folder.mkdir()
    for index, (name, caption) in enumerate(captions.items()):
        photo(index).save(folder / f"{name}.png")
        if caption is not None:
            (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_each_image_of_a_mixed_folder_is_imported_once_with_its_caption(tmp_path: Path) -> None:
    expected = mixed_folder(tmp_path / "from")
    before = digests(tmp_path / "from")
    assert len(before) == 50
    intake = taken_from(tmp_path / "from", tmp_path / "staging")
    assert {taken.source: taken.caption for taken in intake.taken} == expected
    for taken in intake.taken:
        source = read_image(tmp_path / "from" / taken.source).image
        assert is_same(fingerprint_of(source), fingerprint_of(read_image(taken.file).image)), taken.source
    assert {duplicate.source: duplicate.kept for duplicate in intake.duplicates} == {
        "copy of IMG_1.jpg": "IMG_1.jpg",
        "IMG_5 (small).jpg": "IMG_5.jpg",
    }
    assert [finding.split(":")[0] for finding in intake.findings] == ["notes.txt", "broken.png", "empty.jpg"]
    assert [note.split(":")[0] for note in intake.notes] == ["dance.gif", "moving.webp"]
    assert digests(tmp_path / "from") == before


def test_files_are_imported_in_natural_order(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "from", img10=None, img2=None, IMG1=None)
    assert [taken.source for taken in taken_from(folder, tmp_path / "s").taken] == [
        "IMG1.png",
        "img2.png",
        "img10.png",
    ]


def test_largest_duplicate_is_kept_with_the_caption_of_the_other(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "from", small="the caption")
    photo(0, (720, 480)).save(folder / "large.png")
    intake = taken_from(folder, tmp_path / "s")
    assert [(taken.source, taken.caption) for taken in intake.taken] == [("large.png", "the caption")]
    assert intake.taken[0].file.is_file()
    assert intake.taken[0].fingerprint == fingerprint_of(read_image(folder / "large.png").image)
    assert intake.duplicates == [Duplicate("small.png", "large.png")]
    assert intake.notes == ["large.png: its caption is taken from its duplicate small.png"]


def test_different_captions_of_duplicates_are_reported(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "from", a="one")
    photo(0).save(folder / "b.png")
    (folder / "b.txt").write_text("two", encoding="utf-8")
    intake = taken_from(folder, tmp_path / "s")
    assert [(taken.source, taken.caption) for taken in intake.taken] == [("a.png", "one")]
    assert intake.notes == ["b.png: its caption differs from that of a.png, which is used"]


@pytest.mark.parametrize(
    ("caption_name", "found"),
    [
        ("é.txt", True),
        ("e\u0301.txt", True),
        ("é.caption", True),
        ("é.TXT", True),
        ("é.png.txt", True),
        ("e.txt", False),
    ],
)
def test_captions_are_found_under_other_spellings_of_the_name(
    tmp_path: Path, caption_name: str, found: bool
) -> None:
    folder = folder_with(tmp_path / "from", é=None)
    (folder / caption_name).write_text("\ufeff  words \r\n", encoding="utf-8")
    intake = taken_from(folder, tmp_path / "s")
    assert [taken.caption for taken in intake.taken] == (["words"] if found else [""])
    assert bool(intake.findings) is not found


def test_an_image_with_an_unreadable_caption_is_imported_without_it(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "from", a=None)
    (folder / "a.txt").write_bytes(b"caf\xe9")
    intake = taken_from(folder, tmp_path / "s")
    assert [taken.caption for taken in intake.taken] == [""]
    assert "a.txt: not UTF-8" in intake.findings[0]


def test_an_invalid_caption_of_two_images_is_reported_once(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "from", a="")
    photo(1).save(folder / "a.jpg")
    intake = taken_from(folder, tmp_path / "s")
    assert [taken.source for taken in intake.taken] == ["a.jpg", "a.png"]
    assert intake.findings == ["a.txt: the caption is empty; its image is imported without it"]


def test_txt_caption_wins_over_other_extensions(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "from", a="of a.txt")
    (folder / "a.caption").write_text("of a.caption", encoding="utf-8")
    assert [taken.caption for taken in taken_from(folder, tmp_path / "s").taken] == ["of a.txt"]


def test_images_that_the_job_already_has_are_skipped(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "from", a="its caption", b="words")
    intake = taken_from(folder, tmp_path / "s", known=("a.png",))
    assert intake.duplicates == [Duplicate("a.png", "a.png", "its caption")]
    assert [taken.source for taken in intake.taken] == ["b.png"]
    assert len(list((tmp_path / "s").iterdir())) == 1


def test_unreadable_images_of_the_job_have_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    photo(1).save(tmp_path / "b.png")
    fingerprints = fingerprints_in(tmp_path, [tmp_path / "a.png", tmp_path / "b.png"])
    assert fingerprints == [("b.png", fingerprint_of(photo(1)))]


def test_folders_hidden_and_system_files_are_not_imported(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "from", a=None)
    (folder / "more").mkdir()
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "._a.png").write_bytes(b"x")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "desktop.ini").write_bytes(b"x")
    intake = taken_from(folder, tmp_path / "s")
    assert [finding.split(":")[0] for finding in intake.findings] == ["more"]
    assert len(intake.taken) == 1


def test_a_photo_that_is_only_in_icloud_is_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "from", a=None)
    (folder / ".IMG_1.HEIC.icloud").write_bytes(b"bplist00")
    (folder / "Icon\r").touch()
    intake = taken_from(folder, tmp_path / "s")
    assert intake.findings == ["IMG_1.HEIC: only in iCloud; download it to this disk first"]


# A thumbnail comes first in the files of Nikon, Canon, Sony and Adobe; the last two are raw files under another name.
@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("DSC_1.NEF", {254: 1}),
        ("IMG_1.CR2", {}),
        ("DSC1.arw", {254: 1}),
        ("IMG_1.DNG", {50706: b"\1\4\0\0"}),
        ("renamed.tif", {254: 1}),
        ("renamed.jpg", {50706: b"\1\4\0\0"}),
    ],
)
def test_the_thumbnail_of_a_raw_file_is_not_taken_for_the_photo(
    name: str, tags: dict[int, int | bytes], tmp_path: Path
) -> None:
    folder = folder_with(tmp_path / "from", a=None)
    photo(1).resize((160, 120)).save(folder / name, "TIFF", tiffinfo=tags)
    intake = taken_from(folder, tmp_path / "s")
    assert [taken.source for taken in intake.taken] == ["a.png"]
    assert intake.findings == [
        f"{name}: a raw file of a camera; export it as JPEG or TIFF from a photo program"
    ]


@pytest.mark.parametrize("tags", [{}, {254: 0}, {254: 2}])
def test_an_ordinary_tiff_is_a_photo(tags: dict[int, int | bytes], tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    photo(1).save(tmp_path / "from/scan.tif", tiffinfo=tags)
    assert [taken.source for taken in taken_from(tmp_path / "from", tmp_path / "s").taken] == ["scan.tif"]


def test_large_photos_are_reduced(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "from", a=None, b=None)
    photo(2, (90, 60)).save(folder / "small.png")
    intake = taken_from(folder, tmp_path / "s", max_side=120)
    sizes = []
    for taken in intake.taken:
        with Image.open(taken.file) as image:
            assert image.format == "JPEG"
            sizes.append(image.size)
    assert (sizes, intake.reduced) == ([(120, 80), (120, 80), (90, 60)], 2)


def test_an_unreadable_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        list_files_to_import(tmp_path / "nowhere")


def test_next_number_follows_numbered_images_and_captions(tmp_path: Path) -> None:
    assert next_number(tmp_path) == 1
    for name in ("00002.jpg", "00007.txt", "cat.png", "9.md"):
        (tmp_path / name).touch()
    assert next_number(tmp_path) == 8


def test_a_git_lfs_pointer_named_as_an_image_is_recognised(tmp_path: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"
    (tmp_path / "cat.jpg").write_text(pointer, encoding="utf-8")
    [finding] = import_images(list_files_to_import(tmp_path), tmp_path / "staging").findings
    assert finding.startswith("cat.jpg: a Git LFS pointer, not the file itself; run `git lfs pull`")
