"""The project file and the stack's configuration file.

`Pulumi.yaml` names the project, its program, backend and defaults; `Pulumi.<stack>.yaml` holds the stack's
configuration, secrets encrypted.  Scalars are read as the CLI reads them (`yes` is text, `1e3` is 1000, `~` is
empty), and comments survive a `config set`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.constructor import DuplicateKeyError, RoundTripConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode

from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.project.secrets import Crypter
from pulumi_embedded.properties.values import compact_json, int_if_whole
from pulumi_embedded.state.stores import replace_file

_NAMES: Final = ("Pulumi.yaml", "Pulumi.yml")
_DECLARES: Final = {"type", "default", "value", "description", "secret"}
# Matches the conflict markers that git writes into a file when a merge stops.
_CONFLICT_MARKER: Final = re.compile(r"^(?:(?:<{7}|>{7}|\|{7})(?: .*)?|={7})$", re.MULTILINE)
_CONFLICT: Final = "contains the markers of a merge conflict; keep one version and delete the lines with <<<<<<<, ======= and >>>>>>>"
_STACK_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class _Constructor(RoundTripConstructor):
    """Keeps dates as text."""

    def construct_yaml_timestamp(self, node: ScalarNode, values: Any = None) -> Any:  # noqa: ARG002 - the signature of ruamel
        return str(node.value)


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", _Constructor.construct_yaml_timestamp)


@cache
def _yaml() -> YAML:
    yaml = YAML()
    yaml.Constructor = _Constructor
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)  # the same indentation of lists as the CLI's
    return yaml


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if marker := _CONFLICT_MARKER.search(text):
            line = text.count("\n", 0, marker.start()) + 1
            raise EngineError(f"{path.name}:{line}: {_CONFLICT}")
        content = _yaml().load(text)
    except DuplicateKeyError as error:
        raise EngineError(f"{path.name}{_describe_duplicate_key(error)}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise EngineError(f"{path.name} is not valid YAML: {error}") from None
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # raised for a value that does not fit its tag, such as `!!bool 1`
        raise EngineError(f"{path.name} has a value that does not match its YAML tag ({error})") from None
    except RecursionError:
        raise EngineError(f"{path.name} has lists or keys that are nested too deeply") from None
    if content is None:
        return CommentedMap()
    if not isinstance(content, dict):
        raise EngineError(f"{path.name} must contain keys with values, not a {type(content).__name__}")
    return content


def _describe_duplicate_key(error: DuplicateKeyError) -> str:
    """`:3: a occurs a second time; delete one`."""
    line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
    key = re.search(r'duplicate key "(.*?)" with value', error.problem or "")
    return f"{line}: {key[1] if key else 'a key'} occurs a second time; delete one"


@dataclass(frozen=True)
class Project:
    """The content of Pulumi.yaml."""

    name: str
    file: Path
    main: str = ""
    virtualenv: str = ""
    backend_url: str = ""
    config_folder: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.file.parent

    def stack_config_file(self, stack: str) -> Path:
        return self.folder / self.config_folder / f"Pulumi.{stack}.yaml"

    def configured_stacks(self) -> list[str]:
        """The stacks that have a configuration file."""
        files = (self.folder / self.config_folder).glob("Pulumi.*.yaml")
        return [file.name.removeprefix("Pulumi.").removesuffix(".yaml") for file in files]

    def program_folder(self) -> Path:
        path = self.folder / self.main
        return path if path.is_dir() else path.parent

    def program_file(self) -> Path:
        path = self.folder / self.main
        return path / "__main__.py" if path.is_dir() else path


def find_project(folder: Path) -> Project:
    """The project in this folder or a folder above it. Raises EngineError if there is none."""
    for candidate in (folder, *folder.parents):
        for name in _NAMES:
            if (candidate / name).is_file():
                return _project(candidate / name)
    raise EngineError(f"no Pulumi.yaml project file found (searching upwards from {folder})")


def _project(path: Path) -> Project:
    content = _read(path)
    name, runtime = content.get("name"), content.get("runtime")
    if not isinstance(name, str) or not name:
        raise EngineError(f"{path.name} has no `name`")
    options: dict[str, Any] = {}
    if isinstance(runtime, dict):
        options = _mapping(path, runtime, "options")
        runtime = runtime.get("name")
    if runtime != "python":
        raise NeedsCliError(
            f"the runtime {runtime!r} in {path.name}", "this engine only runs Python programs"
        )
    return Project(
        name=name,
        file=path.resolve(),
        main=str(content.get("main") or ""),
        virtualenv=str(options.get("virtualenv") or ""),
        backend_url=str(_mapping(path, content, "backend").get("url") or ""),
        config_folder=str(content.get("stackConfigDir") or ""),
        config=_mapping(path, content, "config"),
    )


def _mapping(path: Path, content: Any, key: str) -> dict[str, Any]:
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise EngineError(f"{path.name}: `{key}` must contain keys with values, not {found!r}")
    return dict(found)


def check_stack_name(name: str) -> str:
    """The name. Raises EngineError if it is invalid."""
    if not _STACK_NAME.fullmatch(name):
        raise EngineError(
            f"{name!r} is not a valid stack name: it may have up to 100 letters, digits, hyphens, underscores and periods"
        )
    return name


@dataclass(frozen=True)
class ConfigValue:
    """A configuration value as the program receives it. `is_object`: the text is JSON."""

    text: str
    secret: bool = False
    is_object: bool = False


class StackConfig:
    """The content of Pulumi.<stack>.yaml."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: Any = _read(path) if path.exists() else CommentedMap()
        provider = self.content.get("secretsprovider")
        if provider not in (None, "", "passphrase", "default"):
            raise NeedsCliError(f"the secrets provider {provider!r} in {path.name}")
        _mapping(path, self.content, "config")

    @property
    def salt(self) -> str | None:
        """The stack's encryptionsalt, if it has one."""
        value = self.content.get("encryptionsalt")
        return str(value) if value else None

    @salt.setter
    def salt(self, value: str) -> None:
        self.content.insert(0, "encryptionsalt", value)

    @property
    def config(self) -> Any:
        """The configuration as the file has it, created if it is missing."""
        if self.content.get("config") is None:
            self.content["config"] = {}
        return self.content["config"]

    def save(self) -> None:
        """Write the file, with its comments."""
        if not self.content.get("config"):
            self.content.pop("config", None)
        text = StringIO()
        _yaml().dump(self.content, text)
        replace_file(self.path, text.getvalue().encode())

    def values(self, project: Project, crypter: Crypter | None) -> dict[str, ConfigValue]:
        """All values by full key, decrypted, with the project's defaults."""
        own = self.content.get("config") or {}
        entries = [*_defaults(project).items(), *own.items()]
        found = {full_key(project.name, str(key)): value_of(raw, crypter) for key, raw in entries}
        return dict(sorted(found.items()))

    def secrets(self, crypter: Crypter | None) -> list[str]:
        """All secrets in plain text, also those inside objects."""
        return [_decrypt(text, crypter) for text in encrypted(self.content.get("config"))]

    def stored(self, project: str) -> dict[str, Any]:
        """All values by full key, with secrets encrypted."""
        found = self.content.get("config") or {}
        return {full_key(project, str(key)): _stored(raw) for key, raw in sorted(found.items())}

    def has_secrets(self) -> bool:
        """Whether a value is encrypted."""
        return any(encrypted(self.content.get("config")))


def _defaults(project: Project) -> dict[str, Any]:
    found = {}
    for key, declared in project.config.items():
        value = declared
        if is_config_declaration(declared):
            value = declared.get("value", declared.get("default"))
            if value is None:
                continue
        found[str(key)] = value
    return found


def is_config_declaration(declared: Any) -> bool:
    """Whether this entry of Pulumi.yaml declares a value's type or default, rather than being the value."""
    return isinstance(declared, dict) and bool(declared.keys() & _DECLARES)


def full_key(project: str, key: str) -> str:
    """The key with its namespace: `token` is short for `<project>:token`, and `<project>:config:token` is an old form.

    Raises EngineError.
    """
    namespace, _, name = key.replace(":config:", ":").rpartition(":")
    if ":" in namespace:
        raise EngineError(f"invalid configuration key {key!r}: it must have the form `<namespace>:<name>`")
    return f"{namespace or project}:{name}"


def value_of(raw: Any, crypter: Crypter | None) -> ConfigValue:
    """A value from the file, decrypted."""
    if _is_secret(raw):
        return ConfigValue(_decrypt(raw["secure"], crypter), secret=True)
    if isinstance(raw, (dict, list)):
        return ConfigValue(compact_json(_plain(raw, crypter)), secret=any(encrypted(raw)), is_object=True)
    return ConfigValue(scalar_text(raw))


def scalar_text(value: Any) -> str:
    """A scalar in the form that the CLI passes to the program."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int_if_whole(float(value)))
    return str(value)


def _is_secret(raw: Any) -> bool:
    return isinstance(raw, dict) and set(raw) == {"secure"}


def _stored(raw: Any) -> Any:
    if isinstance(raw, dict):
        return {str(key): _stored(item) for key, item in raw.items()}
    return [_stored(item) for item in raw] if isinstance(raw, list) else scalar_text(raw)


def _plain(raw: Any, crypter: Crypter | None) -> Any:
    """The value without ruamel's types, and decrypted."""
    if _is_secret(raw):
        return _decrypt(raw["secure"], crypter)
    if isinstance(raw, dict):
        return {str(key): _plain(item, crypter) for key, item in raw.items()}
    if isinstance(raw, list):
        return [_plain(item, crypter) for item in raw]
    if raw is None or isinstance(raw, bool):
        return raw
    if isinstance(raw, int):
        return int(raw)
    return int_if_whole(float(raw)) if isinstance(raw, float) else str(raw)


def _decrypt(secret: Any, crypter: Crypter | None) -> str:
    if crypter is None:
        raise EngineError("the configuration has secrets, but the stack has no encryptionsalt")
    return crypter.decrypt(str(secret))


def encrypted(raw: Any) -> Iterator[str]:
    """All encrypted texts, also those inside objects."""
    if _is_secret(raw):
        yield str(raw["secure"])
    elif isinstance(raw, (dict, list)):
        for item in raw.values() if isinstance(raw, dict) else raw:
            yield from encrypted(item)
