"""What a step changes, property by property: the lines of `--diff` and the fields of `--json`."""

from __future__ import annotations

import json
from typing import Any

from engine import diffs, state, values
from engine.events import Step
from engine.paths import parse
from engine.state import Resource
from engine.values import Properties, Value

_MARKS = {diffs.ADD: "+ ", diffs.DELETE: "- ", diffs.UPDATE: "~ "}
_HIDDEN = "__provider"


def of(step: Step) -> list[str]:
    """The lines under a step's heading."""
    resource = step.new or step.old
    lines = [f"      [urn={step.urn}]"]
    if resource is not None and step.old is not None and step.old.id:
        lines.insert(0, f"      [id={step.old.id}]")
    if step.diff is not None and step.old is not None and step.new is not None:
        if step.diff.replaces:
            lines.append(f"      [replaced because of: {', '.join(sorted(step.diff.replaces))}]")
        return lines + _changed(step)
    mark = "- " if step.new is None else "+ "
    shown = resource.inputs if resource is not None else {}
    return lines + [
        f"      {mark}{key}: {text(value)}" for key, value in sorted(shown.items()) if key != _HIDDEN
    ]


def _changed(step: Step) -> list[str]:
    assert step.old is not None  # noqa: S101 - the caller has looked
    assert step.new is not None  # noqa: S101
    old, new = step.old.inputs, step.new.inputs
    lines = []
    for path, kind in (step.diff.detailed if step.diff else {}).items():
        parts = parse(path)
        kind = kind.removesuffix("-replace")
        before, after = at(old, parts), at(new, parts)
        shown = {
            diffs.ADD: text(after),
            diffs.DELETE: text(before),
        }.get(kind, f"{text(before)} => {text(after)}")
        lines.append(f"      {_MARKS.get(kind, '~ ')}{path}: {shown}")
    return lines


def at(properties: Properties, path: list[str | int]) -> Value:
    """The value at a path; a secret on the way makes it secret; None where there is none."""
    value: Value = properties
    secret = False
    for part in path:
        if isinstance(value, values.Secret):
            value, secret = value.value, True
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values.Secret(value) if secret and not isinstance(value, values.Secret) else value


def text(value: Value) -> str:
    """A value for the eye, secrets masked."""
    masked = values.mask(value)
    if masked in ("[secret]", "[unknown]"):
        return str(masked)
    return json.dumps(masked, ensure_ascii=False)


def as_json(resource: Resource) -> dict[str, Any]:
    """A resource as `--json` shows it, secrets masked."""
    shown = resource.copy(inputs=values.mask(resource.inputs), outputs=values.mask(resource.outputs))
    return state.to_json(shown, None)


def reasons(step: Step) -> dict[str, Any]:
    """Why a resource changes, as `--json` has it."""
    if step.diff is None or not step.diff.detailed:
        return {}
    kinds = diffs.kinds(step.diff)
    return {
        "diffReasons": sorted({str(parse(path)[0]) for path in kinds}),
        **({"replaceReasons": sorted(step.diff.replaces)} if step.diff.replaces else {}),
        "detailedDiff": {path: {"kind": kind, "inputDiff": True} for path, kind in kinds.items()},
    }
