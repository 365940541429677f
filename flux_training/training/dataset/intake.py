"""Imports a folder of photos as numbered pairs of image and caption.

A file that cannot be used becomes a finding and does not stop the import. The sources are only read.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flux_training.training.dataset.facts import read_caption
from flux_training.training.dataset.images import (
    Fingerprint,
    encode_jpeg,
    fingerprint_of,
    is_same,
    read_image,
    reduce_image,
)
from flux_training.training.errors import BadInput
from flux_training.training.files import add_file_name_to_errors, natural_key
from flux_training.training.names import CAPTION_SUFFIX, IMAGE_SUFFIXES
from flux_training.training.opening import outside_target, special_kind

CAPTION_SUFFIXES = (CAPTION_SUFFIX, ".caption")
NUMBERED = "{:05}"
# Files that Windows and macOS add to folders. Names that start with a dot are skipped elsewhere.
SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "Icon\r")
# iCloud replaces a photo that it has removed from the disk with a placeholder such as `.IMG_1.HEIC.icloud`.
CLOUD_SUFFIX = ".icloud"
IMPORTED_SUFFIX = ".jpg"
# The maximum side of an imported image in pixels. ai-toolkit trains FLUX at up to 1024 pixels per side;
# twice that leaves room for cropping and for higher resolutions.
MAX_SIDE = 2048


@dataclass(frozen=True)
class ImportedImage:
    """An image, converted and written to `file` (not yet numbered). `caption` may be empty."""

    source: str
    file: Path
    caption: str
    fingerprint: Fingerprint
    is_reduced: bool = False


@dataclass(frozen=True)
class Duplicate:
    """`source` shows the same as `kept`, another source or an image of the job. `caption` is only set in the latter case."""

    source: str
    kept: str
    caption: str = ""


@dataclass
class Intake:
    """The result of an import. `findings`: files that were left out, and why. `notes`: what was done to others."""

    taken: list[ImportedImage] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def reduced(self) -> int:
        return sum(image.is_reduced for image in self.taken)


@dataclass(frozen=True)
class Sources:
    """The files of a folder: `images` to try, in natural order, and captions by name."""

    images: list[Path]
    captions: dict[str, Path]
    strangers: list[str]

    def caption_of(self, image: Path) -> Path | None:
        """`photo.txt` or `photo.caption` for `photo.heic`; also `photo.heic.txt`, as some tools write it."""
        return self.captions.get(_normalize_unicode(image.stem)) or self.captions.get(
            _normalize_unicode(image.name)
        )


def list_files_to_import(folder: Path) -> Sources:
    """The files directly in the folder, without hidden and system files. Raises BadInput."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name))
    except OSError as error:
        raise BadInput([f"{folder}: cannot be read ({error.strerror}); give a folder of images"]) from error
    elsewhere = [entry for entry in entries if entry.name.startswith(".") and entry.suffix == CLOUD_SUFFIX]
    entries = [
        entry for entry in entries if not entry.name.startswith(".") and entry.name not in SYSTEM_FILES
    ]
    refused = {entry: reason for entry in entries if (reason := _why_not_imported(entry, folder))}
    strangers = [f"{entry.name}: {reason}" for entry, reason in refused.items()]
    strangers += [f"{entry.stem[1:]}: only in iCloud; download it to this disk first" for entry in elsewhere]
    files = [entry for entry in entries if entry not in refused]
    texts = [file for file in files if file.suffix.lower() in CAPTION_SUFFIXES]
    images = [file for file in files if file.suffix.lower() not in CAPTION_SUFFIXES]
    captions: dict[str, Path] = {}
    for suffix in reversed(CAPTION_SUFFIXES):
        captions |= {_normalize_unicode(text.stem): text for text in texts if text.suffix.lower() == suffix}
    looked_for = {_normalize_unicode(image.stem) for image in images} | {
        _normalize_unicode(image.name) for image in images
    }
    strangers += [
        f"{text.name}: a caption without an image of the same name"
        for text in texts
        if _normalize_unicode(text.stem) not in looked_for
    ]
    return Sources(images, captions, strangers)


def _why_not_imported(entry: Path, folder: Path) -> str:
    """Why an entry of the folder is not opened; empty for a file."""
    if entry.is_symlink() and (target := outside_target(entry, folder)):
        return f"links to {target}, outside {folder}; copy the file there to import it"
    kind = special_kind(entry)
    if kind == "a folder":
        return f"a folder; only files directly in {folder} are imported"
    return f"{kind}, not a file" if kind else ""


def import_images(
    sources: Sources,
    staging: Path,
    known: Sequence[tuple[str, Fingerprint]] = (),
    max_side: int = MAX_SIDE,
    on_image: Callable[[], None] = lambda: None,
) -> Intake:
    """Reads every source once and writes each different image to `staging` as a JPEG.

    `known` are the fingerprints of the job's present images; `on_image` is called after each source.
    """
    intake = Intake(findings=list(sources.strangers))
    kept: list[ImportedImage] = []
    for index, source in enumerate(sources.images):
        try:
            picture = read_image(source)
        except BadInput as bad:
            intake.findings += bad.findings
        else:
            intake.notes += picture.notes
            fingerprint = fingerprint_of(picture.image)
            image = reduce_image(picture.image, max_side)
            file = staging / f"{index}{IMPORTED_SUFFIX}"
            with add_file_name_to_errors(file):
                file.write_bytes(encode_jpeg(image))
            caption = _caption(sources, source, intake.findings)
            is_reduced = image.size != picture.image.size
            kept.append(ImportedImage(source.name, file, caption, fingerprint, is_reduced))
        on_image()
    _remove_duplicates(kept, known, intake)
    return intake


def fingerprints_in(folder: Path, files: Iterable[Path]) -> list[tuple[str, Fingerprint]]:
    """The fingerprints of images in a folder, except unreadable ones, with their paths in the folder."""
    found = []
    for file in files:
        try:
            found.append((str(file.relative_to(folder)), fingerprint_of(read_image(file).image)))
        except BadInput:
            continue
    return found


def next_number(dataset: Path, aside: Iterable[Path] = ()) -> int:
    """One more than the highest number that is the name of an image or caption in the dataset, or of an image set aside from it."""
    suffixes = (*IMAGE_SUFFIXES, CAPTION_SUFFIX)
    stems = [file.stem for file in (*dataset.iterdir(), *aside) if file.suffix.lower() in suffixes]
    return 1 + max((int(stem) for stem in stems if stem.isascii() and stem.isdigit()), default=0)


def _remove_duplicates(
    kept: list[ImportedImage], known: Sequence[tuple[str, Fingerprint]], intake: Intake
) -> None:
    """Keeps the best of each group of duplicates: the job's own image, or the one with most pixels, then one with a caption."""
    groups: list[list[ImportedImage]] = []
    for picture in kept:
        own = next((name for name, fingerprint in known if is_same(fingerprint, picture.fingerprint)), None)
        if own is not None:
            intake.duplicates.append(Duplicate(picture.source, own, picture.caption))
            picture.file.unlink()
            continue
        group = next((group for group in groups if is_same(group[0].fingerprint, picture.fingerprint)), None)
        if group is None:
            groups.append([picture])
        else:
            group.append(picture)
    for group in groups:
        best = max(group, key=lambda picture: (picture.fingerprint.pixels, bool(picture.caption)))
        others = [picture for picture in group if picture is not best]
        intake.taken.append(_caption_from_duplicates(best, others, intake))
        for other in others:
            intake.duplicates.append(Duplicate(other.source, best.source))
            other.file.unlink()


def _caption_from_duplicates(
    best: ImportedImage, others: list[ImportedImage], intake: Intake
) -> ImportedImage:
    """Keeps the caption of a duplicate if the best image has none."""
    lent = next((other for other in others if other.caption), None)
    if best.caption:
        intake.notes += [
            f"{other.source}: its caption differs from that of {best.source}, which is used"
            for other in others
            if other.caption not in ("", best.caption)
        ]
        return best
    if lent is None:
        return best
    intake.notes.append(f"{best.source}: its caption is taken from its duplicate {lent.source}")
    return replace(best, caption=lent.caption)


def _caption(sources: Sources, image: Path, findings: list[str]) -> str:
    file = sources.caption_of(image)
    if file is None:
        return ""
    caption = read_caption(file)
    if caption.fault:
        # Two images (photo.heic, photo.jpg) can have the same caption file, so report
        # its problem only once.
        finding = f"{file.name}: {caption.fault.message}; its image is imported without it"
        findings += [finding] if finding not in findings else []
    return caption.text


def _normalize_unicode(name: str) -> str:
    """Normalizes the two encodings of letters such as `é`."""
    return unicodedata.normalize("NFC", name)
