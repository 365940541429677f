"""train.yml, read as ai-toolkit reads it.

The trainer's loader is PyYAML's SafeLoader with one more rule: `1e-4` is a float (plain YAML 1.1 reads a string). Then every
`[name]` becomes `config.name`.  Source: ai-toolkit `toolkit/config.py`.  The file itself goes to the bucket byte for byte;
what is parsed here is only looked at.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from training.errors import BadInput

CONFIG_NAMES = ("train.yml", "train.yaml")
OUTPUT_FOLDER = "output"
DATASET_FOLDER = "dataset"


class _AiToolkitLoader(yaml.SafeLoader):
    pass


_AiToolkitLoader.add_implicit_resolver(
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
class TrainerConfig:
    """What the launcher and the bucket layout need to know of a train.yml."""

    name: str
    steps: int
    save_every: int


def parse_trainer_yaml(text: str) -> Any:
    """What ai-toolkit reads in a text; raises yaml.YAMLError, ValueError, TypeError, RecursionError."""
    return yaml.load(text, Loader=_AiToolkitLoader)  # noqa: S506 - a SafeLoader


def read_trainer_config(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The file's bytes and its content after ai-toolkit's own reading.

    Raises BadInput when it is not UTF-8, not YAML, or lacks `job` or `config.name` (what ai-toolkit refuses).
    """
    try:
        raw = path.read_bytes()
        document = parse_trainer_yaml(raw.decode())
    except OSError as error:
        raise BadInput([f"{path}: cannot be read ({error.strerror}); make it a readable file"]) from error
    except UnicodeDecodeError as error:
        raise BadInput([f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8"]) from error
    except yaml.YAMLError as error:
        raise BadInput([f"{path}{_line(error)}: not YAML ({_problem(error)}); mend that line"]) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput([f"{path}: holds a value that cannot be read ({error}); mend it"]) from error
    if (
        not isinstance(document, dict)
        or not isinstance(document.get("config"), dict)
        or "job" not in document
    ):
        raise BadInput(
            [f"{path}: ai-toolkit wants the keys `job` and `config` at the top; see jobs/ for an example"]
        )
    name = document["config"].get("name")
    if not isinstance(name, str) or not name:
        raise BadInput(
            [f"{path}: config.name is {name!r}; it must be the job folder's name, `{path.parent.name}`"]
        )
    if name != path.parent.name:
        return raw, document  # a finding of `understand`; such a name might not even survive the replacing
    try:
        return raw, json.loads(json.dumps(document, default=str).replace("[name]", name))
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput([f"{path}: ai-toolkit cannot take it as JSON ({error}); mend it"]) from error


def understand(path: Path, document: dict[str, Any]) -> TrainerConfig:
    """The fields we rely on, each checked; raises BadInput with every finding at once."""
    findings: list[str] = []
    config = document["config"]
    job = path.parent.name
    if config["name"] != job:
        findings.append(
            f"{path}: config.name is `{config['name']}`, but the folder is `{job}`; they must be the same, "
            "because outputs are synced from output/<job folder>: rename one of them"
        )
    process = _first_process(config)
    if process is None:
        raise BadInput(
            [
                *findings,
                f"{path}: config.process[0] is missing; ai-toolkit needs one process (type sd_trainer)",
            ]
        )

    train = _section(process, "train")
    save = _section(process, "save")
    steps = _positive_int(train.get("steps"))
    save_every = _positive_int(save.get("save_every"))
    if steps is None:
        findings.append(
            f"{path}: train.steps is {train.get('steps')!r}; it must be a whole number above 0, such as 2000"
        )
    if save_every is None:
        findings.append(
            f"{path}: save.save_every is {save.get('save_every')!r}; it must be a whole number above 0, such as 250"
        )
    training_folder = process.get("training_folder")
    if training_folder != OUTPUT_FOLDER:
        findings.append(
            f"{path}: training_folder is {training_folder!r}; only `{OUTPUT_FOLDER}` is synced to the bucket: set it to that"
        )
    findings += _dataset_findings(path, process)
    if findings or steps is None or save_every is None:
        raise BadInput(findings)
    return TrainerConfig(config["name"], steps, save_every)


def _dataset_findings(path: Path, process: dict[str, Any]) -> list[str]:
    datasets = process.get("datasets")
    if not isinstance(datasets, list) or not datasets or not isinstance(datasets[0], dict):
        return [f"{path}: datasets[0] is missing; set datasets: [{{folder_path: {DATASET_FOLDER}}}]"]
    findings = []
    for index, dataset in enumerate(datasets):
        folder = dataset.get("folder_path") if isinstance(dataset, dict) else None
        if (
            not isinstance(folder, str)
            or folder.strip("/").removeprefix("./") != DATASET_FOLDER
            or folder.startswith("/")
        ):
            findings.append(
                f"{path}: datasets[{index}].folder_path is {folder!r}; on the node the images lie in `{DATASET_FOLDER}`: set it to that"
            )
    return findings


def _first_process(config: dict[str, Any]) -> dict[str, Any] | None:
    processes = config.get("process")
    if isinstance(processes, list) and processes and isinstance(processes[0], dict):
        return processes[0]
    return None


def _section(process: dict[str, Any], name: str) -> dict[str, Any]:
    section = process.get(name)
    return section if isinstance(section, dict) else {}


def _positive_int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark is not None else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).replace("\n", " ")
