"""Reading datasets: facts of images and captions, progress, and the summary of findings."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux_training.training.dataset.facts import (
    MAX_CAPTION_BYTES,
    DatasetReader,
    read_caption,
    report_each_thousand_images,
)
from flux_training.training.dataset.image_facts import ORIENTATION_TAG, UPRIGHT, ImageFacts, read_image_facts
from flux_training.training.dataset.perceptual_hash import distance, perceptual_hash
from flux_training.training.finding import Finding, Problem, group_findings
from flux_training.training.jobs.examine import Examiner
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.settings import with_chosen_machines
from tests.training.lint_folders import make_clean_job, picture, stack


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def damage_of(tmp_path: Path, raw: bytes) -> tuple[bool, bool]:
    """(damaged, truncated)."""
    (tmp_path / "x").write_bytes(raw)
    facts = read_image_facts(tmp_path / "x")
    return bool(facts.damage), facts.truncated


@pytest.mark.parametrize("kind", ["WEBP", "JPEG", "PNG"])
def test_a_truncated_file_is_reported_as_truncated(kind: str, tmp_path: Path) -> None:
    raw = encoded(picture(1), kind)
    assert damage_of(tmp_path, raw) == (False, False)
    assert damage_of(tmp_path, raw[: len(raw) // 2]) == (True, True)
    assert damage_of(tmp_path, raw[:-400]) == (True, True)


def test_a_webp_missing_its_last_four_bytes_is_truncated(tmp_path: Path) -> None:
    assert damage_of(tmp_path, encoded(picture(1), "WEBP", lossless=True)[:-4]) == (True, True)


def test_a_corrupt_webp_of_full_length_is_damaged_but_not_truncated(tmp_path: Path) -> None:
    raw = bytearray(encoded(picture(1), "WEBP"))
    raw[30 : len(raw) - 2] = b"\xff" * (len(raw) - 32)
    assert damage_of(tmp_path, bytes(raw)) == (True, False)


@pytest.mark.parametrize(
    ("flat", "kind"),
    [
        (Image.new("L", (40, 30), 90), "PNG"),
        (Image.new("RGB", (40, 30), (90, 10, 200)), "PNG"),
        (Image.new("I;16", (40, 30), 9000), "PNG"),
        (Image.new("CMYK", (40, 30), (9, 8, 7, 6)), "TIFF"),
    ],
)
def test_an_image_of_one_colour_is_blank_in_every_mode(flat: Image.Image, kind: str, tmp_path: Path) -> None:
    (tmp_path / "flat").write_bytes(encoded(flat, kind))
    facts = read_image_facts(tmp_path / "flat")
    assert (facts.mode, facts.blank, facts.damage) == (flat.mode, True, "")


def test_a_gradient_with_hash_0_is_not_blank(tmp_path: Path) -> None:
    darkening = Image.new("L", (40, 40))
    darkening.putdata([250 - 3 * (x + y) for y in range(40) for x in range(40)])
    (tmp_path / "it").write_bytes(encoded(darkening, "PNG"))
    facts = read_image_facts(tmp_path / "it")
    assert (facts.hash, facts.blank) == (0, False)


def test_an_unreadable_file_is_reported_with_the_reason(tmp_path: Path) -> None:
    facts = read_image_facts(tmp_path / "gone.jpg")
    assert facts == ImageFacts("gone.jpg", 0, "", damage="No such file or directory")
    assert facts.unread


@pytest.mark.parametrize("orientation", [None, 1, 3, 6])
def test_orientation_is_read_from_exif(orientation: int | None, tmp_path: Path) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION_TAG] = orientation
    (tmp_path / "it").write_bytes(encoded(picture(1), "JPEG", exif=exif))
    assert read_image_facts(tmp_path / "it").orientation == (orientation or UPRIGHT)


def test_an_mpo_photo_counts_as_one_frame(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(encoded(picture(1), "MPO", save_all=True, append_images=[picture(2)]))
    facts = read_image_facts(tmp_path / "it")
    assert (facts.format, facts.frames, facts.damage) == ("MPO", 1, "")
    (tmp_path / "it").write_bytes(encoded(picture(1), "GIF", save_all=True, append_images=[picture(2)]))
    assert read_image_facts(tmp_path / "it").frames == 2


def see_through(opacity: int) -> Image.Image:
    image = picture(1).convert("RGBA")
    image.putalpha(opacity)
    return image


@pytest.mark.parametrize(
    ("image", "options", "transparent"),
    [
        (picture(1), {}, False),
        (see_through(255), {}, False),
        (see_through(254), {}, True),
        (picture(1).convert("P"), {}, False),
        (picture(1).convert("P"), {"transparency": 3}, True),
    ],
)
def test_an_image_is_transparent_only_if_a_pixel_is_not_opaque(
    image: Image.Image, options: dict[str, Any], transparent: bool, tmp_path: Path
) -> None:
    (tmp_path / "it").write_bytes(encoded(image, "PNG", **options))
    assert read_image_facts(tmp_path / "it").transparent is transparent


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LAB", "I", "I;16", "F", "RGBA", "LA"])
def test_perceptual_hash_is_similar_in_every_mode(mode: str) -> None:
    rgb = picture(3)
    changed = {
        "LAB": lambda: Image.merge(
            "LAB", [rgb.convert("L"), *(Image.new("L", rgb.size, 128) for _ in range(2))]
        ),
        "I;16": lambda: rgb.convert("L").convert("I").point(lambda value: value * 257).convert("I;16"),
        "I": lambda: rgb.convert("L").convert("I").point(lambda value: value * 1000),
        "F": lambda: rgb.convert("L").convert("F").point(lambda value: value * 0.001 - 7.0),
        "LA": lambda: rgb.convert("L").convert("LA"),
    }.get(mode, lambda: rgb.convert(mode))()
    assert changed.mode == mode
    assert distance(perceptual_hash(rgb), perceptual_hash(changed)) <= 10


def finding(job: str = "cat", code: str = "rule", line: int | None = None) -> Finding:
    return Finding(code, "warning", f"jobs/{job or 'x'}", line, "what", "why", "fix", job)


def test_findings_of_one_rule_are_one_line_with_the_first_places() -> None:
    found = (
        [finding(line=n) for n in range(1, 6)]
        + [finding("dog", line=2)]
        + [finding(code="other"), replace(finding("", "fatal"), severity="error")]
        + [finding(code="two", line=n) for n in (1, 2)]
        + [replace(finding(code="third", line=n), message=f"what {n}") for n in (1, 2)]
        + [replace(finding(code="fourth", line=n), message=f"what {n}") for n in (1, 2, 3, 4)]
    )
    assert [(group.severity, str(group)) for group in group_findings(found, "prod")] == [
        ("error", "jobs/x: what; why; fix [fatal]"),
        (
            "warning",
            "jobs/cat:1, cat:2, cat:3 and 3 more (in 2 jobs): what; why; fix [rule]; `./flux lint --each --stack prod` shows all",
        ),
        ("warning", "jobs/cat: what; why; fix [other]"),
        ("warning", "jobs/cat:1, cat:2: what; why; fix [two]"),
        (
            "warning",
            "jobs/cat:1, cat:2: what 1, what 2; why; fix [third]",
        ),
        (
            "warning",
            "jobs/cat:1, cat:2, cat:3 and 1 more: what 1, what 2, what 3 (and similar); why; fix [fourth]; `./flux lint --each --stack prod` shows all",
        ),
    ]
    assert group_findings([], "dev") == []


def test_progress_is_reported_every_thousand_images() -> None:
    said: list[tuple[int, str]] = []
    done = 0
    tell = report_each_thousand_images(lambda line: said.append((done, line)))
    for done in (1, 999, 1000, 1001, 1999, 2000, 2500, 4100):
        tell(done, 4500)
    assert said == [
        (1000, "checked 1000 of 4500 images"),
        (2000, "checked 2000 of 4500 images"),
        (4100, "checked 4000 of 4500 images"),
    ]


def test_progress_callback_is_called_for_each_new_image(tmp_path: Path) -> None:
    make_clean_job(tmp_path / "jobs", "cat", images=8)
    calls: list[tuple[int, int]] = []
    examiner = Examiner.of(tmp_path, lambda done, total: calls.append((done, total)))
    lint_jobs(stack(cat={}), tmp_path, examiner=examiner)
    assert calls == [(done, 8) for done in range(1, 9)]


def test_the_chosen_machine_replaces_only_gpu_and_priority() -> None:
    settings = stack(gpu=">= 32 GB", cat={})
    chosen = with_chosen_machines(settings, {"": ("RTX 5090 (32 GB)", "high")})
    assert chosen.cluster.gpu == "RTX 5090 (32 GB)"
    assert chosen.model_copy(update={"cluster": settings.cluster}) == settings
    assert chosen.cluster.model_copy(update={"gpu": settings.cluster.gpu}) == settings.cluster


@pytest.mark.parametrize(
    ("raw", "text", "fault"),
    [
        (b"a cat\n", "a cat", ""),
        (b"\xef\xbb\xbfa cat", "a cat", ""),
        (b" \r\n\t", "", "the caption is empty"),
        (b"", "", "the caption is empty"),
        (b"caf\xe9", "", "not UTF-8 (byte 3)"),
        # Windows-1252 (ostris/ai-toolkit#113, cocktailpeanut/fluxgym#436)
        (b"the cat\x92s tail", "", "not UTF-8 (byte 7)"),
        ("a cat".encode("utf-16"), "", "UTF-16"),
        (b"a" * MAX_CAPTION_BYTES, "a" * MAX_CAPTION_BYTES, ""),
        (b"a" * (MAX_CAPTION_BYTES + 1), "", "more than 1000000 bytes are too much for a caption"),
        (None, "", "cannot be read (No such file or directory)"),
    ],
    ids=[
        "plain",
        "with a mark",
        "blank",
        "empty",
        "Latin-1",
        "Windows-1252",
        "UTF-16",
        "as long as can be",
        "too long",
        "gone",
    ],
)
def test_captions_are_read_and_invalid_ones_reported(
    raw: bytes | None, text: str, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "1.txt"
    if raw is not None:
        path.write_bytes(raw)
    caption = read_caption(path)
    assert (caption.name, caption.text) == ("1.txt", text)
    assert (caption.fault.message if caption.fault else "") == fault
    assert caption.fault is None or caption.fault.path == str(path)


def test_dataset_files_are_sorted_into_images_captions_and_others(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    (folder / "folder.jpg").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "b.jpg", "a.PNG", "notes.md", ".hidden", "c.TXT"):
        (folder / name).write_bytes(b"x")
    dataset = DatasetReader().dataset(tmp_path)
    assert (list(dataset.captions), list(dataset.images)) == (["a.txt", "b.txt"], ["a.PNG", "b.jpg"])
    assert dataset.strangers == ("c.TXT", "folder.jpg", "notes.md")


@pytest.mark.parametrize(
    ("exists", "message"), [(False, "no such folder"), (True, "cannot be read (Not a directory)")]
)
def test_a_missing_dataset_folder_is_reported(exists: bool, message: str, tmp_path: Path) -> None:
    if exists:
        (tmp_path / "dataset").touch()
    dataset = DatasetReader().dataset(tmp_path)
    assert (dataset.captions, dataset.images) == ({}, {})
    assert dataset.faults == (Problem(str(tmp_path / "dataset"), message, code="dataset-missing"),)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Dataset", "; rename Dataset to dataset"),
        ("datasets", "; rename datasets to dataset"),
        ("dataset2", ""),
        ("data", ""),
    ],
)
def test_a_dataset_folder_of_another_spelling_is_named(name: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    [fault] = DatasetReader().dataset(tmp_path).faults
    assert fault.message == f"no such folder{hint}"


def test_postscript_files_are_not_opened(tmp_path: Path) -> None:
    picture(1, 32).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.jpg")
    assert read_image_facts(tmp_path / "x.jpg").damage == "not an image"
