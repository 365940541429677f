"""The project file and a stack's configuration, as the CLI has them.

`Pulumi.yaml` names the project, its program, backend and defaults; `Pulumi.<stack>.yaml` holds the stack's
configuration, secrets encrypted.  Scalars are read as the CLI reads them (`yes` is text, `1e3` is 1000, `~` is
empty), and comments survive a `config set`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode

from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.project.secrets import Crypter
from pulumi_embedded.properties.values import compact, number
from pulumi_embedded.state.stores import replace_file

_NAMES: Final = ("Pulumi.yaml", "Pulumi.yml")
_DECLARES: Final = {"type", "default", "value", "description", "secret"}
_STACK_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class _Constructor(RoundTripConstructor):
    """Dates stay the text they were written as."""

    def construct_yaml_timestamp(self, node: ScalarNode, values: Any = None) -> Any:  # noqa: ARG002 - ruamel's own
        return str(node.value)


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", _Constructor.construct_yaml_timestamp)


@cache
def _yaml() -> YAML:
    yaml = YAML()
    yaml.Constructor = _Constructor
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)  # as the CLI writes lists
    return yaml


def _read(path: Path) -> Any:
    try:
        content = _yaml().load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise EngineError(f"{path.name} is no YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise EngineError(f"{path.name} must hold keys with values, not a {type(content).__name__}")
    return content


@dataclass(frozen=True)
class Project:
    """What Pulumi.yaml says."""

    name: str
    file: Path
    main: str = ""
    virtualenv: str = ""
    backend_url: str = ""
    config_folder: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of Pulumi.yaml."""
        return self.file.parent

    def stack_config_file(self, stack: str) -> Path:
        """The file with a stack's configuration."""
        return self.folder / self.config_folder / f"Pulumi.{stack}.yaml"

    def program_folder(self) -> Path:
        """The folder that the program runs in."""
        path = self.folder / self.main
        return path if path.is_dir() else path.parent

    def program_file(self) -> Path:
        """The program."""
        path = self.folder / self.main
        return path / "__main__.py" if path.is_dir() else path


def find_project(folder: Path) -> Project:
    """The project whose folder this is, or whose folder it lies in.  Raises EngineError where there is none."""
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
        raise NeedsCliError(f"the runtime {runtime!r} in {path.name}", "this engine runs Python programs")
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
        raise EngineError(f"{path.name}: `{key}` must hold keys with values, not {found!r}")
    return dict(found)


def check_stack_name(name: str) -> str:
    """The stack's own name, from `dev` or `organization/project/dev`.  Raises EngineError where it cannot be one."""
    short = name.rsplit("/", 1)[-1]
    if not _STACK_NAME.fullmatch(short):
        raise EngineError(
            f"{name!r} is no stack name: a stack name has up to 100 letters, digits, hyphens, underscores and periods"
        )
    return short


@dataclass(frozen=True)
class ConfigValue:
    """One configuration value as the program gets it: text; an object is JSON."""

    text: str
    secret: bool = False
    is_object: bool = False


class StackConfig:
    """One Pulumi.<stack>.yaml."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: Any = _read(path) if path.exists() else {}
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
        if hasattr(self.content, "insert"):
            self.content.insert(0, "encryptionsalt", value)
        else:
            self.content["encryptionsalt"] = value

    @property
    def config(self) -> Any:
        """The configuration as written; made where there is none."""
        if self.content.get("config") is None:
            self.content["config"] = {}
        return self.content["config"]

    def save(self) -> None:
        """Write the file back, comments and all."""
        if not self.content.get("config"):
            self.content.pop("config", None)
        text = StringIO()
        _yaml().dump(self.content, text)
        replace_file(self.path, text.getvalue().encode())

    def values(self, project: Project, crypter: Crypter | None) -> dict[str, ConfigValue]:
        """All values by their full keys, the project's defaults included.  Decrypts secrets."""
        found = {
            full_key(project.name, key): value_of(value, crypter) for key, value in _defaults(project).items()
        }
        for key, raw in (self.content.get("config") or {}).items():
            found[full_key(project.name, str(key))] = value_of(raw, crypter)
        return dict(sorted(found.items()))

    def secrets(self, crypter: Crypter | None) -> list[str]:
        """Every encrypted text, also of those inside objects, decrypted."""
        return list(_secrets(self.content.get("config"), crypter))

    def stored(self, project: str) -> dict[str, Any]:
        """All values by their full keys as the file has them: secrets encrypted."""
        found = self.content.get("config") or {}
        return {full_key(project, str(key)): _stored(raw) for key, raw in sorted(found.items())}

    def has_secrets(self) -> bool:
        """Whether decrypting is needed to read the values."""
        return _has_secure(self.content.get("config"))


def _defaults(project: Project) -> dict[str, Any]:
    found = {}
    for key, declared in project.config.items():
        value = declared
        if is_declaration(declared):
            value = declared.get("value", declared.get("default"))
            if value is None:
                continue
        found[str(key)] = value
    return found


def is_declaration(declared: Any) -> bool:
    """Whether Pulumi.yaml says here what a value has to be, and not the value."""
    return isinstance(declared, dict) and bool(declared.keys() & _DECLARES)


def full_key(project: str, key: str) -> str:
    """`token` is `<project>:token`; `<project>:config:token` is an old way to write the same."""
    namespace, _, name = key.replace(":config:", ":").rpartition(":")
    return f"{namespace or project}:{name}"


def value_of(raw: Any, crypter: Crypter | None) -> ConfigValue:
    """A value of the file, decrypted."""
    if isinstance(raw, dict) and set(raw) == {"secure"}:
        return ConfigValue(_decrypt(raw["secure"], crypter), secret=True)
    if isinstance(raw, (dict, list)):
        return ConfigValue(compact(_plain(raw, crypter)), secret=_has_secure(raw), is_object=True)
    return ConfigValue(scalar_text(raw))


def scalar_text(value: Any) -> str:
    """A scalar as the CLI hands it to the program."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(number(float(value)))
    return str(value)


def _stored(raw: Any) -> Any:
    if isinstance(raw, dict):
        return {str(key): _stored(item) for key, item in raw.items()}
    return [_stored(item) for item in raw] if isinstance(raw, list) else scalar_text(raw)


def _plain(raw: Any, crypter: Crypter | None) -> Any:
    """The object without ruamel's types, secrets decrypted."""
    if isinstance(raw, dict):
        if set(raw) == {"secure"}:
            return _decrypt(raw["secure"], crypter)
        return {str(key): _plain(item, crypter) for key, item in raw.items()}
    if isinstance(raw, list):
        return [_plain(item, crypter) for item in raw]
    if isinstance(raw, bool) or raw is None:
        return raw if raw is None else bool(raw)
    if isinstance(raw, int):
        return int(raw)
    if isinstance(raw, float):
        return number(float(raw))
    return str(raw)


def _decrypt(secret: Any, crypter: Crypter | None) -> str:
    if crypter is None:
        raise EngineError("the configuration holds secrets, but the stack has no encryptionsalt")
    return crypter.decrypt(str(secret))


def _secrets(raw: Any, crypter: Crypter | None) -> Iterator[str]:
    if isinstance(raw, dict) and set(raw) == {"secure"}:
        yield _decrypt(raw["secure"], crypter)
    elif isinstance(raw, (dict, list)):
        for item in raw.values() if isinstance(raw, dict) else raw:
            yield from _secrets(item, crypter)


def _has_secure(raw: Any) -> bool:
    if isinstance(raw, dict):
        return set(raw) == {"secure"} or any(_has_secure(item) for item in raw.values())
    return isinstance(raw, list) and any(_has_secure(item) for item in raw)
