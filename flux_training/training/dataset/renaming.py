"""Numbers a dataset's images 00001, 00002 …, each with its caption. Can be interrupted at any point, and undone.

Every file first gets a temporary name, so that no new name can meet an old one. The plan is written to a journal before the first
file is renamed: after kill -9 the next call reads there what is left to do.
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
from flux_training.training.opening import read_regular_file

# The names start with a dot because hidden files are not part of the dataset. JOURNAL exists while files
# are being renamed; afterwards it is renamed to LAST.
JOURNAL = ".rename-under-way.json"
LAST = ".rename-last.json"
TEMPORARY = ".renaming-{}"


@dataclass(frozen=True)
class Move:
    """One file's name before and after."""

    old: str
    new: str


@dataclass(frozen=True)
class Renaming:
    """All moves of one renaming. `undo`: they revert an earlier one."""

    moves: tuple[Move, ...]
    undo: bool = False


def plan_numbering(dataset: Path) -> Renaming:
    """The moves that number the images in their natural order; none if they are numbered already. Raises BadInput."""
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


def plan_undo(dataset: Path) -> Renaming:
    """The moves that revert the last renaming. Captions written since then are renamed with their images.

    Raises FluxError if there was no renaming, BadInput if files are missing.
    """
    last = _read(dataset / LAST)
    if last is None:
        raise FluxError(
            f"{dataset}: there is no renaming to undo", f"undo needs the list of the last renaming, {LAST}"
        )
    moves = tuple(Move(move.new, move.old) for move in last[0].moves)
    missing = sorted(move.old for move in moves if not (dataset / move.old).exists())
    if missing:
        raise BadInput(
            [f"{dataset / name} is missing; restore it, then run this command again" for name in missing]
        )
    return Renaming((*moves, *_moves_of_new_captions(dataset, moves)), undo=True)


def _moves_of_new_captions(dataset: Path, moves: tuple[Move, ...]) -> list[Move]:
    """The moves of captions that were written after the renaming: their images are moved, but not they themselves."""
    moved = {move.old for move in moves}
    since = [
        Move(Path(move.old).stem + CAPTION_SUFFIX, Path(move.new).stem + CAPTION_SUFFIX)
        for move in moves
        if _suffix(move.old) in IMAGE_SUFFIXES and Path(move.old).stem != Path(move.new).stem
    ]
    return [move for move in since if move.old not in moved and (dataset / move.old).exists()]


def rename_files(dataset: Path, renaming: Renaming) -> None:
    """Rename the files. Raises BadInput if another file has one of the new names."""
    if not renaming.moves:
        return
    old = {move.old for move in renaming.moves}
    new = sorted(move.new for move in renaming.moves if move.new not in old)
    temporary = [TEMPORARY.format(index) for index in range(len(renaming.moves))]
    taken = [name for name in (*new, *temporary) if (dataset / name).exists()]
    if taken:
        raise BadInput(
            [
                f"{dataset / name}: this file has a name that the renaming needs; move it elsewhere, then run this again"
                for name in taken
            ]
        )
    write_atomically(dataset / JOURNAL, _text(renaming, "away"))
    _finish(dataset, renaming, "away")


def interrupted_renaming(dataset: Path) -> Renaming | None:
    """The renaming that was interrupted, if any. Changes nothing. Raises FluxError."""
    journal = _read(dataset / JOURNAL)
    return journal[0] if journal else None


def complete_interrupted(dataset: Path) -> Renaming | None:
    """Complete the renaming that was interrupted, if any, and return it. Raises FluxError."""
    journal = _read(dataset / JOURNAL)
    if journal is None:
        return None
    _finish(dataset, *journal)
    return journal[0]


def _finish(dataset: Path, renaming: Renaming, step: str) -> None:
    if step == "away":
        for index, move in enumerate(renaming.moves):
            old, temporary = dataset / move.old, dataset / TEMPORARY.format(index)
            # If the file is missing, an earlier attempt already gave it its temporary name.
            if old.exists():
                if temporary.exists():
                    raise _unexpected_file_error(old, f"the file that had this name is now {temporary.name}")
                old.rename(temporary)
        write_atomically(dataset / JOURNAL, _text(renaming, "home"))
    for index, move in enumerate(renaming.moves):
        temporary = dataset / TEMPORARY.format(index)
        if not temporary.exists():
            continue
        if (dataset / move.new).exists():
            raise _unexpected_file_error(dataset / move.new, f"{move.old} would overwrite it")
        temporary.rename(dataset / move.new)
    if renaming.undo:
        # Delete the journal last: if LAST remained after an interruption, the undo would start again.
        (dataset / LAST).unlink(missing_ok=True)
        (dataset / JOURNAL).unlink()
    else:
        (dataset / JOURNAL).replace(dataset / LAST)


def _unexpected_file_error(file: Path, why: str) -> FluxError:
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
        f"{dataset / caption}: a caption without an image; numbering could pair it with the wrong image: delete the caption"
        for caption in sorted(captions)
        if Path(caption).stem not in stems
    ]
    # On a Mac, `A.JPG` and `a.jpg` are the same file. A caption with an upper-case suffix, such as 1.TXT,
    # would not be renamed along with its image.
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


def _checked_file_name(name: object) -> str:
    """Raises ValueError for a name that would lead out of the dataset: the journal may come from a stranger."""
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{name!r} is not the name of a file")
    return name


def _read(path: Path) -> tuple[Renaming, str] | None:
    """The renaming in a journal and the step it had reached; None if there is no journal. Raises FluxError if it cannot be read."""
    try:
        journal: dict[str, Any] = json.loads(read_regular_file(path))
        moves = tuple(
            Move(_checked_file_name(entry["old"]), _checked_file_name(entry["new"]))
            for entry in journal["moves"]
        )
        return Renaming(moves, bool(journal["undo"])), str(journal["step"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FluxError(
            f"{path}: cannot be read ({error})",
            "this file lists which files were renamed",
            "restore the file, or delete it if you do not need the old names"
            if path.name == LAST
            else f"restore the file, or rename the files called {TEMPORARY.format('…')} by hand and delete it",
        ) from error
