"""What is wrong with a setting, in words: where it is, or its value (pydantic's words are about types, ours say what to write)."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import ErrorDetails

from flux_training.training.words import nearest, same_letters

# The configuration namespace that the examples in the documentation use.
DOCUMENTED_NAMESPACE = "flux-training"
# Namespaces of Pulumi packages. A project's name may be similar to one of them, such as `aws2`.
PULUMI_NAMESPACES = {
    *("aws", "aws-native", "azure", "azure-native", "cloudflare", "command", "docker", "docker-build"),
    *("gcp", "github", "kubernetes", "pulumi", "pulumi-command", "random", "tls"),
}
# Settings of other Pulumi packages whose names equal those of this project's settings.
FOREIGN_SETTINGS = {"kubernetes:cluster"}
# The minimum similarity of a misspelled namespace (difflib's ratio, where 1 means equal). It is high so
# that a package with a name similar to the project's is not reported.
MIN_SIMILARITY = 0.85

# The top-level keys that Pulumi reads in a stack file. It ignores all others.
SECTIONS = ("config", "encryptedkey", "encryptionsalt", "environment", "secretsprovider")

SHAPES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a map, one `name: value` on each line below it",
    "float_parsing": "must be a number without a unit",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number without a unit",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "model_attributes_type": "must be a map, one `name: value` on each line below it",
    "model_type": "must be a map, one `name: value` on each line below it",
    "string_type": "must be text",
}
LIMITS = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
}


def find_misplaced_settings(project: str, keys: Iterable[str], known: Collection[str]) -> Iterator[str]:
    """A finding for each of the keys (`namespace:name`) that seems meant for the project, but has another namespace, where it is ignored.

    `known`: the names of the project's settings.
    """
    for key in keys:
        namespace, _, name = key.rpartition(":")
        if not namespace or namespace == project or key in FOREIGN_SETTINGS:
            continue
        if name in known:
            yield f"{key}: would be ignored, because the settings of this project begin with `{project}:`; write `{project}:{name}`"
        elif _seems_meant_for_this_project(namespace, project):
            yield (
                f"{key}: would be ignored, because the settings of this project begin with `{project}:`, and `{name}` is none of "
                f"them{nearest(name, known)}; known keys: {', '.join(sorted(known))}"
            )


def _seems_meant_for_this_project(namespace: str, project: str) -> bool:
    """Whether a namespace is probably a typing error, or copied from the documentation."""
    ours = (project, DOCUMENTED_NAMESPACE)
    is_similar = bool(difflib.get_close_matches(namespace, ours, n=1, cutoff=MIN_SIMILARITY))
    return namespace not in PULUMI_NAMESPACES and (is_similar or bool(same_letters(namespace, ours)))


def describe_setting_error(details: ErrorDetails) -> str:
    """The rule that a value breaks, and what to write instead."""
    kind, value = details["type"], details["input"]
    if kind in LIMITS:
        return LIMITS[kind].format(**details.get("ctx") or {})
    if kind not in SHAPES:
        return details["msg"].removeprefix("Value error, ")
    return f"{SHAPES[kind]}{_hint(kind, value)}"


def _hint(kind: str, value: Any) -> str:
    if value is None or value in ("null", ""):
        return ", but has no value; write one, or remove the line"
    if isinstance(value, list) and kind in ("dict_type", "model_type"):
        return ", not a list; write no - before the names"
    if isinstance(value, list):
        return ", not a list; write one value, without [ ] or -"
    if isinstance(value, Mapping):
        return ", not a map; write the value on the same line"
    return "; put it in quotes" if kind == "string_type" else ""


def ignored_keys(file: str, keys: Iterable[str]) -> list[str]:
    """A finding for each key at the left margin of a stack file that Pulumi does not read, such as a setting that is not below `config:`."""
    return [
        f"{file}: `{key}` would be ignored, because it is not below `config:`; indent it by two spaces there"
        if ":" in key
        else f"{file}: `{key}:` would be ignored{nearest(key, SECTIONS)}; there are: {', '.join(SECTIONS)}"
        for key in keys
        if key not in SECTIONS
    ]


def ignored_in(path: Path) -> list[str]:
    """The findings of `ignored_keys` for a stack file. None if the file does not exist, because Pulumi may use another file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        # Only the keys are needed, so no values are constructed. The loader written in C is twenty times faster.
        document = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    keys = [key.value for key, _ in document.value] if isinstance(document, yaml.MappingNode) else []
    return ignored_keys(path.name, filter(lambda key: isinstance(key, str), keys))
