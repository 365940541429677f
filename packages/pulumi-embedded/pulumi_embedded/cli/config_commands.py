"""The commands `config`, `config set`, `config set-all`, `config get` and `config rm`."""

import argparse
import getpass
import json
import sys
from typing import Any

from pulumi_embedded.errors import EngineError, StackNotFoundError
from pulumi_embedded.project.config import ConfigValue, StackConfig, full_key
from pulumi_embedded.project.secrets import Crypter, read_passphrase
from pulumi_embedded.properties import paths
from pulumi_embedded.session import Session


def show_config(session: Session, options: argparse.Namespace) -> int:
    config = session.config()
    values = config.values(session.project, _crypter(session, config))
    shown = {
        key: "[secret]" if value.secret and not options.show_secrets else value.text
        for key, value in values.items()
    }
    if options.json:
        content = {key: as_json(text, values[key], options.show_secrets) for key, text in shown.items()}
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return 0
    names = {key: key.removeprefix(f"{session.project.name}:") for key in shown}
    width = max([3, *map(len, names.values())])
    print(f"{'KEY':<{width}}  VALUE")
    for key, text in shown.items():
        print(f"{names[key]:<{width}}  {text}")
    return 0


def as_json(text: str, value: ConfigValue, show_secrets: bool) -> dict[str, Any]:
    """A value as the CLI's `--json` prints it."""
    is_shown = show_secrets or not value.secret
    return {
        **({"value": text} if is_shown else {}),
        **({"objectValue": json.loads(value.text)} if is_shown and value.is_object else {}),
        "secret": value.secret,
    }


def show_value(session: Session, options: argparse.Namespace) -> int:
    config = session.config()
    key, path = _key(session, options.key, options.path)
    values = config.values(session.project, _crypter(session, config))
    if key not in values:
        raise EngineError(f"configuration key '{options.key}' not found for stack '{session.stack.name}'")
    value = values[key]
    if path:
        value = ConfigValue(_text(_at(value, path, options.key)), value.secret)
    if getattr(options, "json", False):
        print(json.dumps({"value": value.text, "secret": value.secret}, indent=2))
    else:
        print(value.text)
    return 0


def set_value(session: Session, options: argparse.Namespace) -> int:
    _check_exists(session)
    if options.secret and options.plaintext:
        raise EngineError("--secret and --plaintext cannot be used together")
    text = options.value
    if text is None:
        text = _read_value(secret=options.secret)
    config = session.config()
    _store(session, config, options.key, text, secret=options.secret, is_path=options.path)
    config.save()
    return 0


def _read_value(*, secret: bool) -> str:
    """The value from stdin. At a terminal it is asked for, and a secret does not appear there. Raises EngineError."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    try:
        return getpass.getpass("value: ") if secret else input("value: ")
    except EOFError:
        raise EngineError("no value was given") from None


def set_all(session: Session, options: argparse.Namespace) -> int:
    _check_exists(session)
    config = session.config()
    for key, value in _parse_config_json(options.json) if options.json else []:
        _store(session, config, key, value.text, secret=value.secret, is_path=False)
    for pairs, secret in ((options.plaintext, False), (options.secret, True)):
        for pair in pairs:
            key, equals, text = pair.partition("=")
            if not equals:
                raise EngineError(f"{pair!r}: config value must be in the form KEY=VALUE")
            _store(session, config, key, text, secret=secret, is_path=options.path)
    config.save()
    return 0


def _parse_config_json(text: str) -> list[tuple[str, ConfigValue]]:
    """Keys and values in what `config --json` prints. Raises EngineError."""
    try:
        entries = json.loads(text)
        return [
            (key, ConfigValue(str(entry["value"]), bool(entry.get("secret"))))
            for key, entry in entries.items()
        ]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise EngineError(
            '--json: expected {"KEY": {"value": "…", "secret": false}}, as `config --json` prints it'
        ) from None


def _check_exists(session: Session) -> None:
    if not session.exists(session.stack):
        raise StackNotFoundError(
            f"no stack named '{session.stack.name}' found; create it with `pulumi stack init {session.stack.name}`"
        )


def _store(
    session: Session, config: StackConfig, asked: str, text: str, *, secret: bool, is_path: bool
) -> None:
    """Put a value into the configuration, which the caller saves."""
    key, path = _key(session, asked, is_path)
    stored: Any = text
    if secret:
        stored = {"secure": _crypter_for_new(session, config).encrypt(text)}
    elif path:
        stored = _typed(text)
    key = _key_as_in_file(config, session, key)
    config.config[key] = _set_at_path(config.config.get(key), path, stored, asked) if path else stored


def remove_value(session: Session, options: argparse.Namespace) -> int:
    config = session.config()
    key, path = _key(session, options.key, options.path)
    parent: Any = config.config
    *above, last = [_key_as_in_file(config, session, key), *path]
    for part in above:
        if not _has(parent, part):
            return 0
        parent = parent[part]
    if _has(parent, last):
        del parent[last]
        config.save()
    return 0


def _key(session: Session, key: str, is_path: bool) -> tuple[str, paths.Path]:
    """The full key and, with --path, the path inside its value."""
    if not is_path:
        return full_key(session.project.name, key), []
    namespace, colon, rest = key.partition(":")
    parts = paths.parse_path(rest if colon else namespace)
    name = f"{namespace}:{parts[0]}" if colon else str(parts[0])
    return full_key(session.project.name, name), parts[1:]


def _key_as_in_file(config: StackConfig, session: Session, key: str) -> str:
    """The key in the form that the file already uses, if it has it."""
    return next(
        (str(found) for found in config.config if full_key(session.project.name, str(found)) == key), key
    )


def _crypter(session: Session, config: StackConfig) -> Crypter | None:
    return session.crypter_for(config.salt) if config.salt and config.has_secrets() else None


def _crypter_for_new(session: Session, config: StackConfig) -> Crypter:
    if config.salt:
        return session.crypter_for(config.salt)
    crypter = session.state_crypter(session.deployment()) or Crypter.new(read_passphrase(session.stack.name))
    config.salt = crypter.salt
    return crypter


def _at(value: ConfigValue, path: paths.Path, asked: str) -> Any:
    found: Any = json.loads(value.text) if value.is_object else value.text
    for part in path:
        found = _step(found, part, asked)
    return found


def _has(parent: Any, part: str | int) -> bool:
    if isinstance(parent, list):
        return isinstance(part, int) and part < len(parent)
    return isinstance(parent, dict) and part in parent


def _step(parent: Any, part: str | int, asked: str) -> Any:
    if _has(parent, part):
        return parent[part]
    raise EngineError(f"configuration key '{asked}' not found")


def _set_at_path(parent: Any, path: paths.Path, value: Any, asked: str) -> Any:
    if not path:
        return value
    part = path[0]
    if parent is None:
        parent = [] if isinstance(part, int) else {}
    if isinstance(part, int) and isinstance(parent, list) and part <= len(parent):
        if part == len(parent):
            parent.append(None)
    elif not isinstance(part, str) or not isinstance(parent, dict):
        raise EngineError(f"'{asked}': the existing value is not an object or list that can contain {part!r}")
    place: Any = part
    before = parent[place] if isinstance(parent, list) or part in parent else None
    parent[place] = _set_at_path(before, path[1:], value, asked)
    return parent


def _typed(text: str) -> Any:
    """The value for --path, where the CLI stores numbers and booleans as such."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if str(int(text)) == text else text
    except ValueError:
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
