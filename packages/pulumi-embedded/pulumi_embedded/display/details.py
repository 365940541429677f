"""What a step changes, property by property: for `--diff` and `--json`."""

from collections.abc import Mapping
from typing import Any

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import ResourceStep
from pulumi_embedded.display import property_lines
from pulumi_embedded.properties import diffs, urns, values
from pulumi_embedded.properties.paths import parse_path
from pulumi_embedded.state import serialization
from pulumi_embedded.state.serialization import Resource


def step_lines(step: ResourceStep, indent: int) -> list[str]:
    """The lines below a step's heading."""
    inner = "    " * (indent + 1)
    lines = [f"{inner}[id={step.old.id}]"] if step.old is not None and step.old.id else []
    lines.append(f"{inner}[urn={step.urn}]")
    provider = step.new.provider if step.new else step.old.provider if step.old else ""
    if step.old is not None and step.new is not None and step.old.provider != step.new.provider:
        after = provider.replace(values.UNKNOWN_TEXT, "[unknown]")
        lines.append(f"{inner}[provider: {step.old.provider} => {after}]")
    elif provider and urns.name_of(urns.provider_urn(provider)) != "default":
        lines.append(f"{inner}[provider={provider}]")
    return lines + _properties(step, indent + 1)


def _properties(step: ResourceStep, indent: int) -> list[str]:
    if step.op == events.SAME:
        return []
    if step.old is None or step.new is None:
        resource = step.new or step.old
        return property_lines.lines_of(resource.inputs, indent) if resource else []
    before, after = step.old, step.new
    old, new = (before.outputs, after.outputs) if step.op == events.REFRESH else (before.inputs, after.inputs)
    if step.diff is not None and step.diff.by_engine:
        return property_lines.lines_of_changes(
            old, new, indent, property_lines.DiffView(sames=False, secrets=True)
        )
    keys = {str(parse_path(path)[0]) for path in step.diff.detailed} if step.diff else set()
    return property_lines.lines_of_changes(
        old, new, indent, property_lines.DiffView(secrets=True), keys or None
    )


def output_lines(step: ResourceStep, indent: int) -> list[str]:
    """The outputs that a step has changed, without those that equal the inputs."""
    new = step.new.outputs if step.new else {}
    given = step.new.inputs if step.new else {}
    news = {
        key: value for key, value in new.items() if not (key in given and values.is_same(value, given[key]))
    }
    if step.old is None:
        return property_lines.lines_of(news, indent, width=max(map(len, new), default=0))
    olds = {key: value for key, value in step.old.outputs.items() if key in news or key not in new}
    return property_lines.lines_of_outputs(olds, news, indent, property_lines.DiffView(), sames=False)


def depth_of(urn: str, parents: Mapping[str, str]) -> int:
    """The indentation of a resource: the number of its ancestors that are shown."""
    found = 0
    parent = parents.get(urn, "")
    while parent in parents:
        found += 1
        parent = parents[parent]
    return found


def resource_as_json(resource: Resource) -> dict[str, Any]:
    """A resource as `--json` shows it, with secrets masked."""
    shown = resource.copy(
        inputs=values.mask_secrets(resource.inputs), outputs=values.mask_secrets(resource.outputs)
    )
    return serialization.resource_to_json(shown, None)


def reasons_as_json(step: ResourceStep) -> dict[str, Any]:
    """Why a resource changes, as `--json` shows it."""
    if step.diff is None or not step.diff.detailed:
        return {}
    kinds = diffs.difference_kinds_by_path(step.diff)
    return {
        "diffReasons": sorted({str(parse_path(path)[0]) for path in kinds}),
        **({"replaceReasons": sorted(step.diff.replaces)} if step.diff.replaces else {}),
        "detailedDiff": {path: {"kind": kind, "inputDiff": True} for path, kind in kinds.items()},
    }
