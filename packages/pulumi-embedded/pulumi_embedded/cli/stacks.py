"""The commands `stack …`, `cancel` and `about`; `main.py` says what each one does."""

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from pulumi_embedded import VERSION
from pulumi_embedded.errors import EngineError, StackNotFoundError
from pulumi_embedded.program.processes import project_interpreter
from pulumi_embedded.project import selection
from pulumi_embedded.properties import urns, values
from pulumi_embedded.session import Session, create_stack
from pulumi_embedded.state import locks, serialization, snapshot
from pulumi_embedded.state.backend import StackId
from pulumi_embedded.state.serialization import Json


def show_stack(session: Session, options: argparse.Namespace) -> int:
    loaded = _state(session)
    print(f"Current stack is {session.stack.name}:")
    print(f"    {len(loaded.resources)} resources")
    for resource in loaded.resources:
        print(f"    {resource.type} {urns.name_of(resource.urn)}{' ' + resource.id if resource.id else ''}")
        if options.show_urns:
            print(f"        URN: {resource.urn}")
    return 0


def init_stack(session: Session, options: argparse.Namespace) -> int:
    name = options.name or session.requested
    if not name:
        raise EngineError("missing stack name: use `pulumi stack init NAME`")
    created = create_stack(session, name)
    print(f"Created stack '{created.name}'")
    if not options.no_select:
        _select(session, created)
    return 0


def select_stack(session: Session, options: argparse.Namespace) -> int:
    name = options.name or session.requested
    if not name:
        raise EngineError("missing stack name: use `pulumi stack select NAME`")
    stack = session.stack_named(name)
    if not session.exists(stack):
        if not options.create:
            raise StackNotFoundError(
                f"no stack named '{name}' found; create it with `pulumi stack select --create {stack.name}`"
            )
        create_stack(session, name)
        print(f"Created stack '{stack.name}'")
    _select(session, stack)
    return 0


def _select(session: Session, stack: StackId) -> None:
    selection.select_stack(stack.project, session.project.file, session.backend.url, stack.name)


def select_only_stack(session: Session) -> None:
    """If no stack is selected, select the only one that has a state or a configuration file, and create it if need be."""
    known = [] if session.chosen_stack() else session.known_stacks()
    if len(known) != 1:
        return
    stack = session.stack_named(known[0])
    if not session.exists(stack):
        create_stack(session, stack.name)
    _select(session, stack)
    print(f"No stack was selected: using {stack.name}, the only one of this project.", file=sys.stderr)


def list_stacks(session: Session, options: argparse.Namespace) -> int:
    selected = selection.selected_stack(session.project.name, session.project.file, session.backend.url)
    rows = []
    for name in session.backend.stack_names(session.project.name):
        latest = snapshot.current_deployment(session.backend, StackId(session.project.name, name))
        count = len(latest.get("resources") or [])
        updated = _parse_state_time((latest.get("manifest") or {}).get("time"))
        rows.append((name, name == selected, updated, count))
    if options.json:
        print(json.dumps([_row_as_json(*row) for row in rows], indent=2))
        return 0
    table = [("NAME", "LAST UPDATE", "RESOURCE COUNT")]
    for name, current, updated, count in rows:
        table.append((name + "*" * current, ago(updated), str(count)))
    name_width, time_width = (max(len(row[column]) for row in table) for column in (0, 1))
    for shown_name, shown_time, shown_count in table:
        print(f"{shown_name:<{name_width}}  {shown_time:<{time_width}}  {shown_count}")
    return 0


def _parse_state_time(text: str | None) -> datetime | None:
    """A time from the state, without its nanoseconds, which Python cannot represent."""
    try:
        return datetime.fromisoformat(text or "")
    except ValueError:
        return None


def _row_as_json(name: str, current: bool, updated: datetime | None, count: int) -> dict[str, Any]:
    moment = updated and updated.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return {
        "name": name,
        "current": current,
        **({"lastUpdate": moment} if moment else {}),
        "resourceCount": count,
    }


_UNITS: Final = (
    ("year", 365 * 86400),
    ("month", 30 * 86400),
    ("week", 7 * 86400),
    ("day", 86400),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)


def ago(moment: datetime | None) -> str:
    """How long ago, as the CLI writes it."""
    if moment is None:
        return "n/a"
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    for unit, length in _UNITS:
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "now"


def show_outputs(session: Session, options: argparse.Namespace) -> int:
    outputs = _state(session).outputs
    name = options.name
    if name is not None:
        if name not in outputs:
            raise EngineError(f"current stack does not have output property '{name}'")
        value = _shown(outputs[name], options.show_secrets)
        plain = isinstance(value, str) and not options.json
        text = json.dumps(value, indent=2, ensure_ascii=False) if options.json else values.compact_json(value)
        print(value if plain else text)
        return 0
    shown = {key: _shown(value, options.show_secrets) for key, value in sorted(outputs.items())}
    if options.json:
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return 0
    print(f"Current stack outputs ({len(shown)}):")
    width = max([6, *map(len, shown)])
    print(f"    {'OUTPUT':<{width}}  VALUE")
    for key, value in shown.items():
        print(f"    {key:<{width}}  {value if isinstance(value, str) else values.compact_json(value)}")
    return 0


def _shown(value: values.Value, show_secrets: bool) -> Any:
    return values.reveal_secrets(value) if show_secrets else values.mask_secrets(value)


def export_stack(session: Session, options: argparse.Namespace) -> int:
    latest = session.deployment()
    if options.show_secrets:
        latest = serialization.decrypt_secrets(latest, session.state_crypter(latest))
    text = json.dumps({"version": 3, "deployment": latest}, indent=4, ensure_ascii=False) + "\n"
    if options.file:
        Path(options.file).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


def import_stack(session: Session, options: argparse.Namespace) -> int:
    text = (
        Path(options.file).read_text(encoding="utf-8", errors="replace") if options.file else sys.stdin.read()
    )
    latest = _parse_exported_stack(text)
    stack = session.stack
    problems = _problems_of_import(latest.get("resources") or [], stack)
    if problems and not options.force:
        problems.append("importing this file could be dangerous; rerun with --force to proceed anyway")
        raise EngineError("\n".join(problems))
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    for entry in latest.pop("pending_operations", None) or []:
        urn = entry["resource"]["urn"]
        print(
            f"warning: removing pending operation '{entry['type']}' on '{urn}' from snapshot", file=sys.stderr
        )
    with locked(session):
        snapshot.recover_journal(session.backend, stack)
        crypter = session.crypter(session.config(), session.deployment())
        theirs = session.state_crypter(latest)
        if crypter is not None and latest.get("resources"):
            latest["resources"] = serialization.reencrypt_secrets(
                latest["resources"], theirs or crypter, crypter
            )
        if crypter is not None:
            latest["secrets_providers"] = snapshot.secrets_provider(crypter.salt)
        session.load(latest)  # raises an error if the imported state is invalid
        session.backend.write(stack, snapshot.checkpoint_of(stack, latest))
    print("Import complete.")
    return 0


def _parse_exported_stack(text: str) -> Json:
    """The deployment in an exported stack. Raises EngineError if the text is something else."""
    try:
        content = json.loads(text)
        latest, version = content["deployment"], content["version"]
        if version != 3:
            raise EngineError(f"the exported stack has version {version}, but this engine reads version 3")
        found = {**latest}
        for entry in [*(found.get("resources") or []), *(found.get("pending_operations") or [])]:
            (entry.get("resource") or entry)["urn"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineError(
            "this is not an exported stack: expected JSON with `version` and `deployment`"
        ) from None
    return found


def _problems_of_import(items: list[Json], stack: StackId) -> list[str]:
    """The reasons, in the CLI's words, why these resources should not be imported."""
    found = []
    for item in items:
        try:
            urn = urns.parse_urn(item.get("urn", ""))
        except ValueError as error:
            raise EngineError(f"state file contains errors: {error}") from None
        if (urn.stack, urn.project) != (stack.name, stack.project):
            found.append(
                f"resource '{urn}' is from a different stack ({urn.project}/{urn.stack} != {stack.project}/{stack.name})"
            )
    flaw = serialization.find_state_error(items)
    return [*found, *([f"state file contains errors: {flaw}"] if flaw else [])]


def remove_stack(session: Session, options: argparse.Namespace) -> int:
    if options.name:
        session.requested = options.name
    stack = session.stack
    if not options.force:
        _check_stack_is_empty(session)
    asks = sys.stdin.isatty() and not getattr(options, "non_interactive", False)
    if not options.yes and not (asks and _user_typed_stack_name(stack)):
        raise EngineError("confirmation declined: pass --yes to remove the stack")
    delete_stack(session, force=options.force, preserve_config=options.preserve_config)
    print(f"Stack '{stack.name}' has been removed!")
    return 0


def _user_typed_stack_name(stack: StackId) -> bool:
    try:
        return (
            input(f"This will permanently remove the '{stack.name}' stack! Type its name: ").strip()
            == stack.name
        )
    except EOFError:  # Ctrl-D
        return False


def _check_stack_is_empty(session: Session) -> None:
    """Raises EngineError if the stack has resources, or creates with an unknown outcome."""
    latest = session.deployment()
    if latest.get("resources"):
        raise EngineError(
            f"'{session.stack.name}' still has resources; removal rejected. Run `pulumi destroy` first, or use --force to "
            "remove the stack and keep its resources"
        )
    for pending in latest.get("pending_operations") or []:
        raise EngineError(
            f"an earlier update ended while it was {pending['type']} {pending['resource']['urn']}, which may therefore "
            "exist; removal rejected. Run `pulumi up` and `pulumi destroy`, or `pulumi refresh --clear-pending-creates`, or `pulumi stack rm --force`"
        )


def delete_stack(session: Session, *, force: bool, preserve_config: bool) -> None:
    """Remove a stack's state and configuration, and deselect it.

    Without `force`, raises EngineError if it has resources or creates with an unknown outcome.
    """
    stack = session.stack
    with locked(session):
        if not force:
            _check_stack_is_empty(session)
        session.backend.remove(stack)
        if not preserve_config:
            session.project.stack_config_file(stack.name).unlink(missing_ok=True)
    if (
        selection.selected_stack(session.project.name, session.project.file, session.backend.url)
        == stack.name
    ):
        selection.select_stack(session.project.name, session.project.file, session.backend.url, None)


def cancel_update(session: Session, options: argparse.Namespace) -> int:
    if options.name:
        session.requested = options.name
    stack = session.stack
    if not session.exists(stack):
        raise StackNotFoundError(f"no stack named '{stack.name}' found")
    count, running = locks.remove_locks(session.backend.store, session.backend.lock_folder(stack))
    print(f"The currently running update for '{stack.name}' has been canceled! ({count} lock(s) removed)")
    for pid in running:
        print(
            f"Process {pid} is still working on the stack, so its journal was not added to the state. End the process, then repeat this command."
        )
    if running:
        return 0
    with locked(session):
        recovered, _ = snapshot.recover_journal(session.backend, stack)
    if recovered:
        print(f"{recovered} steps of the update were added to the state.")
    return 0


def show_versions(session: Session, _options: argparse.Namespace) -> int:
    rows = {
        "Engine": f"{VERSION} (python -m pulumi_embedded)",
        "Pulumi SDK": metadata.version("pulumi"),
        "Python": platform.python_version(),
        "Program's Python": project_interpreter(session.project),
        "Project": session.project.name,
        "Backend": session.backend.url,
        "Stacks": ", ".join(session.backend.stack_names(session.project.name)) or "none",
    }
    for key, value in rows.items():
        print(f"{key:<17} {value}")
    return 0


@contextmanager
def locked(session: Session) -> Iterator[None]:
    """Hold the stack's lock. Raises LockedError if another process has it."""
    stack, backend = session.stack, session.backend
    lock = locks.take_lock(backend.store, backend.lock_folder(stack), print)
    try:
        yield
    finally:
        lock.release()


def _state(session: Session) -> serialization.StackState:
    return session.load(session.deployment())
