"""Why a job is trained again: what differs between a past run's manifest and train.yml and the folder's. Pure, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from training.gpu import mapping
from training.trainer_config import document_of

# What people call these settings of config.process[0]; others are named by their place.
LABELS = {
    "datasets.0.resolution": "resolution",
    "network.linear": "rank",
    "network.linear_alpha": "alpha",
    "network.rank": "rank",
    "sample.prompts": "sample prompts",
    "train.batch_size": "batch size",
    "train.lr": "learning rate",
    "train.optimizer": "optimizer",
    "train.steps": "steps",
    "trigger_word": "trigger word",
}
PROCESS = "config.process.0."
SECRET_WORDS = ("token", "secret", "password", "key")
LONGEST = 40
MISSING = object()


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
        counted = [
            (len(self.added), "image", "added"),
            (len(self.removed), "image", "removed"),
            (len(self.replaced), "image", "replaced"),
            (len(self.renamed), "image", "renamed"),
            (len(self.captions), "caption", "changed"),
        ]
        images = [f"{count(number, word)} {done}" for number, word, done in counted if number]
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
        old, new = (dict(_leaves(document_of(one.raw_config))) for one in (before, after))
        found = [
            _difference(path, old.get(path, MISSING), new.get(path, MISSING))
            for path in sorted(old.keys() | new.keys())
            if old.get(path, MISSING) != new.get(path, MISSING)
        ]
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


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all that is no mapping; a list counts as one value unless it holds mappings."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaves(below, f"{path}{key}.")
    elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
        for number, below in enumerate(value):
            yield from _leaves(below, f"{path}{number}.")
    else:
        yield path.rstrip("."), value


def _difference(path: str, old: object, new: object) -> str:
    name = path.removeprefix(PROCESS)
    label = LABELS.get(name, name)
    shown_old, shown_new = shown(old), shown(new)
    secret = any(word in name.rsplit(".", 1)[-1].lower() for word in SECRET_WORDS)
    if secret or len(shown_old) > LONGEST or len(shown_new) > LONGEST or shown_old == shown_new:
        return f"{label} changed"
    if old is MISSING:
        return f"{label} {shown_new} (was not set)"
    if new is MISSING:
        return f"{label} no longer set (was {shown_old})"
    return f"{label} {shown_old} → {shown_new}"


def shown(value: object) -> str:
    """A value as people write it: `1e-4`, `512, 768`, `true`."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        text = f"{value:g}" if abs(value) >= 0.001 or value == 0 else f"{value:.6e}"
        mantissa, _, exponent = text.partition("e")
        short = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{short}e{int(exponent)}" if exponent else short
    if isinstance(value, list):
        return ", ".join(shown(entry) for entry in value)
    return str(value)


def count(number: int, word: str) -> str:
    """`1 image`, `3 images`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
