"""train.yml, read as ai-toolkit reads it.

The trainer's loader is PyYAML's SafeLoader with one more rule: `1e-4` is a float, where YAML 1.1 reads a string. Then every `[name]` is
replaced by `config.name` (ai-toolkit, toolkit/config.py). The file itself is uploaded unchanged.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import yaml

from flux_training.training.files import rename_hint
from flux_training.training.finding import Problem
from flux_training.training.opening import outside_target, project_of_job_folder, read_regular_file
from flux_training.training.text_files import describe_encoding, describe_yaml_error, git_artefact
from flux_training.training.train_yml.document import first_process
from flux_training.training.values import mapping

CONFIG_NAMES = ("train.yml", "train.yaml")
OUTPUT_FOLDER = "output"
# A train.yml has about a hundred lines. A file larger than this is something else.
MAX_BYTES = 1_000_000
MAX_NODES = 100_000
# The maximum size in characters after aliases and placeholders have been expanded.
MAX_EXPANDED = 4_000_000
# YAML 1.1 reads `1:30:00` as a base-60 number, and converting a number with a million digits takes minutes.
MAX_NUMBER_LENGTH = 400
# The lint rule that reports links to files outside the project.
OUTSIDE = "link-outside"
# ai-toolkit replaces environment variables such as `${NAME}` in the text before it parses the YAML.
VARIABLE = re.compile(r"\$\{([^}]+)\}")
INT_TAG = "tag:yaml.org,2002:int"
MAX_FAST_INDICATORS = 1000
# Files that contain one of these are parsed with ai-toolkit's own loader. libyaml, which is faster, accepts
# tabs between tokens, question marks in flow collections and byte order marks inside a file, which
# ai-toolkit's loader refuses, and it reads a lone `!` as text.
READ_DIFFERENTLY = (b"\t", b"?", b"!", "\ufeff".encode())

Place = tuple[str, ...]
PROCESS: Place = ("config", "process", "0")
# The parsed document, the line number of each key, and the repeated keys with their line numbers.
_Parsed = tuple[dict[str, Any], dict[Place, int], tuple[tuple[str, int], ...]]


class _AiToolkitLoader(yaml.SafeLoader):
    pass


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the base class depends on PyYAML's build
    pass


for _kind in (_AiToolkitLoader, _FastLoader):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(
            r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
            |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
            |\.[0-9_]+(?:[eE][-+][0-9]+)?
            |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
            |[-+]?\.(?:inf|Inf|INF)
            |\.(?:nan|NaN|NAN))$""",
            re.VERBOSE,
        ),
        list("-+0123456789."),
    )


@dataclass(frozen=True)
class TrainerFile:
    """A train.yml. `document` is empty if `fault` says why it cannot be read.

    `lines` has the line of each key and list entry by its place, such as `("config", "process", "0", "train", "steps")`. `repeated` are
    keys that occur twice in one mapping, with the second one's line.
    """

    path: Path
    raw: bytes = b""
    document: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[Place, int] = field(default_factory=dict)
    repeated: tuple[tuple[str, int], ...] = ()
    fault: Problem | None = None

    @cached_property
    def process(self) -> Mapping[str, Any]:
        """`config.process[0]`, the training; empty if it is missing."""
        return first_process(self.document)

    @cached_property
    def datasets(self) -> list[Mapping[str, Any]]:
        """The entries of `datasets` that are mappings."""
        found = self.process.get("datasets")
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []

    def section(self, name: str) -> Mapping[str, Any]:
        """A mapping below the process, such as `train`; empty if it is missing."""
        return mapping(self.process.get(name))

    def line(self, *place: str) -> int | None:
        """The line of a key below the process, or of the nearest place above it."""
        return self.line_of(PROCESS + place)

    def line_of(self, place: Place) -> int | None:
        """The line of a place in the file, or of the nearest place above it."""
        return next(
            (self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), None
        )

    @property
    def trigger(self) -> str:
        """The trigger word; empty if there is none."""
        words = [self.process.get("trigger_word"), *(entry.get("trigger_word") for entry in self.datasets)]
        return next((word for word in words if isinstance(word, str) and word), "")

    @property
    def steps(self) -> int | None:
        return positive_int(self.section("train").get("steps"))

    @property
    def save_every(self) -> int | None:
        return positive_int(self.section("save").get("save_every"))


class _Fault(Exception):  # noqa: N818 - it is private to this module
    def __init__(self, code: str, message: str, line: int | None = None) -> None:
        self.code, self.message, self.line = code, message, line


def read_trainer_file(folder: Path) -> TrainerFile:
    """The job folder's train.yml or train.yaml. Errors go into its `fault`."""
    present = _existing_config_files(folder)
    if not present:
        return TrainerFile(
            folder,
            fault=Problem(
                str(folder), f"no train.yml{rename_hint(folder, CONFIG_NAMES[0])}", code="config-missing"
            ),
        )
    if len(present) > 1:
        return TrainerFile(
            folder, fault=Problem(str(folder), "both train.yml and train.yaml", code="config-both")
        )
    path = present[0]
    if target := outside_target(path, project_of_job_folder(folder)):
        return TrainerFile(path, fault=outside_problem(path, target))
    raw = b""
    try:
        raw = _read(path)
        if left := git_artefact(raw):
            raise _Fault(left.code, left.message, left.line)
        document, lines, repeated = _parse_fast(raw)
        return TrainerFile(path, raw, document, lines, repeated)
    except _Fault as fault:
        return TrainerFile(path, raw, fault=Problem(str(path), fault.message, fault.line, fault.code))


def parse_train_yml(raw: bytes) -> dict[str, Any]:
    """The content of a train.yml, as ai-toolkit reads it; empty if it cannot be read."""
    try:
        return _parse_fast(raw)[0]
    except _Fault:
        return {}


def uses_variable(value: object) -> bool:
    """Whether its content comes from an environment variable of the node, and is not known before."""
    if isinstance(value, list):
        return any(map(uses_variable, value))
    return isinstance(value, str) and VARIABLE.search(value) is not None


def positive_int(value: object) -> int | None:
    """A whole number above 0, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _existing_config_files(folder: Path) -> list[Path]:
    # Include a broken link or a pipe here, so that reading it reports the problem.
    names = [folder / name for name in CONFIG_NAMES]
    return [path for path in names if os.path.lexists(path) and not path.is_dir()]


def outside_problem(path: Path, target: str) -> Problem:
    """For a file or folder that links to a place outside the project."""
    return Problem(str(path), f"links to {target}, outside the project; it is not read", code=OUTSIDE)


def _read(path: Path) -> bytes:
    try:
        raw = read_regular_file(path, MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise _Fault("config-unreadable", f"more than {MAX_BYTES} bytes are too much for a train.yml")
        return raw
    except OSError as error:
        raise _Fault("config-unreadable", f"cannot be read ({error.strerror})") from error


def _parse_fast(raw: bytes) -> _Parsed:
    """Like `_parse`, six times as fast where libyaml can be used."""
    # libyaml crashes the process at about 30,000 nested collections, each of which takes
    # one of these characters.
    is_flat = sum(raw.count(character) for character in b"[{-?:") <= MAX_FAST_INDICATORS
    if is_flat and not any(sign in raw for sign in READ_DIFFERENTLY):
        try:
            return _parse(raw, _FastLoader)
        except _Fault:
            pass  # If the two loaders disagree, ai-toolkit's counts, and its messages do.
    return _parse(raw)


def _parse(raw: bytes, kind: type[yaml.SafeLoader] = _AiToolkitLoader) -> _Parsed:
    lines: dict[Place, int] = {}
    repeated: list[tuple[str, int]] = []
    try:
        loader = kind(raw.decode())
        node = loader.get_single_node()
        if node is None:
            raise _Fault("config-keys", "the file is empty")
        _count_nodes(node, set(), {})
        _record_line_numbers(node, (), lines, repeated)
        document = loader.construct_document(node)
    except UnicodeDecodeError as error:
        raise _Fault("config-encoding", describe_encoding(raw, error.start)) from error
    except yaml.YAMLError as error:
        raise _Fault("config-yaml", *describe_yaml_error(raw.decode(), error)) from error
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError, AttributeError) as error:
        raise _Fault("config-value", f"contains a value that cannot be read ({error})") from error
    return _as_json(document), lines, tuple(repeated)


def _as_json(document: Any) -> dict[str, Any]:
    """The document as ai-toolkit uses it: converted to JSON, with `[name]` replaced."""
    if (
        not isinstance(document, dict)
        or not isinstance(document.get("config"), dict)
        or "job" not in document
    ):
        raise _Fault("config-keys", "ai-toolkit needs the keys `job` and `config` at the top")
    name = document["config"].get("name")
    try:
        text = "".join(_within_limit(json.JSONEncoder(default=_not_json_error).iterencode(document)))
        if isinstance(name, str):
            text = _replace_placeholders(text, json.dumps(name)[1:-1])
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise _Fault("config-value", f"ai-toolkit cannot convert it to JSON ({error})") from error
    assert isinstance(found, dict)  # noqa: S101 - it was a dict before
    return found


def _within_limit(parts: Iterable[str]) -> Iterator[str]:
    """Raises _Fault if aliases repeat a long text too often."""
    length = 0
    for part in parts:
        length += len(part)
        if length > MAX_EXPANDED:
            raise _Fault("config-value", f"its aliases expand to more than {MAX_EXPANDED} characters")
        yield part


def _replace_placeholders(text: str, name: str) -> str:
    """Replaces each `[name]`. Raises _Fault if the text would become too long: a long name in many places needs gigabytes."""
    placeholder = "[name]"
    if len(text) + text.count(placeholder) * (len(name) - len(placeholder)) > MAX_EXPANDED:
        raise _Fault("config-value", f"its placeholders expand to more than {MAX_EXPANDED} characters")
    return text.replace(placeholder, name)


def _not_json_error(value: object) -> NoReturn:
    raise TypeError(f"{value} is a {type(value).__name__}, put it in quotes for a text")


def _count_nodes(node: yaml.Node, above: set[int], known: dict[int, int]) -> int:
    """The number of nodes with every alias expanded. Raises _Fault for a cycle and for too many."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in above:
        raise _Fault(
            "config-value", "ai-toolkit cannot convert it to JSON (an alias refers to itself)", _line(node)
        )
    if isinstance(node, yaml.ScalarNode) and node.tag == INT_TAG and len(node.value) > MAX_NUMBER_LENGTH:
        raise _Fault("config-value", f"a number has more than {MAX_NUMBER_LENGTH} digits", _line(node))
    total = 1
    for child in _children(node):
        total += _count_nodes(child, above | {id(node)}, known)
    if total > MAX_NODES:
        raise _Fault("config-value", f"its aliases expand to more than {MAX_NODES} values", _line(node))
    known[id(node)] = total
    return total


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _record_line_numbers(
    node: yaml.Node, place: Place, lines: dict[Place, int], repeated: list[tuple[str, int]]
) -> None:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen and key.value != "<<":
                repeated.append((".".join((*place, key.value)), _line(key)))
            seen.add(key.value)
            lines[(*place, key.value)] = _line(key)
            _record_line_numbers(value, (*place, key.value), lines, repeated)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[(*place, str(number))] = _line(value)
            _record_line_numbers(value, (*place, str(number)), lines, repeated)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
