"""Numbering a dataset's images 00001, 00002 …, each with its caption, so that it can be interrupted and taken back.

Every file goes by a name of its own in between (two steps), so that no new name can hit an old one. What is to be done is
written down first; after kill -9 at any moment the next call finds there what is left to do.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_training.training.dataset.intake import NUMBERED
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import natural_key, write_atomically
from flux_training.training.names import CAPTION_SUFFIX, IMAGE_SUFFIXES

# Hidden: neither is an image, so neither is sent. JOURNAL is there while files are being renamed, LAST after it.
JOURNAL = ".rename-under-way.json"
LAST = ".rename-last.json"
BETWEEN = ".renaming-{}"


@dataclass(frozen=True)
class Move:
    """One file's name before and after."""

    old: str
    new: str


@dataclass(frozen=True)
class Renaming:
    """Moves that belong together. `undo`: they take an earlier renaming back."""

    moves: tuple[Move, ...]
    undo: bool = False


def plan(dataset: Path) -> Renaming:
    """Number the images in their natural order; no moves when they are numbered. Raises BadInput."""
    names = [file.name for file in dataset.iterdir() if file.is_file() and not file.name.startswith(".")]
    images = sorted((name for name in names if _suffix(name) in IMAGE_SUFFIXES), key=natural_key)
    captions = {name for name in names if Path(name).suffix == CAPTION_SUFFIX}
    findings = _findings(dataset, names, images, captions)
    if findings:
        raise BadInput(findings)
    moves = []
    for number, image in enumerate(images, 1):
        stem = NUMBERED.format(number)
        moves.append(Move(image, stem + _suffix(image)))
        caption = Path(image).stem + CAPTION_SUFFIX
        if caption in captions:
            moves.append(Move(caption, stem + CAPTION_SUFFIX))
    return Renaming(tuple(move for move in moves if move.old != move.new))


def taken_back(dataset: Path) -> Renaming:
    """What undoes the last renaming; captions written since go with their images.

    Raises FluxError when there was none, or files are gone since.
    """
    last = _read(dataset / LAST)
    if last is None:
        raise FluxError(f"{dataset}: no renaming to take back", f"the last one would stand in {LAST}")
    moves = tuple(Move(move.new, move.old) for move in last[0].moves)
    gone = sorted(move.old for move in moves if not (dataset / move.old).exists())
    if gone:
        raise BadInput([f"{dataset / name}: is gone, so it cannot get its old name back" for name in gone])
    return Renaming((*moves, *_captions_since(dataset, moves)), undo=True)


def _captions_since(dataset: Path, moves: tuple[Move, ...]) -> list[Move]:
    """The moves of captions that stand beside images which are moved, and are not moved themselves."""
    moved = {move.old for move in moves}
    since = [
        Move(Path(move.old).stem + CAPTION_SUFFIX, Path(move.new).stem + CAPTION_SUFFIX)
        for move in moves
        if _suffix(move.old) in IMAGE_SUFFIXES and Path(move.old).stem != Path(move.new).stem
    ]
    return [move for move in since if move.old not in moved and (dataset / move.old).exists()]


def carry_out(dataset: Path, renaming: Renaming) -> None:
    """Rename the files. Raises BadInput when a file is in the way."""
    if not renaming.moves:
        return
    old = {move.old for move in renaming.moves}
    new = sorted(move.new for move in renaming.moves if move.new not in old)
    between = [BETWEEN.format(index) for index in range(len(renaming.moves))]
    taken = [name for name in (*new, *between) if (dataset / name).exists()]
    if taken:
        raise BadInput([f"{dataset / name}: is in the way; move it elsewhere" for name in taken])
    write_atomically(dataset / JOURNAL, _text(renaming, "away"))
    _finish(dataset, renaming, "away")


def under_way(dataset: Path) -> Renaming | None:
    """A renaming that was interrupted, left as it is; None when there was none. Raises FluxError."""
    journal = _read(dataset / JOURNAL)
    return journal[0] if journal else None


def go_on(dataset: Path) -> Renaming | None:
    """End a renaming that was interrupted; None when there was none. Raises FluxError."""
    journal = _read(dataset / JOURNAL)
    if journal is None:
        return None
    _finish(dataset, *journal)
    return journal[0]


def _finish(dataset: Path, renaming: Renaming, step: str) -> None:
    if step == "away":
        for index, move in enumerate(renaming.moves):
            old, between = dataset / move.old, dataset / BETWEEN.format(index)
            # One that is not there is away already.
            if old.exists():
                if between.exists():
                    raise _appeared(old, f"the one of that name before is now {between.name}")
                old.rename(between)
        write_atomically(dataset / JOURNAL, _text(renaming, "home"))
    for index, move in enumerate(renaming.moves):
        between = dataset / BETWEEN.format(index)
        if not between.exists():
            continue
        if (dataset / move.new).exists():
            raise _appeared(dataset / move.new, f"{move.old} would overwrite it")
        between.rename(dataset / move.new)
    if renaming.undo:
        # There is nothing to take back any more; the journal goes last, so that this is not done twice.
        (dataset / LAST).unlink(missing_ok=True)
        (dataset / JOURNAL).unlink()
    else:
        (dataset / JOURNAL).replace(dataset / LAST)


def _appeared(file: Path, why: str) -> FluxError:
    return FluxError(
        f"{file} appeared while files were being renamed", why, "move it elsewhere, then run this again"
    )


def _findings(dataset: Path, names: list[str], images: list[str], captions: set[str]) -> list[str]:
    stems = Counter(Path(image).stem for image in images)
    findings = [
        f"{dataset / image}: {stems[Path(image).stem]} images share the caption {Path(image).stem}{CAPTION_SUFFIX}; rename one by hand"
        for image in images
        if stems[Path(image).stem] > 1
    ]
    findings += [
        f"{dataset / caption}: a caption without an image; a number would give it one that it was not written for: delete it"
        for caption in sorted(captions)
        if Path(caption).stem not in stems
    ]
    # `A.JPG` and `a.jpg` are two files here and one on a Mac; 1.TXT would be left behind by its image.
    findings += [
        f"{dataset / name}: captions end in `{CAPTION_SUFFIX}`; rename it by hand"
        for name in sorted(names)
        if _suffix(name) == CAPTION_SUFFIX and name not in captions
    ]
    return findings


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _text(renaming: Renaming, step: str) -> str:
    moves = [{"old": move.old, "new": move.new} for move in renaming.moves]
    return json.dumps(
        {"version": 1, "undo": renaming.undo, "step": step, "moves": moves}, ensure_ascii=False, indent=1
    )


def _read(path: Path) -> tuple[Renaming, str] | None:
    """What stands in a journal and the step it was at, or None. Raises FluxError when it cannot be read."""
    try:
        journal: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        moves = tuple(Move(str(entry["old"]), str(entry["new"])) for entry in journal["moves"])
        return Renaming(moves, bool(journal["undo"])), str(journal["step"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FluxError(
            f"{path}: cannot be read ({error})",
            "it says which files were renamed",
            "restore it, or delete it: the old names are lost then"
            if path.name == LAST
            else f"restore it, or name the files called {BETWEEN.format('…')} by hand and delete it",
        ) from error
