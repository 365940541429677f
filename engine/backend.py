"""The backend: where a stack's files lie, in the CLI's own layout, in a folder or a bucket.

.pulumi/meta.yaml                                             version: 1
.pulumi/stacks/<project>/<stack>.json (.bak)                  the checkpoint and the one before it
.pulumi/locks/organization/<project>/<stack>/<uuid>.json      who is at it
.pulumi/history/<project>/<stack>/…, .pulumi/backups/…        see `history.py`
.pulumi/journals/<project>/<stack>.jsonl                      ours: see `journal.py`
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from engine.buckets import SCHEME, Bucket
from engine.errors import NeedsCliError, StackNotFoundError
from engine.stores import Folder, Log, Store

_FILE: Final = "file://"
_META: Final = "meta.yaml"
_BOOKS: Final = ".pulumi"


@dataclass(frozen=True)
class Backend:
    """One backend; keys count from its `.pulumi`."""

    url: str
    store: Store

    @classmethod
    def open(cls, url: str, folder: Path) -> Backend:
        """The backend at `url`; a relative path counts from `folder`, as the CLI started there takes it.

        Raises NeedsCliError for other kinds of backends and for the layout from before projects.
        """
        if url.startswith(SCHEME):
            return cls(url, Bucket(url, _BOOKS))
        if not url.startswith(_FILE):
            raise NeedsCliError(f"the backend {url}", "this engine knows file:// and s3:// backends")
        path = Path(unquote(url.removeprefix(_FILE).split("?")[0] or ".")).expanduser()
        return cls(url, Folder((folder / path).resolve() / _BOOKS))

    def check_layout(self) -> None:
        """Raises NeedsCliError for the layout from before projects."""
        if not self.store.exists(_META) and any(key.endswith(".json") for key in self.store.keys("stacks")):
            raise NeedsCliError(
                f"the backend {self.url}", "its layout is from before Pulumi 3.61; run `pulumi state upgrade`"
            )

    def stack_key(self, project: str, stack: str) -> str:
        """The checkpoint of a stack."""
        return f"stacks/{project}/{stack}.json"

    def lock_folder(self, project: str, stack: str) -> str:
        """The folder with the stack's locks."""
        return f"locks/organization/{project}/{stack}"

    def journal(self, project: str, stack: str) -> Log:
        """The journal of a stack."""
        return self.store.log(f"journals/{project}/{stack}.jsonl")

    def stacks(self, project: str) -> list[str]:
        """The names of a project's stacks."""
        names = (key.rpartition("/")[2] for key in self.store.keys(f"stacks/{project}"))
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def has(self, project: str, stack: str) -> bool:
        """Whether there is such a stack."""
        return self.store.exists(self.stack_key(project, stack))

    def read(self, project: str, stack: str) -> bytes:
        """The checkpoint.  Raises StackNotFoundError where there is no such stack."""
        key = self.stack_key(project, stack)
        checkpoint = self.store.read(key)
        if checkpoint is not None:
            return checkpoint
        for compressed in (f"{key}.gz", f"{key}.zst"):
            if self.store.exists(compressed):
                raise NeedsCliError(f"the compressed state {compressed}")
        self.check_layout()
        raise StackNotFoundError(
            f"no stack named '{stack}' found in {self.url}: `stack init {stack}` makes it"
        )

    def write(self, project: str, stack: str, checkpoint: bytes) -> None:
        """Put a new checkpoint in place of the old one, which becomes `.bak`.  Raises OSError; the old one stays."""
        key = self.stack_key(project, stack)
        if self.store.exists(key):
            self.store.copy(key, f"{key}.bak")
        elif not self.store.exists(_META):
            self.check_layout()
            self.store.write(_META, b"version: 1\n")
        self.store.write(key, checkpoint)

    def remove(self, project: str, stack: str) -> None:
        """Forget a stack.  The last checkpoint stays as `.bak`."""
        key = self.stack_key(project, stack)
        self.store.copy(key, f"{key}.bak")
        self.store.remove(key)
        self.journal(project, stack).remove()
        for entry in self.store.keys(self.history_folder(project, stack)):
            self.store.remove(entry)

    def history_folder(self, project: str, stack: str) -> str:
        """The folder that tells of the stack's updates."""
        return f"history/{project}/{stack}"

    def backup_folder(self, project: str, stack: str) -> str:
        """The folder with the stack's checkpoints after each update."""
        return f"backups/{project}/{stack}"
