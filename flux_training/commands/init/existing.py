"""`flux init --from CLONE`: moves the stacks of a clone, with what they have trained, to a project of your own.

What people write (stack files, job folders) is copied. What only one project may have (state, local cloud, results) is moved.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_training.clients import local_cloud
from flux_training.clients.connection import LOCAL_FILE_VARIABLE
from flux_training.clients.stack.services import StackServices
from flux_training.commands.cli import OUTPUTS
from flux_training.commands.init.renaming import (
    ProjectRename,
    group_names,
    rename_owner_marks,
    rename_results,
)
from flux_training.commands.stack.access import connect_to_services
from flux_training.commands.stack.engine import find_engine
from flux_training.commands.stack.file import stack_names, stack_path, stack_settings, uses_local_cloud
from flux_training.commands.stack.locks import has_journal, is_locked
from flux_training.commands.stack.project import (
    PROJECT_FILE,
    TOOL_FOLDER,
    is_project,
    project_name,
    project_root,
)
from flux_training.commands.stack.yaml_file import load_yaml
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.train_yml.yaml_text import set_value

STATE = Path(".pulumi")
# Move the state last: until then, the clone still has everything that it needs.
MOVED = (Path(".localcloud"), Path(OUTPUTS), STATE)
BACKEND_VARIABLE = "PULUMI_BACKEND_URL"
BACKEND_HERE = "file://."


@dataclass(frozen=True)
class ExistingSetup:
    """A clone, or another project. `states` has what `pulumi stack export` prints, by stack; only a renaming needs it."""

    root: Path
    renaming: ProjectRename
    states: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def stacks(self) -> list[str]:
        return stack_names(self.root)

    def check(self) -> None:
        """Raise BadInput with every reason against a move, FluxError if a state cannot be read."""
        with chdir(self.root):
            findings = list(self._findings())
            if findings:
                raise BadInput(findings)
            if self.renaming.is_needed:
                for stack in self.stacks:
                    self._read_state(stack)

    def copy_to(self, folder: Path) -> None:
        """Copy what people wrote. Raises BadInput if a file cannot be changed as the new project needs it."""
        text = (self.root / PROJECT_FILE).read_text(encoding="utf-8")
        text = set_value(text, ("name",), self.renaming.new)
        text = set_value(text, ("runtime", "options", "virtualenv"), f"{TOOL_FOLDER}/.venv")
        (folder / PROJECT_FILE).write_text(
            self.renaming.rename_settings(text, PROJECT_FILE), encoding="utf-8"
        )
        for stack in self.stacks:
            path = stack_path(self.root, stack)
            text = self.renaming.rename_settings(path.read_text(encoding="utf-8"), path.name)
            stack_path(folder, stack).write_text(text, encoding="utf-8")
        for jobs in self._job_folders():
            if (self.root / jobs).is_dir():
                shutil.copytree(self.root / jobs, folder / jobs, symlinks=True, dirs_exist_ok=True)

    def move_to(self, folder: Path) -> list[str]:
        """Move the results, the local cloud and the state; the names of what was moved. Raises FluxError."""
        if self.states:
            with chdir(self.root):
                self._rename_marks()
        moved: list[Path] = []
        try:
            for path in MOVED:
                if (self.root / path).exists():
                    shutil.move(self.root / path, folder / path)
                    moved.append(path)
            if self.renaming.is_needed:
                rename_results(folder / OUTPUTS, self.renaming)
                self._write_states(folder)
        except (Exception, KeyboardInterrupt) as error:
            raise self._move_back_and_explain(folder, moved, error) from error
        return [str(path) for path in moved]

    def _move_back_and_explain(self, folder: Path, moved: list[Path], error: BaseException) -> FluxError:
        """Move everything back to the clone; the error that says where it is now."""
        kept = []
        for path in reversed(moved):
            try:
                shutil.move(folder / path, self.root / path)
            except OSError:
                kept.append(str(path))
        what = f"the move from {self.root} to {folder} failed: {str(error) or 'interrupted'}"
        if kept:
            rule = f"{' and '.join(kept)} could not be moved back and may be complete only in {folder}"
            return FluxError(
                what, rule, f"do not delete {folder}; move {' and '.join(kept)} back to {self.root} yourself"
            )
        rule = f"everything is in {self.root}"
        if self.renaming.is_needed:
            rule += f", but its bucket and container groups may have the name {self.renaming.new} already"
        return FluxError(what, rule, f"fix the cause, delete {folder}, and run the same command again")

    def _findings(self) -> Iterator[str]:
        if not is_project(self.root):
            yield f"{self.root} is not a clone of this version of flux-training: it lacks {PROJECT_FILE} or flux_training/; update it"
            return
        if project_root() != self.root:
            yield f"FLUX_PROJECT names {project_root()}, not {self.root}; unset it"
        if named := os.environ.get(LOCAL_FILE_VARIABLE):
            yield f"{LOCAL_FILE_VARIABLE} names {named}, and only the local cloud of {self.root} moves; unset it"
        if local_cloud.is_local_cloud_running():
            yield f"the local cloud of {self.root} is running; stop it with `make -C {self.root} down`"
        for stack in self.stacks:
            if has_journal(self.root, stack) or is_locked(self.root, stack):
                yield (
                    f"stack {stack} is in the middle of an update; wait until the update has ended, or run "
                    f"`make -C {self.root} refresh STACK={stack}`"
                )
        if self.renaming.is_needed:
            yield from self._renaming_findings()

    def _renaming_findings(self) -> Iterator[str]:
        old, keep = (
            self.renaming.old,
            f"keep the name: leave out --name, or give `--name {self.renaming.old}`",
        )
        if elsewhere := self._backend_elsewhere():
            yield f"the states of project {old} are in {elsewhere}, but only states in {STATE}/ can be renamed; {keep}"
        for stack in self.stacks:
            # The names of AWS resources are inputs that only pulumi-aws can change.
            if stack_settings(self.root, stack).storage.kind == "aws":
                yield f"stack {stack}: AWS resources carry the project's name, which cannot be changed; {keep}"

    def _backend_elsewhere(self) -> str:
        """The address of the states' backend; empty if it is the project's folder."""
        document = load_yaml((self.root / PROJECT_FILE).read_text(encoding="utf-8"))
        url = os.environ.get(BACKEND_VARIABLE) or (document.get("backend") or {}).get("url") or BACKEND_HERE
        return "" if url.rstrip("/") == BACKEND_HERE else str(url)

    def _job_folders(self) -> list[Path]:
        """The folders of the stacks' jobs that lie in the clone, relative to it."""
        folders = {Path(stack_settings(self.root, stack).jobs_folder) for stack in self.stacks}
        return sorted(path for path in folders if (self.root / path).resolve().is_relative_to(self.root))

    def _read_state(self, stack: str) -> None:
        state = find_engine(stack, uses_local_cloud(self.root, stack), root=self.root).export()
        if state is not None:
            self.states[stack] = state

    def _rename_marks(self) -> None:
        """In the services of each stack. The local cloud runs only for that time."""
        for stack, state in self.states.items():
            local = uses_local_cloud(self.root, stack)
            if local:
                local_cloud.start_local_cloud()
            try:
                connection = connect_to_services(find_engine(stack, local, root=self.root), stack)
                services = StackServices(connection, stack_settings(self.root, stack))
                owner = f"{self.renaming.old}/{stack}"
                rename_owner_marks(services, group_names(state), owner, self.renaming.rename_owner(owner))
            finally:
                if local:
                    local_cloud.stop_local_cloud()

    def _write_states(self, folder: Path) -> None:
        for stack, state in self.states.items():
            engine = find_engine(stack, uses_local_cloud(folder, stack), root=folder)
            engine.select()
            engine.import_state(self.renaming.rename_state(state, stack))
        shutil.rmtree(folder / STATE / "stacks" / self.renaming.old, ignore_errors=True)


def existing_setup(clone: Path, name: str | None) -> ExistingSetup:
    """`name`: of the new project; by default that of the clone. Raises BadInput."""
    root = clone.resolve()
    old = project_name(root)
    return ExistingSetup(root, ProjectRename(old, name or old))
