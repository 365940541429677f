"""From a folder of photos, as it comes from a phone or a disk, to numbered pairs of image and caption.

What cannot be taken is a finding, and no reason to stop: every file is looked at, and the sources are only read.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flux_training.training.dataset.facts import read_caption
from flux_training.training.dataset.images import Look, is_same, jpeg, look_of, read_picture, reduce
from flux_training.training.errors import BadInput
from flux_training.training.files import natural_key
from flux_training.training.names import CAPTION_SUFFIX, IMAGE_SUFFIXES

CAPTION_SUFFIXES = (CAPTION_SUFFIX, ".caption")
NUMBERED = "{:05}"
# Of Windows; others' begin with a dot.
SYSTEMS_OWN = ("Thumbs.db", "desktop.ini")
TAKEN_SUFFIX = ".jpg"
# ai-toolkit trains FLUX at up to 1024 pixels a side; twice that leaves room to crop and to train larger.
MAX_SIDE = 2048


@dataclass(frozen=True)
class Taken:
    """One picture, converted and lying at `file` (not yet numbered). `caption` may be empty."""

    source: str
    file: Path
    caption: str
    look: Look


@dataclass(frozen=True)
class Duplicate:
    """`source` shows the same as `kept`, which is a source's name or the name of an image of the job.

    Only the latter can have use for `caption`: an image of the job may by chance have the name of a source.
    """

    source: str
    kept: str
    caption: str = ""


@dataclass
class Intake:
    """What came of a folder. `findings`: files that were left out, and why. `notes`: what was done to others."""

    taken: list[Taken] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reduced: int = 0


@dataclass(frozen=True)
class Sources:
    """The files of a folder: `images` are those to try, in their natural order; captions are keyed by name."""

    images: list[Path]
    captions: dict[str, Path]
    strangers: list[str]

    def caption_of(self, image: Path) -> Path | None:
        """`photo.txt` or `photo.caption` for `photo.heic`; also `photo.heic.txt`, as some tools write it."""
        return self.captions.get(_same_name(image.stem)) or self.captions.get(_same_name(image.name))


def list_sources(folder: Path) -> Sources:
    """What lies directly in the folder; hidden files and the system's own are passed over. Raises BadInput."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name))
    except OSError as error:
        raise BadInput([f"{folder}: cannot be read ({error.strerror}); give a folder of images"]) from error
    entries = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in SYSTEMS_OWN]
    strangers = [
        f"{entry.name}: a folder; only the files directly in {folder} are taken"
        for entry in entries
        if entry.is_dir()
    ]
    files = [entry for entry in entries if not entry.is_dir()]
    texts = [file for file in files if file.suffix.lower() in CAPTION_SUFFIXES]
    images = [file for file in files if file.suffix.lower() not in CAPTION_SUFFIXES]
    captions: dict[str, Path] = {}
    for suffix in reversed(CAPTION_SUFFIXES):
        captions |= {_same_name(text.stem): text for text in texts if text.suffix.lower() == suffix}
    looked_for = {_same_name(image.stem) for image in images} | {_same_name(image.name) for image in images}
    strangers += [
        f"{text.name}: a text without an image of the same name"
        for text in texts
        if _same_name(text.stem) not in looked_for
    ]
    return Sources(images, captions, strangers)


def take_in(
    sources: Sources,
    staging: Path,
    known: Sequence[tuple[str, Look]] = (),
    max_side: int = MAX_SIDE,
    tell: Callable[[], None] = lambda: None,
) -> Intake:
    """Read every source once and put each different picture into `staging` as a JPEG.

    `known` are the looks of the images that the job has already; `tell` is called after each source.
    """
    intake = Intake(findings=list(sources.strangers))
    kept: list[Taken] = []
    for index, source in enumerate(sources.images):
        try:
            picture = read_picture(source)
        except BadInput as bad:
            intake.findings += bad.findings
        else:
            intake.notes += picture.notes
            look = look_of(picture.image)
            image = reduce(picture.image, max_side)
            intake.reduced += image.size != picture.image.size
            file = staging / f"{index}{TAKEN_SUFFIX}"
            file.write_bytes(jpeg(image))
            kept.append(Taken(source.name, file, _caption(sources, source, intake.findings), look))
        tell()
    _sort_out(kept, known, intake)
    return intake


def looks_in(dataset: Path, files: Iterable[Path]) -> list[tuple[str, Look]]:
    """How the images of a job look that has some already; one that cannot be read has no look."""
    found = []
    for file in files:
        try:
            found.append((str(file.relative_to(dataset)), look_of(read_picture(file).image)))
        except BadInput:
            continue
    return found


def next_number(dataset: Path) -> int:
    """One more than the highest number that an image or a caption of the dataset has for its name."""
    suffixes = (*IMAGE_SUFFIXES, CAPTION_SUFFIX)
    stems = [file.stem for file in dataset.iterdir() if file.suffix.lower() in suffixes]
    return 1 + max((int(stem) for stem in stems if stem.isascii() and stem.isdigit()), default=0)


def _sort_out(kept: list[Taken], known: Sequence[tuple[str, Look]], intake: Intake) -> None:
    """Of each group of equals the best stays: the job's own, else the one with most pixels, then the one with a caption."""
    groups: list[list[Taken]] = []
    for picture in kept:
        own = next((name for name, look in known if is_same(look, picture.look)), None)
        if own is not None:
            intake.duplicates.append(Duplicate(picture.source, own, picture.caption))
            picture.file.unlink()
            continue
        group = next((group for group in groups if is_same(group[0].look, picture.look)), None)
        if group is None:
            groups.append([picture])
        else:
            group.append(picture)
    for group in groups:
        best = max(group, key=lambda picture: (picture.look.pixels, bool(picture.caption)))
        others = [picture for picture in group if picture is not best]
        intake.taken.append(_with_a_caption(best, others, intake))
        for other in others:
            intake.duplicates.append(Duplicate(other.source, best.source))
            other.file.unlink()


def _with_a_caption(best: Taken, others: list[Taken], intake: Intake) -> Taken:
    """A caption is not lost with the duplicate that it was written for."""
    lent = next((other for other in others if other.caption), None)
    if best.caption:
        intake.notes += [
            f"{other.source}: its caption is not {best.source}'s; the latter's is taken"
            for other in others
            if other.caption not in ("", best.caption)
        ]
        return best
    if lent is None:
        return best
    intake.notes.append(f"{best.source}: has its caption from {lent.source}, which shows the same")
    return Taken(best.source, best.file, lent.caption, best.look)


def _caption(sources: Sources, image: Path, findings: list[str]) -> str:
    file = sources.caption_of(image)
    if file is None:
        return ""
    caption = read_caption(file)
    if caption.fault:
        # Two images (photo.heic, photo.jpg) can have one caption: it is told once.
        finding = f"{file.name}: {caption.fault.message}; its image is taken without it"
        findings += [finding] if finding not in findings else []
    return caption.text


def _same_name(name: str) -> str:
    """macOS and others write `é` in two ways."""
    return unicodedata.normalize("NFC", name)
