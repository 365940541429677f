"""Reads Pulumi.<stack>.yaml without an engine and without decrypting its secrets."""

import json
from pathlib import Path
from typing import Any, get_args

import yaml

from flux_training.commands.stack.project import project_name
from flux_training.commands.stack.yaml_file import RepeatedKeyError, load_yaml
from flux_training.training.errors import BadInput
from flux_training.training.opening import outside_target, read_regular_file
from flux_training.training.setting_errors import ignored_keys
from flux_training.training.settings import StackSettings, parse_stack_settings
from flux_training.training.text_files import describe_encoding, describe_yaml_error, git_artefact
from flux_training.training.words import nearest

CLOUDS = get_args(StackSettings.model_fields["cloud"].annotation)
# This text replaces the value of an encrypted setting.
ENCRYPTED = "encrypted"
# The maximum size of a stack file. A file with a thousand jobs has 100 KB.
MAX_FILE_BYTES = 16 * 1024 * 1024


def uses_local_cloud(root: Path, stack: str) -> bool:
    """Raises BadInput if there is no such stack file, if it is not YAML, or if it names another cloud."""
    key = f"{project_name(root)}:cloud"
    cloud = stack_config(root, stack).get(key)
    if cloud is not None and cloud not in CLOUDS:
        raise BadInput([f"Pulumi.{stack}.yaml: {key}: must be 'local' or 'salad' (it is {cloud!r})"])
    return cloud == "local"


def stack_settings(root: Path, stack: str) -> StackSettings:
    """The stack's settings without its secrets. Raises BadInput with every finding."""
    return parse_stack_settings(
        project_name(root), {key: _as_text(value) for key, value in stack_config(root, stack).items()}
    )


def steps_limit(root: Path, stack: str) -> int | None:
    """The stack's `maxSteps`; None without a valid one. Raises BadInput if the file cannot be read."""
    value = str(stack_config(root, stack).get(f"{project_name(root)}:maxSteps", ""))
    return int(value) if value.isdecimal() and int(value) else None


def stack_path(root: Path, stack: str) -> Path:
    return root / f"Pulumi.{stack}.yaml"


def stack_names(root: Path) -> list[str]:
    """The stacks that have a file, sorted."""
    return sorted(file.name.split(".")[1] for file in root.glob("Pulumi.*.yaml"))


def stack_config(root: Path, stack: str) -> dict[str, Any]:
    """The file's `config`; empty if it has none. Raises BadInput if there is no such file or it is not YAML."""
    path = stack_path(root, stack)
    try:
        if target := outside_target(path, root):
            raise BadInput(
                [f"link-outside: {path.name} is a link that leaves the project, to {target}; it is not read"]
            )
        raw = read_regular_file(path, MAX_FILE_BYTES)
        if left := git_artefact(raw):
            raise BadInput([left.finding(path.name)])
        document = load_yaml(raw.decode("utf-8-sig"))
    except FileNotFoundError as error:
        stacks = stack_names(root)
        here = (
            f"stacks here: {', '.join(stacks)}"
            if stacks
            else f"{root} has no stack; go to your project, or name it with `flux --cwd FOLDER`"
        )
        what = f"stack {stack}: there is no {path.name}{nearest(stack, stacks)}; {here}"
        raise BadInput([what]) from error
    except UnicodeDecodeError as error:
        raise BadInput(
            [f"{path.name}: {describe_encoding(raw, error.start)}; save the file as UTF-8"]
        ) from error
    except RepeatedKeyError as error:
        raise BadInput([f"{path.name}:{error.line}: {error}"]) from error
    except yaml.YAMLError as error:
        message, line = describe_yaml_error(raw.decode(), error)
        place = path.name if line is None else f"{path.name}:{line}"
        raise BadInput([f"{place}: {message}; correct that line"]) from error
    except OSError as error:
        raise BadInput([f"{path.name} cannot be read: {error.strerror}; fix the file"]) from error
    if isinstance(document, dict) and (findings := ignored_keys(path.name, map(_as_key, document))):
        raise BadInput(findings)
    config = document.get("config") if isinstance(document, dict) else document
    if config is not None and not isinstance(config, dict):
        example = f"`  {project_name(root)}:cloud: local`"
        raise BadInput(
            [f"{path.name}: must have the line `config:` and settings below it, such as {example}"]
        )
    return {_full_key(root, str(key)): value for key, value in (config or {}).items()}


def _full_key(root: Path, key: str) -> str:
    """As Pulumi reads it: `cloud` is short for `<project>:cloud`, and `<project>:config:cloud` an old form."""
    return key.replace(":config:", ":") if ":" in key else f"{project_name(root)}:{key}"


def _as_text(value: Any) -> str:
    """The value as Pulumi passes it to a program: objects as JSON."""
    plain = _without_secrets(value)
    return plain if isinstance(plain, str) else json.dumps(plain, default=str)


def _as_key(key: Any) -> str:
    """A key as text: a job may be named 2026-11-30, which YAML takes for a date."""
    return key if isinstance(key, str) else json.dumps(key, default=str).strip('"')


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"secure"}:
            return ENCRYPTED
        return {_as_key(key): _without_secrets(entry) for key, entry in value.items()}
    return [_without_secrets(entry) for entry in value] if isinstance(value, list) else value
