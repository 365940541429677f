"""The commands `state delete | rename | protect | unprotect` and `stack rename`: changes of the state alone."""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pulumi_embedded.cli.stacks import locked
from pulumi_embedded.errors import EngineError
from pulumi_embedded.project import selection
from pulumi_embedded.properties import urns
from pulumi_embedded.session import Session
from pulumi_embedded.state import serialization, snapshot
from pulumi_embedded.state.backend import Backend, StackId
from pulumi_embedded.state.serialization import Json


def delete_from_state(session: Session, options: argparse.Namespace) -> int:
    with _editing_state(session) as latest:
        items = latest.get("resources") or []
        chosen = {item["urn"] for item in _resources_to_edit(items, options)}
        dependents = {
            urn: [item["urn"] for item in items if item["urn"] not in chosen and urn in _depends_on(item)]
            for urn in chosen
        }
        if options.target_dependents:
            chosen = _with_dependents(items, chosen)
        elif blocked := {urn: found for urn, found in dependents.items() if found}:
            raise EngineError(
                "\n".join(_dependents_message(urn, found) for urn, found in sorted(blocked.items()))
            )
        protected = [item["urn"] for item in items if item["urn"] in chosen and item.get("protect")]
        if protected and not options.force:
            raise EngineError(f"{', '.join(protected)} is protected; pass --force to delete it anyway")
        latest["resources"] = [item for item in items if item["urn"] not in chosen]
    print("Resource deleted" if len(chosen) == 1 else f"{len(chosen)} resources deleted")
    return 0


def rename_resource(session: Session, options: argparse.Namespace) -> int:
    with _editing_state(session) as latest:
        items = latest.get("resources") or []
        _find(items, options.urn)
        new = str(replace(urns.parse_urn(options.urn), name=options.name))
        if any(item["urn"] == new for item in items):
            raise EngineError(f"the state already has a resource {new}")
        _rename_urns_in_state(latest, {options.urn: new})
    print("Resource renamed")
    return 0


def protect_resources(session: Session, options: argparse.Namespace) -> int:
    return _set_protection(session, options, is_protected=True)


def unprotect_resources(session: Session, options: argparse.Namespace) -> int:
    return _set_protection(session, options, is_protected=False)


def rename_stack(session: Session, options: argparse.Namespace) -> int:
    """Rename the stack in its state, history and configuration file, and select it under its new name."""
    old = session.stack
    new = session.stack_named(options.name)
    if session.exists(new):
        raise EngineError(f"a stack named {new.name} already exists")
    backend = session.backend
    with locked(session):
        latest = dict(snapshot.recover_journal(backend, old)[1].deployment)
        items = latest.get("resources") or []
        _rename_urns_in_state(
            latest, {item["urn"]: _urn_in_renamed_stack(item["urn"], old.name, new.name) for item in items}
        )
        backend.write(new, snapshot.checkpoint_of(new, latest))
        _copy_history(backend, old, new)
        backend.remove(old)
    config = session.project.stack_config_file(old.name)
    if config.exists():
        config.rename(session.project.stack_config_file(new.name))
    selection.select_stack(session.project.name, session.project.file, session.backend.url, new.name)
    print(f"Renamed {old.name} to {new.name}")
    return 0


def _set_protection(session: Session, options: argparse.Namespace, *, is_protected: bool) -> int:
    word = "protected" if is_protected else "unprotected"
    with _editing_state(session) as latest:
        chosen = _resources_to_edit(latest.get("resources") or [], options)
        for item in chosen:
            item.pop("protect", None)
            if is_protected:
                item["protect"] = True
    print(f"All resources {word}" if options.all else f"{len(chosen)} resources {word}")
    return 0


def _urn_in_renamed_stack(urn: str, old: str, new: str) -> str:
    """The URN in the renamed stack. Its root resource is named `<project>-<stack>`."""
    parts = urns.parse_urn(urn)
    is_root = parts.type == urns.STACK_TYPE and parts.name == f"{parts.project}-{old}"
    return str(replace(parts, stack=new, name=f"{parts.project}-{new}" if is_root else parts.name))


def _copy_history(backend: Backend, old: StackId, new: StackId) -> None:
    target = backend.history_folder(new)
    for key in backend.store.list_keys(backend.history_folder(old)):
        name = key.rpartition("/")[2].removeprefix(old.name)
        backend.store.copy(key, f"{target}/{new.name}{name}")


@contextmanager
def _editing_state(session: Session) -> Iterator[Json]:
    """The stack's state to change. It is written if the body succeeds and the result has no errors."""
    with locked(session):
        latest = dict(snapshot.recover_journal(session.backend, session.stack)[1].deployment)
        yield latest
        if flaw := serialization.find_state_error(latest.get("resources") or []):
            raise EngineError(f"the edited state would be invalid: {flaw}")
        session.backend.write(session.stack, snapshot.checkpoint_of(session.stack, latest))


def _resources_to_edit(items: list[Json], options: argparse.Namespace) -> list[Json]:
    """The resources that the command line names. Raises EngineError if one does not exist or none is named."""
    if options.all:
        return items
    if not options.urns:
        raise EngineError("name at least one resource by its URN; `pulumi stack --show-urns` shows them")
    return [item for urn in options.urns for item in _find(items, urn)]


def _find(items: list[Json], urn: str) -> list[Json]:
    """The resource, and old ones of the same URN that are still to be deleted. Raises EngineError."""
    found = [item for item in items if item["urn"] == urn]
    if not found:
        known = "\n".join(f"  {item['urn']}" for item in items)
        raise EngineError(f'no such resource "{urn}" exists in the current state, which has:\n{known}')
    return found


def _depends_on(item: Json) -> set[str]:
    return serialization.resource_from_json({**item, "inputs": {}, "outputs": {}}, None).depends_on()


def _with_dependents(items: list[Json], chosen: Iterable[str]) -> set[str]:
    found = set(chosen)
    for item in items:  # a state lists each resource after its dependencies
        if found & _depends_on(item):
            found.add(item["urn"])
    return found


def _dependents_message(urn: str, dependents: list[str]) -> str:
    lines = "\n".join(f" * {dependent}" for dependent in dependents)
    return (
        f"{urn} can't be safely deleted because the following resources depend on it:\n{lines}\n"
        "Delete those resources first or pass --target-dependents."
    )


def _rename_urns_in_state(latest: Json, new_urns: dict[str, str]) -> None:
    """Replace URNs, also where resources refer to each other."""
    pending = [entry["resource"] for entry in latest.get("pending_operations") or []]
    for item in [*(latest.get("resources") or []), *pending]:
        item["urn"] = new_urns.get(item["urn"], item["urn"])
        serialization.rename_references(item, new_urns)
