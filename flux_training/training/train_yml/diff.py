"""The differences between two train.yml files, with the names and notation that people use."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_training.training.words import one_line

# Short labels for common settings of config.process[0]. Other settings are shown with their path.
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
HIDDEN = "hidden"
ABSENT = "—"
MISSING = object()
MAX_SHOWN = 60
# Settings that differ between jobs whatever they train.
NAMES_OF_A_RUN = ("config.name", "meta.name", "meta.version")


@dataclass(frozen=True)
class Change:
    """A changed setting or caption; a side that lacks it is ABSENT."""

    key: str
    before: str
    after: str


def flat_values(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every value; a list is one value unless it contains mappings. `config.process.0.` is left out of paths."""
    if isinstance(document, Mapping):
        for key, below in document.items():
            yield from flat_values(below, f"{path}{key}.")
    elif isinstance(document, list) and any(isinstance(entry, Mapping) for entry in document):
        for number, below in enumerate(document):
            yield from flat_values(below, f"{path}{number}.")
    else:
        yield path.rstrip(".").removeprefix(PROCESS), document


def differing_values(before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """(path, before, after) of every difference, by path; a side that lacks the value is MISSING."""
    old, new = dict(flat_values(before)), dict(flat_values(after))
    return [
        (path, old.get(path, MISSING), new.get(path, MISSING))
        for path in sorted(old.keys() | new.keys())
        if old.get(path, MISSING) != new.get(path, MISSING)
    ]


def setting_changes(before: Any, after: Any) -> list[Change]:
    return [
        Change(setting_label(path), show_setting(path, old), show_setting(path, new))
        for path, old, new in differing_values(before, after)
    ]


def differing_settings(documents: Sequence[Any]) -> dict[str, list[str]]:
    """The settings that differ between the documents, each with its value in every document."""
    flat = [dict(flat_values(document)) for document in documents]
    paths = sorted(set().union(*flat)) if flat else []
    values = {path: [one.get(path, MISSING) for one in flat] for path in paths}
    found: dict[str, list[str]] = {}
    for path, row in values.items():
        if any(value != row[0] for value in row):
            # Two paths can have the same name: `rank` is `network.linear` or `network.rank`.
            found[path if setting_label(path) in found else setting_label(path)] = [
                show_setting(path, value) for value in row
            ]
    return found


def compared_settings(documents: Sequence[Any]) -> dict[str, list[str]]:
    """`differing_settings` of the train.yml files of several jobs, without the names that always differ."""
    return {
        name: values for name, values in differing_settings(documents).items() if name not in NAMES_OF_A_RUN
    }


def distinctive_settings(documents: Mapping[str, Any]) -> dict[str, str]:
    """`rank 16, learning rate 1e-4` for each job, by its name: its values of the settings in which these jobs differ."""
    return settings_by_job(list(documents), compared_settings(list(documents.values())))


def settings_by_job(jobs: Sequence[str], settings: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """`rank 16, learning rate 1e-4` by the name of the job. `settings`: each with its value in every job; empty if there are none."""
    return {
        job: ", ".join(f"{name} {one_line(values[place], MAX_SHOWN)}" for name, values in settings.items())
        for place, job in enumerate(jobs)
        if settings
    }


def caption_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    """The changes of captions, by image name."""
    return [
        Change(name, before.get(name, ABSENT), after.get(name, ABSENT))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def differing_images(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, list[str]]:
    """The images whose content or caption differs between the runs, each with its caption in every run.

    `runs`: the images of each run's manifest. Empty for runs that have no image in common.
    """
    names = sorted(set().union(*runs))
    if not any(_is_in_all(name, runs) for name in names):
        return {}
    found = {}
    for name in names:
        row = [one.get(name, {}) for one in runs]
        first = next((image.get("sha256") for image in row if image), None)
        cells = [_image_cell(image, first) for image in row]
        if len(set(cells)) > 1:
            found[name] = cells
    return found


def _image_cell(image: Mapping[str, Any], digest: object) -> str:
    if not image:
        return ABSENT
    caption = str(image.get("caption") or "")
    return caption if image.get("sha256") == digest else f"{caption} (another image)".lstrip()


def _is_in_all(name: str, runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> bool:
    digests = {str(one.get(name, {}).get("sha256")) for one in runs}
    return len(digests) == 1 and "None" not in digests


def setting_label(path: str) -> str:
    """`learning rate` for `train.lr`."""
    return LABELS.get(path, path)


def is_secret_setting(path: str) -> bool:
    return any(word in path.rsplit(".", 1)[-1].lower() for word in SECRET_WORDS)


def show_setting(path: str, value: object) -> str:
    """A setting's value for a table: HIDDEN for a secret, ABSENT for MISSING."""
    if value is MISSING:
        return ABSENT
    return HIDDEN if is_secret_setting(path) else show_value(value)


def show_value(value: object) -> str:
    """A value in common notation: `1e-4`, `512, 768`, `true`."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        text = f"{value:g}" if abs(value) >= 0.001 or value == 0 else f"{value:.6e}"
        mantissa, _, exponent = text.partition("e")
        short = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{short}e{int(exponent)}" if exponent else short
    if isinstance(value, list):
        return ", ".join(show_value(entry) for entry in value)
    return str(value)
