"""Facts of images: what looks the same, what the cache keeps, and many at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from flux_training.training.dataset import facts as gather
from flux_training.training.dataset import workers
from flux_training.training.dataset.facts_cache import CACHE_FILE, is_settled
from flux_training.training.dataset.file_cache import CACHE_FOLDER
from flux_training.training.dataset.image_facts import look_at_image
from flux_training.training.dataset.perceptual_hash import BITS, NEAR, distance, near_pairs, perceptual_hash
from flux_training.training.finding import Finding
from flux_training.training.jobs.examine import KEPT_IN, Examiner
from flux_training.training.jobs.lint import lint_jobs
from tests.training.lint_folders import make_clean_job, picture, stack

CHANGES = {
    "smaller": lambda found: found.resize((100, 100)),
    "larger": lambda found: found.resize((700, 700), Image.Resampling.LANCZOS),
    "brighter": lambda found: ImageEnhance.Brightness(found).enhance(1.1),
    "fewer colours": lambda found: found.quantize(64),
    "grey": lambda found: found.convert("L"),
    "a little cropped": lambda found: found.crop((1, 1, 255, 255)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_looks_the_same(change: str) -> None:
    for seed in range(20):
        assert (
            distance(perceptual_hash(picture(seed)), perceptual_hash(CHANGES[change](picture(seed)))) <= NEAR
        )


def test_different_pictures_look_different() -> None:
    hashes = [(str(seed), perceptual_hash(picture(seed))) for seed in range(200)]
    assert list(near_pairs(hashes)) == []


def test_near_pairs_finds_what_comparing_all_would_find() -> None:
    chance = random.Random(1)
    hashes = [(str(number), chance.getrandbits(BITS)) for number in range(300)]
    for number in range(60):
        bits = hashes[number][1]
        for bit in chance.sample(range(BITS), chance.randrange(NEAR + 3)):
            bits ^= 1 << bit
        hashes.append((f"like {number}", bits))
    found = dict(near_pairs(hashes))
    for number in range(60):
        name, bits = hashes[300 + number]
        assert (name in found) == (distance(bits, hashes[number][1]) <= NEAR)
        assert found.get(name, str(number)) == str(number)


def test_ten_thousand_different_hashes_are_compared_with_few() -> None:
    chance = random.Random(2)
    looked_at = 0

    class Counted(int):
        def __xor__(self, other: int) -> int:
            nonlocal looked_at
            looked_at += 1
            return int(self) ^ other

    hashes = [(str(number), Counted(chance.getrandbits(BITS))) for number in range(10_000)]
    assert list(near_pairs(hashes)) == []
    assert looked_at < 10_000 * 50  # all pairs would be 50 million


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = make_clean_job(tmp_path / "jobs", "cat")
    age(folder / "dataset")
    return tmp_path


def age(dataset: Path) -> None:
    """As if the files had lain there for a while: the cache does not trust what is younger than its clock's tick."""
    past = time.time() - 3600
    for path in dataset.iterdir():
        os.utime(path, (past, past))


def findings(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Finding], int]:
    """Lint's findings, and how many images it had to look at."""
    looked: list[Path] = []

    def counting(paths: list[Path], tell: workers.Tell) -> list[object]:
        looked.extend(paths)
        return workers.look_at_images(paths, tell)  # type: ignore[return-value]

    monkeypatch.setattr(gather, "look_at_images", counting)
    # What whole jobs came to is remembered as well (test_examine.py); here it is about their images.
    shutil.rmtree(root / CACHE_FOLDER / KEPT_IN, ignore_errors=True)
    # The change time cannot be set: only its age is looked away from.
    monkeypatch.setattr("flux_training.training.dataset.file_cache.SETTLED_SECONDS", 0)
    report = lint_jobs(stack(cat={}), root, examiner=Examiner.of(root))
    return list(report.findings), len(looked)


def test_a_second_look_reads_no_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings(root, monkeypatch) == ([], 8)
    assert findings(root, monkeypatch) == ([], 0)


def test_only_what_changed_is_looked_at_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings(root, monkeypatch)
    path = root / "jobs/cat/dataset/00003.jpg"
    before = path.stat()
    raw = bytearray(path.read_bytes())
    raw[3:] = bytes(len(raw) - 3)
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found, looked = findings(root, monkeypatch)
    # The same size, modification time and inode: the change time tells.
    assert [finding.code for finding in found] == ["image-unreadable"]
    assert looked == 1


@pytest.mark.parametrize(("seconds", "settled"), [(2.2, False), (60, True)])
def test_a_file_is_young_within_any_tick_of_a_clock(seconds: float, settled: bool) -> None:
    """FAT's is two seconds; the time of the look itself is not exact either."""
    then = time.time_ns() - int(seconds * 1e9)
    assert is_settled((1, then, 0, 1)) == is_settled((1, 0, then, 1)) == settled


def test_a_young_file_is_not_kept(root: Path) -> None:
    (root / "jobs/cat/dataset/00001.jpg").touch()
    lint_jobs(stack(cat={}), root, examiner=Examiner.of(root))
    cache = root / CACHE_FOLDER / CACHE_FILE
    kept = json.loads(cache.read_text())["folders"] if cache.exists() else {}
    assert all("00001.jpg" not in entries for entries in kept.values())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"version": "0"}', b'{"version": null, "folders": {"x": 3}}', b"null"],
)
def test_a_broken_cache_is_ignored_and_mended(
    content: bytes, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = root / CACHE_FOLDER / CACHE_FILE
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert findings(root, monkeypatch) == ([], 8)
    assert findings(root, monkeypatch) == ([], 0)


def test_entries_that_are_no_facts_are_ignored(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings(root, monkeypatch)
    cache = root / CACHE_FOLDER / CACHE_FILE
    document = json.loads(cache.read_text())
    (entries,) = document["folders"].values()
    entries["00001.jpg"][4] = {"no": "facts"}
    entries["00002.jpg"] = 3
    cache.write_text(json.dumps(document))
    assert findings(root, monkeypatch) == ([], 2)


def test_a_checkout_that_cannot_be_written_to_has_no_cache(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / CACHE_FOLDER).write_text("in the way")
    assert findings(root, monkeypatch) == ([], 8)


def test_workers_see_what_one_process_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for number in range(40):
        paths.append(tmp_path / f"{number}.jpg")
        if number % 7:
            picture(number, 32).save(paths[-1])
        else:
            paths[-1].write_bytes(b"no image")
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert workers.look_at_images(paths, tell) == [look_at_image(path) for path in paths]
    assert done == len(paths)


def test_what_a_dead_worker_leaves_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.jpg" for number in range(40)]
    for number, path in enumerate(paths):
        picture(number, 32).save(path)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("sys.executable", "/bin/true")
    assert workers.look_at_images(paths) == [look_at_image(path) for path in paths]


def test_a_postscript_file_is_never_opened(tmp_path: Path) -> None:
    picture(1, 32).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.jpg")
    assert look_at_image(tmp_path / "x.jpg").damage == "not an image"


def test_a_line_is_said_for_each_thousand() -> None:
    lines: list[str] = []
    tell = gather.each_thousand(lines.append)
    for done in range(0, 2600, 7):
        tell(done, 2600)
    assert lines == ["looked at 1000 of 2600 images", "looked at 2000 of 2600 images"]


def test_what_was_looked_at_before_ctrl_c_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "KEPT_EVERY", 3)
    monkeypatch.setattr("flux_training.training.dataset.file_cache.SETTLED_SECONDS", 0)

    def stop_after_six(done: int, _total: int) -> None:
        if done > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lint_jobs(stack(cat={}), root, examiner=Examiner.of(root, progress=stop_after_six))
    assert findings(root, monkeypatch) == ([], 2)
