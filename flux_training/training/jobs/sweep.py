"""Sweeps: copies of a job's train.yml, one for each combination of values. Pure."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from flux_training.training.errors import BadInput
from flux_training.training.names import JOB_NAME, MAX_JOB_NAME
from flux_training.training.train_yml.templates import PROCESS, in_double_quotes
from flux_training.training.train_yml.trainer_config import parse_train_yml
from flux_training.training.train_yml.yaml_text import node_at, set_value
from flux_training.training.words import nearest, with_same_last_part

# Short labels for some keys of train.yml. The label of any other key is its last part.
SHORT = {
    "network.linear": "rank",
    "network.linear_alpha": "alpha",
    "train.batch_size": "batch",
    "datasets.0.caption_dropout_rate": "dropout",
    "datasets.0.resolution": "res",
}
# How the place of the keys may be typed before a key.
PROCESS_PREFIX = re.compile(r"^config\.process(\.0|\[0\])\.")


@dataclass(frozen=True)
class Axis:
    """One --set: keys below config.process[0], and the values they take, as YAML."""

    keys: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """One job of the sweep. `values` are (key, value) pairs; `repeats` means that they equal the base job's."""

    name: str
    values: tuple[tuple[str, str], ...]
    text: str
    repeats: bool


def parse_axis(text: str) -> Axis:
    """`train.lr=1e-4,2e-4` or, for keys that change together: `network.linear+network.linear_alpha=16,32`.

    Commas inside brackets and quotes belong to a value. Raises BadInput.
    """
    keys, equals, values = text.partition("=")
    split = _split(values)
    names = tuple(PROCESS_PREFIX.sub("", key.strip()) for key in keys.split("+"))
    if not equals or not all(names) or not all(split):
        raise BadInput([f"--set {text}: write KEY=VALUE,VALUE such as train.lr=1e-4,2e-4"])
    twice = sorted({value for value in split if split.count(value) > 1})
    if twice:
        raise BadInput([f"--set {text}: {', '.join(twice)} is given twice; remove one"])
    return Axis(names, split)


def make_variants(base: str, text: str, axes: Sequence[Axis]) -> list[Variant]:
    """The base job's train.yml with each combination of the axes' values. Raises BadInput."""
    findings = _findings(text, axes)
    if findings:
        raise BadInput(findings)
    variants = [
        _make_variant(base, text, axes, values)
        for values in itertools.product(*(axis.values for axis in axes))
    ]
    names = [variant.name for variant in variants]
    findings = [
        f"{name}: two jobs of this sweep have this name; write the values so that they differ in letters or digits"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    findings += [
        f"{name}: {len(name)} characters, but a job's name has at most {MAX_JOB_NAME}; sweep over fewer keys at once"
        for name in names
        if not JOB_NAME.fullmatch(name)
    ]
    if findings:
        raise BadInput(findings)
    return variants


def _make_variant(base: str, text: str, axes: Sequence[Axis], values: tuple[str, ...]) -> Variant:
    pairs = [(key, value) for axis, value in zip(axes, values, strict=True) for key in axis.keys]
    # Keys that change together get one label in the job's name.
    parts = [_label(axis.keys[0]) + _tidy(value) for axis, value in zip(axes, values, strict=True)]
    name = "-".join([base, *parts])
    before = parse_train_yml(text.encode())
    changed = text
    for key, value in pairs:
        changed = set_value(changed, _yaml_path(key), _literal(text, key, value))
    same = parse_train_yml(changed.encode()) == before
    return Variant(name, tuple(pairs), set_value(changed, ("config", "name"), in_double_quotes(name)), same)


def _findings(text: str, axes: Sequence[Axis]) -> list[str]:
    known = _known_keys(text)
    keys = [key for axis in axes for key in axis.keys]
    findings = [
        f"--set {key}: given twice; put its values into one --set"
        for key in sorted({key for key in keys if keys.count(key) > 1})
    ]
    for axis in axes:
        wrong = [
            finding
            for key in axis.keys
            for finding in _findings_about_wrong_values(text, key, axis.values, known)
        ]
        findings += wrong or _findings_about_equal_values(text, axis)
    return findings


def _findings_about_wrong_values(
    text: str, key: str, values: Sequence[str], known: Sequence[str]
) -> list[str]:
    if key not in known:
        labelled = [one for one in known if SHORT.get(one) == key]
        if elsewhere := with_same_last_part(key, known) or (
            f" (did you mean `{labelled[0]}`?)" if labelled else ""
        ):
            return [f"--set {key}: train.yml has no such value{elsewhere}"]
        return [f"--set {key}: train.yml has no such value{nearest(key, known)}; add the key there first"]
    problems = ((value, _problem(text, key, value)) for value in values)
    return [f"--set {key}={value}: {problem}" for value, problem in problems if problem]


def _findings_about_equal_values(text: str, axis: Axis) -> list[str]:
    """A finding for each value with several spellings: `1e-4` and `0.0001` would train and cost twice."""
    spellings: list[tuple[list[Any], list[str]]] = []
    for value in axis.values:
        new = [
            _value_at(set_value(text, _yaml_path(key), _literal(text, key, value)), key) for key in axis.keys
        ]
        same = next((names for known, names in spellings if known == new), None)
        if same is None:
            spellings.append((new, [value]))
        else:
            same.append(value)
    keys = "+".join(axis.keys)
    return [
        f"--set {keys}: {', '.join(names)} are the same value; keep one"
        for _, names in spellings
        if len(names) > 1
    ]


def _problem(text: str, key: str, value: str) -> str | None:
    """Why a value cannot replace the present one; None if it can."""
    now = _value_at(text, key)
    try:
        changed = set_value(text, _yaml_path(key), _literal(text, key, value))
        new = _value_at(changed, key)
    except (ValueError, KeyError) as error:
        return f"cannot be set ({error})"
    if _kind(new) != _kind(now):
        return f"{_kind(new)}, but train.yml has {_kind(now)} ({now})"
    return None


def _literal(text: str, key: str, value: str) -> str:
    """The value as typed, but quoted if it replaces a text, so that it stays a text."""
    if isinstance(_value_at(text, key), str) and value[:1] not in ("'", '"'):
        return in_double_quotes(value)
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "nothing" if value is None else "something else"


def _known_keys(text: str) -> list[str]:
    """Every key below config.process[0] with a single value or a one-line list; list entries by index."""
    return _keys(node_at(text, PROCESS), "")


def _keys(node: yaml.Node | None, prefix: str) -> list[str]:
    found: list[str] = []
    pairs: list[tuple[str, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        pairs = [(str(key.value), value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(str(index), value) for index, value in enumerate(node.value)]
        found = [prefix] if prefix and node.flow_style else []
    elif prefix:
        found = [prefix]
    for key, value in pairs:
        found += _keys(value, f"{prefix}.{key}" if prefix else key)
    return found


def _value_at(text: str, key: str) -> Any:
    value: Any = parse_train_yml(text.encode())
    for step in _yaml_path(key):
        value = value[step]
    return value


def _yaml_path(key: str) -> tuple[str | int, ...]:
    return (*PROCESS, *(int(part) if part.isdigit() else part for part in key.split(".")))


def _label(key: str) -> str:
    return SHORT.get(key, re.sub(r"[^A-Za-z0-9]", "", key.split(".")[-1]))


def _tidy(value: str) -> str:
    """The value in a form that a folder name allows."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", value).strip("._-")


def _split(values: str) -> tuple[str, ...]:
    """Splits at commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in values:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        depth += (character in "[{") - (character in "]}") if not quote else 0
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(part.strip() for part in parts)
