"""The file backend: where stacks, locks and journals lie, in the CLI's own layout.

    .pulumi/meta.yaml                                             version: 1
    .pulumi/stacks/<project>/<stack>.json (.bak)                  the checkpoint and the one before it
    .pulumi/locks/organization/<project>/<stack>/<uuid>.json      who is at it
    .pulumi/journals/<project>/<stack>.jsonl                      ours: see `journal.py`

Selected stacks are kept where the CLI keeps them, `$PULUMI_HOME/workspaces/<project>-<sha1>-workspace.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from engine.errors import EngineError, NeedsCliError
from engine.journal import sync_folder

_FILE: Final = "file://"


@dataclass(frozen=True)
class Backend:
    """One file backend."""

    url: str
    root: Path

    @classmethod
    def open(cls, url: str, folder: Path) -> Backend:
        """The backend at `url`; a relative path counts from `folder`, as the CLI started there takes it.

        Raises NeedsCliError for other kinds of backends and for the layout from before projects.
        """
        if not url.startswith(_FILE):
            raise NeedsCliError(f"the backend {url}", "this engine knows file:// backends")
        path = Path(unquote(url.removeprefix(_FILE).split("?")[0] or ".")).expanduser()
        backend = cls(url, (folder / path).resolve() / ".pulumi")
        old_layout = backend.root / "stacks"
        if not backend.meta.exists() and old_layout.exists() and list(old_layout.glob("*.json")):
            raise NeedsCliError(
                f"the backend {url}", "its layout is from before Pulumi 3.61; run `pulumi state upgrade`"
            )
        return backend

    @property
    def meta(self) -> Path:
        """The file that says which layout this is."""
        return self.root / "meta.yaml"

    def stack_file(self, project: str, stack: str) -> Path:
        """The checkpoint of a stack."""
        return self.root / "stacks" / project / f"{stack}.json"

    def journal_file(self, project: str, stack: str) -> Path:
        """The journal of a stack."""
        return self.root / "journals" / project / f"{stack}.jsonl"

    def lock_folder(self, project: str, stack: str) -> Path:
        """The folder with the stack's locks."""
        return self.root / "locks" / "organization" / project / stack

    def stacks(self, project: str) -> list[str]:
        """The names of a project's stacks."""
        folder = self.root / "stacks" / project
        return sorted(path.stem for path in folder.glob("*.json"))

    def read(self, project: str, stack: str) -> bytes:
        """The checkpoint.  Raises EngineError where there is no such stack."""
        path = self.stack_file(project, stack)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            if path.with_suffix(".json.gz").exists():
                raise NeedsCliError(f"the compressed state {path.name}.gz") from None
            raise EngineError(
                f"no stack named '{stack}' found in {self.url}: `stack init {stack}` makes it"
            ) from None

    def write(self, project: str, stack: str, checkpoint: bytes) -> None:
        """Put a new checkpoint in place of the old one, which becomes `.bak`.  Raises OSError; the old one stays."""
        path = self.stack_file(project, stack)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self.meta.exists():
            replace_file(self.meta, b"version: 1\n")
        if path.exists():
            _hard_copy(path, path.with_suffix(".json.bak"))
        for stale in (path.with_suffix(".json.attrs"), path.with_suffix(".json.bak.attrs")):
            stale.unlink(missing_ok=True)
        replace_file(path, checkpoint)

    def remove(self, project: str, stack: str) -> None:
        """Forget a stack.  The last checkpoint stays as `.bak`."""
        path = self.stack_file(project, stack)
        path.replace(path.with_suffix(".json.bak"))
        path.with_suffix(".json.attrs").unlink(missing_ok=True)
        self.journal_file(project, stack).unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def _hard_copy(source: Path, target: Path) -> None:
    """A second name for the same bytes; where the file system has no such thing, a copy."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError:
        fresh.write_bytes(source.read_bytes())
    fresh.replace(target)


def home() -> Path:
    """Pulumi's own folder."""
    return Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")


def _selection_file(project: str, project_file: Path) -> Path:
    # The CLI names the file so; nothing depends on the hash being hard to forge.
    mark = hashlib.sha1(str(project_file).encode(), usedforsecurity=False).hexdigest()
    return home() / "workspaces" / f"{project}-{mark}-workspace.json"


def selected(project: str, project_file: Path, url: str) -> str | None:
    """The stack selected for the project on this machine, if any."""
    with contextlib.suppress(OSError, ValueError):
        settings = json.loads(_selection_file(project, project_file).read_bytes())
        name = (settings.get("stacks") or {}).get(url) or settings.get("stack")
        return str(name).rsplit("/", 1)[-1] if name else None
    return None


def select(project: str, project_file: Path, url: str, stack: str | None) -> None:
    """Remember the selected stack, or with None that there is none."""
    path = _selection_file(project, project_file)
    settings = {}
    with contextlib.suppress(OSError, ValueError):
        settings = json.loads(path.read_bytes())
    stacks = dict(settings.get("stacks") or {})
    stacks.pop(url, None)
    settings.pop("stack", None)
    if stack is not None:
        stacks[url] = settings["stack"] = f"organization/{project}/{stack}"
    settings["stacks"] = stacks
    replace_file(path, json.dumps(settings, indent=4).encode())
