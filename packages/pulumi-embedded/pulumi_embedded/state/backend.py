"""The backend: where a stack's files lie, in the CLI's own layout, in a folder or a bucket.

.pulumi/meta.yaml                                             version: 1
.pulumi/stacks/<project>/<stack>.json (.bak)                  the checkpoint and the one before it; .json.gz where it is packed
.pulumi/locks/organization/<project>/<stack>/<uuid>.json      who is at it
.pulumi/history/<project>/<stack>/…, .pulumi/backups/…        see `history.py`
.pulumi/journals/<project>/<stack>.jsonl                      ours: see `journal.py`

`PULUMI_DIY_BACKEND_GZIP=true` packs what is written from then on, as it does with the CLI; either form is read by both.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pulumi_embedded.errors import NeedsCliError, StackNotFoundError
from pulumi_embedded.state.s3_store import SCHEME, S3Store
from pulumi_embedded.state.stores import FolderStore, Log, Store

_FILE: Final = "file://"
_META: Final = "meta.yaml"
_BOOKS: Final = ".pulumi"
_PACK: Final = ("PULUMI_DIY_BACKEND_GZIP", "PULUMI_SELF_MANAGED_STATE_GZIP")
_PACK_OTHERWISE: Final = "PULUMI_DIY_BACKEND_ZSTD"
_PACKED: Final = ".gz"
_MAGIC: Final = b"\x1f\x8b"


@dataclass(frozen=True)
class Backend:
    """One backend; keys count from its `.pulumi`.  `packs`: what it writes is gzipped."""

    url: str
    store: Store
    packs: bool = False

    @classmethod
    def open(cls, url: str, folder: Path) -> Backend:
        """The backend at `url`; a relative path counts from `folder`, as the CLI started there takes it.

        Raises NeedsCliError for other kinds of backends and for the layout from before projects.
        """
        packs = _packs(os.environ)
        if url.startswith(SCHEME):
            return cls(url, S3Store(url, _BOOKS), packs)
        if not url.startswith(_FILE):
            raise NeedsCliError(f"the backend {url}", "this engine knows file:// and s3:// backends")
        path = Path(unquote(url.removeprefix(_FILE).split("?")[0] or ".")).expanduser()
        return cls(url, FolderStore((folder / path).resolve() / _BOOKS), packs)

    def check_layout(self) -> None:
        """Raises NeedsCliError for the layout from before projects."""
        if not self.store.exists(_META) and any(_stack_of(key) for key in self.store.keys("stacks")):
            raise NeedsCliError(
                f"the backend {self.url}", "its layout is from before Pulumi 3.61; run `pulumi state upgrade`"
            )

    def stack_key(self, project: str, stack: str) -> str | None:
        """The checkpoint of a stack; None where there is none."""
        return self._latest(self._forms(project, stack))

    def _forms(self, project: str, stack: str) -> list[str]:
        """The keys of the checkpoint: one, or two after a kill while it went from one form to the other."""
        plain = _plain_key(project, stack)
        return [key for key in self.store.keys(f"stacks/{project}") if key in (plain, plain + _PACKED)]

    def _latest(self, forms: list[str]) -> str | None:
        if len(forms) < 2:
            return next(iter(forms), None)
        return max(forms, key=lambda key: (self.store.modified(key), key))

    def lock_folder(self, project: str, stack: str) -> str:
        """The folder with the stack's locks."""
        return f"locks/organization/{project}/{stack}"

    def journal(self, project: str, stack: str) -> Log:
        """The journal of a stack."""
        return self.store.log(f"journals/{project}/{stack}.jsonl")

    def stacks(self, project: str) -> list[str]:
        """The names of a project's stacks."""
        return sorted({name for key in self.store.keys(f"stacks/{project}") if (name := _stack_of(key))})

    def has(self, project: str, stack: str) -> bool:
        """Whether there is such a stack."""
        return self.stack_key(project, stack) is not None

    def read(self, project: str, stack: str) -> bytes:
        """The checkpoint, unpacked.  Raises StackNotFoundError where there is no such stack."""
        plain = _plain_key(project, stack)
        # Also where none was listed: why a place cannot be read, only a read tells.
        checkpoint = self.store.read(self.stack_key(project, stack) or plain)
        if checkpoint is not None:
            return _unpacked(checkpoint)
        other = f"{plain}.zst"
        if self.store.exists(other):
            raise NeedsCliError(f"the compressed state {other}")
        self.check_layout()
        raise StackNotFoundError(
            f"no stack named '{stack}' found in {self.url}: `stack init {stack}` makes it"
        )

    def write(self, project: str, stack: str, checkpoint: bytes) -> None:
        """Put a new checkpoint in place of the old one, which becomes `.bak`.  Raises OSError; the old one stays."""
        forms = self._forms(project, stack)
        old = self._latest(forms)
        new = _plain_key(project, stack) + self.ending
        if old:
            self.store.copy(old, f"{old}.bak")
        elif not self.store.exists(_META):
            self.check_layout()
            self.store.write(_META, b"version: 1\n")
        self.store.write(new, self.packed(checkpoint))
        for form in forms:
            if form != new:
                self.store.remove(form)

    def packed(self, content: bytes) -> bytes:
        """As this backend writes it."""
        return gzip.compress(content, compresslevel=6, mtime=0) if self.packs else content

    @property
    def ending(self) -> str:
        """What the names of this backend's files end with besides `.json`."""
        return _PACKED if self.packs else ""

    def remove(self, project: str, stack: str) -> None:
        """Forget a stack.  The last checkpoint stays as `.bak`."""
        while key := self.stack_key(project, stack):
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


def _packs(environment: Mapping[str, str]) -> bool:
    """Raises NeedsCliError for the other way to pack."""

    def is_on(name: str) -> bool:
        return environment.get(name, "").lower() in ("1", "true")

    if is_on(_PACK_OTHERWISE):
        raise NeedsCliError(_PACK_OTHERWISE, f"unset it; this engine packs with {_PACK[0]}=true")
    return any(is_on(name) for name in _PACK)


def _plain_key(project: str, stack: str) -> str:
    return f"stacks/{project}/{stack}.json"


def _stack_of(key: str) -> str:
    """The stack that a file in a project's folder is the checkpoint of; empty for another file."""
    name = key.rpartition("/")[2].removesuffix(_PACKED)
    return name.removesuffix(".json") if name.endswith(".json") else ""


def _unpacked(content: bytes) -> bytes:
    """What is damaged stays as it is: whoever reads it says so."""
    if not content.startswith(_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return content
