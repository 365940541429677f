"""Why a job is trained again: what differs between a past run's manifest and train.yml and the folder's. Pure, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flux_training.training.train_yml.diff import MISSING, different, is_secret, label, shown
from flux_training.training.train_yml.trainer_config import document_of
from flux_training.training.values import mapping
from flux_training.training.words import counted

LONGEST = 40


@dataclass(frozen=True)
class Inputs:
    """What a run is made of: its manifest.json and train.yml as they lie in the bucket, its attempt and parent."""

    manifest: bytes
    raw_config: bytes
    attempt: int
    parent: str | None = None


@dataclass(frozen=True)
class Edited:
    """A caption before and after."""

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
        """`3 captions changed`, `learning rate 1e-4 → 2e-4`, …; empty when nothing differs."""
        parts = [
            (len(self.added), "image", "added"),
            (len(self.removed), "image", "removed"),
            (len(self.replaced), "image", "replaced"),
            (len(self.renamed), "image", "renamed"),
            (len(self.captions), "caption", "changed"),
        ]
        images = [f"{counted(number, word)} {done}" for number, word, done in parts if number]
        return (*images, *self.settings)


def changes(before: Inputs, after: Inputs) -> Changes:
    """What makes `after` another run than `before`."""
    old, new = _images(before.manifest), _images(after.manifest)
    gone, come = old.keys() - new.keys(), new.keys() - old.keys()
    by_content = {old[name].get("sha256"): name for name in sorted(gone)}
    renamed = tuple(
        (by_content[new[name].get("sha256")], name)
        for name in sorted(come)
        if new[name].get("sha256") in by_content
    )
    both = sorted(old.keys() & new.keys())
    return Changes(
        added=tuple(sorted(come - {name for _, name in renamed})),
        removed=tuple(sorted(gone - {name for name, _ in renamed})),
        replaced=tuple(name for name in both if old[name].get("sha256") != new[name].get("sha256")),
        renamed=renamed,
        captions=tuple(
            Edited(name, str(old[name].get("caption", "")), str(new[name].get("caption", "")))
            for name in both
            if old[name].get("caption") != new[name].get("caption")
        ),
        settings=tuple(_settings(before, after)),
    )


def _settings(before: Inputs, after: Inputs) -> Iterator[str]:
    if before.raw_config != after.raw_config:
        old, new = (document_of(one.raw_config) for one in (before, after))
        found = [_difference(*one) for one in different(old, new)]
        yield from found or ["train.yml differs in comments or layout only"]
    if before.attempt != after.attempt:
        yield f"attempt {before.attempt} → {after.attempt}"
    if before.parent != after.parent:
        yield f"goes on from run {after.parent}" if after.parent else "starts from nothing"


def _images(manifest: bytes) -> dict[str, Mapping[str, Any]]:
    try:
        images = mapping(json.loads(manifest)).get("images")
    except (ValueError, RecursionError):
        return {}
    return {str(name): mapping(image) for name, image in mapping(images).items()}


def _difference(path: str, old: object, new: object) -> str:
    name, shown_old, shown_new = label(path), shown(old), shown(new)
    if is_secret(path) or len(shown_old) > LONGEST or len(shown_new) > LONGEST or shown_old == shown_new:
        return f"{name} changed"
    if old is MISSING:
        return f"{name} {shown_new} (was not set)"
    if new is MISSING:
        return f"{name} no longer set (was {shown_old})"
    return f"{name} {shown_old} → {shown_new}"
