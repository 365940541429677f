"""Why a job is trained again: what differs between a past run's manifest and train.yml and the folder's. Pure, in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flux_training.training.names import caption_name
from flux_training.training.runs.run import run_id
from flux_training.training.train_yml.diff import (
    MISSING,
    differing_values,
    is_secret_setting,
    setting_label,
    show_value,
)
from flux_training.training.train_yml.trainer_config import parse_train_yml
from flux_training.training.untrusted import MAX_MANIFEST_BYTES, MAX_MANIFEST_VALUES, parse_object
from flux_training.training.values import mapping
from flux_training.training.words import counted

MAX_VALUE_LENGTH = 40
# How many file names `details` lists. A preview shows only one line per job.
MAX_NAMES = 5
# Only this many characters of two captions are compared.
MAX_TEXT_LENGTH = 10_000


@dataclass(frozen=True)
class Inputs:
    """What identifies a run: the bytes of its manifest.json and train.yml, its attempt and its parent."""

    manifest: bytes
    raw_config: bytes
    attempt: int
    parent: str | None = None

    @property
    def run_id(self) -> str:
        """The id of the run that is made of these."""
        return run_id(self.manifest, self.raw_config, self.attempt, self.parent)


@dataclass(frozen=True)
class Edited:
    """A changed caption."""

    image: str
    before: str
    after: str


@dataclass(frozen=True)
class Changes:
    """What differs. Image names each; `replaced` has other content under the same name, `renamed` is (before, after)."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    captions: tuple[Edited, ...] = ()
    settings: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """`3 captions changed`, `learning rate 1e-4 → 2e-4`, …; empty if nothing differs."""
        return (
            *(f"{counted(len(names), word)} {done}" for names, word, done in self._grouped_image_changes),
            *self.settings,
        )

    @property
    def details(self) -> tuple[str, ...]:
        """`reasons` with file names: `1 caption changed: 00003.txt`."""
        return (
            *(
                f"{counted(len(names), word)} {done}: {', '.join(names[:MAX_NAMES])}{' …' * (len(names) > MAX_NAMES)}"
                for names, word, done in self._grouped_image_changes
            ),
            *self.settings,
        )

    @property
    def _grouped_image_changes(self) -> list[tuple[Sequence[str], str, str]]:
        groups: list[tuple[Sequence[str], str, str]] = [
            (self.added, "image", "added"),
            (self.removed, "image", "removed"),
            (self.replaced, "image", "replaced"),
            ([f"{before} → {after}" for before, after in self.renamed], "image", "renamed"),
            ([caption_name(edited.image) for edited in self.captions], "caption", "changed"),
        ]
        return [group for group in groups if group[0]]


def find_changes(before: Inputs, after: Inputs) -> Changes:
    """The differences that make `after` another run than `before`."""
    old, new = _images(before.manifest), _images(after.manifest)
    gone, come = old.keys() - new.keys(), new.keys() - old.keys()
    by_content = {old[name]["sha256"]: name for name in sorted(gone)}
    renamed = tuple(
        (by_content[new[name]["sha256"]], name) for name in sorted(come) if new[name]["sha256"] in by_content
    )
    both = sorted(old.keys() & new.keys())
    return Changes(
        added=tuple(sorted(come - {name for _, name in renamed})),
        removed=tuple(sorted(gone - {name for name, _ in renamed})),
        replaced=tuple(name for name in both if old[name]["sha256"] != new[name]["sha256"]),
        renamed=renamed,
        captions=tuple(
            Edited(name, old[name]["caption"], new[name]["caption"])
            for name in both
            if old[name]["caption"] != new[name]["caption"]
        ),
        settings=tuple(_settings(before, after)),
    )


def _settings(before: Inputs, after: Inputs) -> Iterator[str]:
    if before.raw_config != after.raw_config:
        old, new = (parse_train_yml(one.raw_config) for one in (before, after))
        found = [_describe_setting_change(*one) for one in differing_values(old, new)]
        yield from found or ["train.yml differs only in comments or layout"]
    if before.attempt != after.attempt:
        yield f"attempt {before.attempt} → {after.attempt}"
    if before.parent != after.parent:
        yield f"continues from run {after.parent}" if after.parent else "starts from scratch"


def _images(manifest: bytes) -> dict[str, dict[str, str]]:
    images = mapping(parse_object(manifest, MAX_MANIFEST_BYTES, MAX_MANIFEST_VALUES)).get("images")
    # Convert the values to text, because a list cannot be a dictionary key.
    return {
        name: {key: str(mapping(image).get(key, ""))[:MAX_TEXT_LENGTH] for key in ("sha256", "caption")}
        for name, image in mapping(images).items()
    }


def _describe_setting_change(path: str, old: object, new: object) -> str:
    name, shown_old, shown_new = setting_label(path), show_value(old), show_value(new)
    if (
        is_secret_setting(path)
        or len(shown_old) > MAX_VALUE_LENGTH
        or len(shown_new) > MAX_VALUE_LENGTH
        or shown_old == shown_new
    ):
        return f"{name} changed"
    if old is MISSING:
        return f"{name} {shown_new} (was not set)"
    if new is MISSING:
        return f"{name} no longer set (was {shown_old})"
    return f"{name} {shown_old} → {shown_new}"
