"""What every command needs: the project, its backend, the stack, its configuration and its keys."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from pulumi_embedded.errors import EngineError, StackNotFoundError
from pulumi_embedded.project import selection
from pulumi_embedded.project.config import Project, StackConfig, check_stack_name, find_project
from pulumi_embedded.project.secrets import Crypter, read_passphrase
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.state import serialization, snapshot
from pulumi_embedded.state.backend import ORGANIZATION, Backend, StackId
from pulumi_embedded.state.serialization import Json, StackState


@dataclass
class Session:
    """A project, and the stack that a command works on. `requested`: the stack of `--stack`."""

    project: Project
    backend: Backend
    requested: str | None = None
    _crypters: dict[str, Crypter] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, stack: str | None) -> Session:
        """The session for the project in `folder` or a folder above it. Raises EngineError."""
        project = find_project(folder.resolve())
        url = os.environ.get("PULUMI_BACKEND_URL") or project.backend_url or selection.current_backend()
        if not url:
            raise EngineError(
                "no backend is configured: set `backend: {url: file://.}` in Pulumi.yaml, or run `pulumi login file://FOLDER`"
            )
        return cls(project, Backend.open(url, folder.resolve()), stack)

    @property
    def stack(self) -> StackId:
        """The stack of `--stack`, or the selected one. Raises EngineError if there is neither."""
        name = self.chosen_stack()
        if not name:
            known = f" (known: {', '.join(names)})" if (names := self.known_stacks()) else ""
            raise EngineError(f"no stack selected: use --stack NAME or `pulumi stack select NAME`{known}")
        return self.stack_named(name)

    def stack_named(self, name: str) -> StackId:
        """The stack of this project in `dev`, `organization/dev` or `organization/<project>/dev`. Raises EngineError."""
        *qualifiers, short = name.split("/")
        project = self.project.name
        if len(qualifiers) > 2 or qualifiers[:1] not in ([], [ORGANIZATION]):
            raise EngineError(
                f"{name!r}: organization name must be {ORGANIZATION!r}; write {ORGANIZATION}/{project}/{short}"
            )
        if qualifiers[1:] not in ([], [project]):
            raise StackNotFoundError(f"no stack named {name!r} found: this is project {project}")
        return StackId(project, check_stack_name(short))

    def chosen_stack(self) -> str | None:
        """The name given for this command, otherwise that of the selected stack."""
        name = self.requested or os.environ.get("PULUMI_STACK")
        return name or selection.selected_stack(self.project.name, self.project.file, self.backend.url)

    def known_stacks(self) -> list[str]:
        """The stacks that have a state or a configuration file."""
        existing = self.backend.stack_names(self.project.name)
        return sorted({*existing, *self.project.configured_stacks()})

    def exists(self, stack: StackId) -> bool:
        return self.backend.stack_key(stack) is not None

    def config(self) -> StackConfig:
        return StackConfig(self.project.stack_config_file(self.stack.name))

    def crypter_for(self, salt: str, stack: str = "") -> Crypter:
        """The crypter for a salt. Its key is derived once. `stack` is named in messages; by default this one."""
        if salt not in self._crypters:
            self._crypters[salt] = Crypter(salt, read_passphrase(stack or self.stack.name, salt))
        return self._crypters[salt]

    def deployment(self) -> Json:
        """The stack's stored state."""
        return snapshot.current_deployment(self.backend, self.stack)

    def state_crypter(self, deployment: Json, stack: str = "") -> Crypter | None:
        """The crypter for the secrets in the state of this or another stack."""
        provider = deployment.get("secrets_providers") or {}
        if provider.get("type") != "passphrase":
            return None
        return self.crypter_for(str((provider.get("state") or {}).get("salt") or ""), stack)

    def crypter(self, config: StackConfig, deployment: Json) -> Crypter | None:
        """The crypter for writing: the configuration's, otherwise the state's."""
        return self.crypter_for(config.salt) if config.salt else self.state_crypter(deployment)

    def outputs_of(self, project: str, name: str) -> Properties | None:
        """Another stack's outputs, or None if this backend has no such stack. Raises EngineError."""
        other = StackId(project, check_stack_name(name))
        if not self.exists(other):
            return None
        return self.load(snapshot.current_deployment(self.backend, other), name).outputs

    def load(self, deployment: Json, stack: str = "") -> StackState:
        """The state in a deployment of this or another stack, with secrets decrypted."""
        return serialization.load_state(deployment, self.state_crypter(deployment, stack))


def create_stack(session: Session, name: str) -> StackId:
    """Create a stack, with an encryption salt in its configuration file. Raises EngineError if it exists."""
    stack = session.stack_named(name)
    if session.exists(stack):
        raise EngineError(f"stack '{name}' already exists")
    config = StackConfig(session.project.stack_config_file(stack.name))
    if config.salt:
        session.crypter_for(config.salt, stack.name).check()
    else:
        crypter = Crypter.new(read_passphrase(stack.name))
        config.salt = crypter.salt
        config.save()
    salt = config.salt or ""
    session.backend.write(stack, snapshot.checkpoint_of(stack, snapshot.new_deployment(salt)))
    return stack
