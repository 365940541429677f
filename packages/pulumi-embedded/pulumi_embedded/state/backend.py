"""The backend: where a stack's files are, in the CLI's layout, in a folder or a bucket.

.pulumi/meta.yaml                                             version: 1
.pulumi/stacks/<project>/<stack>.json (.bak)                  the checkpoint and the previous one; compressed: .json.gz
.pulumi/locks/organization/<project>/<stack>/<uuid>.json      who is working on the stack
.pulumi/history/<project>/<stack>/…, .pulumi/backups/…        see `history.py`
.pulumi/journals/<project>/<stack>.jsonl                      only this engine: see `journal.py`

`PULUMI_DIY_BACKEND_GZIP=true` compresses what is written from then on, as in the CLI. Both forms can be read.
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
_FOLDER: Final = ".pulumi"
_GZIP_VARIABLES: Final = ("PULUMI_DIY_BACKEND_GZIP", "PULUMI_SELF_MANAGED_STATE_GZIP")
_ZSTD_VARIABLE: Final = "PULUMI_DIY_BACKEND_ZSTD"
_GZIP_SUFFIX: Final = ".gz"
_GZIP_MAGIC: Final = b"\x1f\x8b"


# Local and bucket backends have only this one organization.
ORGANIZATION: Final = "organization"


@dataclass(frozen=True)
class StackId:
    """The project and the name of a stack."""

    project: str
    name: str

    @property
    def full(self) -> str:
        return f"{ORGANIZATION}/{self.project}/{self.name}"


@dataclass(frozen=True)
class Backend:
    """One backend. Keys are relative to its `.pulumi` folder. `packs`: it compresses what it writes."""

    url: str
    store: Store
    packs: bool = False

    @classmethod
    def open(cls, url: str, folder: Path) -> Backend:
        """The backend at `url`; a relative path is relative to `folder`. Raises NeedsCliError for other kinds."""
        packs = _packs(os.environ)
        if url.startswith(SCHEME):
            return cls(url, S3Store(url, _FOLDER), packs)
        if not url.startswith(_FILE):
            raise NeedsCliError(f"the backend {url}", "this engine supports only file:// and s3:// backends")
        path = Path(unquote(url.removeprefix(_FILE).split("?")[0] or ".")).expanduser()
        return cls(url, FolderStore((folder / path).resolve() / _FOLDER), packs)

    def check_layout(self) -> None:
        """Raises NeedsCliError for the layout that Pulumi used before it kept stacks by project."""
        if self.store.read(_META) is None and any(_stack_name(key) for key in self.store.list_keys("stacks")):
            raise NeedsCliError(
                f"the backend {self.url}",
                "the backend has the layout from before Pulumi 3.61; run `pulumi state upgrade`",
            )

    def stack_key(self, stack: StackId) -> str | None:
        """The key of a stack's checkpoint, or None if there is no such stack."""
        return self._latest(self._checkpoint_keys(stack))

    def _checkpoint_keys(self, stack: StackId) -> list[str]:
        """The keys of the checkpoint. There are two if a run was killed while it changed between plain and compressed."""
        both = (_plain_key(stack), _plain_key(stack) + _GZIP_SUFFIX)
        return [key for key in self.store.list_keys(f"stacks/{stack.project}") if key in both]

    def _latest(self, keys: list[str]) -> str | None:
        if len(keys) < 2:
            return next(iter(keys), None)
        return max(keys, key=lambda key: (self.store.modified(key), key))

    def lock_folder(self, stack: StackId) -> str:
        return f"locks/{stack.full}"

    def journal(self, stack: StackId) -> Log:
        return self.store.log(f"journals/{stack.project}/{stack.name}.jsonl")

    def history_folder(self, stack: StackId) -> str:
        return f"history/{stack.project}/{stack.name}"

    def stack_names(self, project: str) -> list[str]:
        """The names of a project's stacks."""
        return sorted(
            {name for key in self.store.list_keys(f"stacks/{project}") if (name := _stack_name(key))}
        )

    def read(self, stack: StackId) -> bytes:
        """The checkpoint, decompressed. Raises StackNotFoundError if there is no such stack."""
        plain = _plain_key(stack)
        # Read the state even if the listing found nothing: only reading reports that a folder or
        # bucket is not accessible.
        checkpoint = self.store.read(self.stack_key(stack) or plain)
        if checkpoint is not None:
            return decompress_if_gzip(checkpoint)
        zstd = f"{plain}.zst"
        if self.store.read(zstd) is not None:
            raise NeedsCliError(f"the compressed state {zstd}")
        self.check_layout()
        raise StackNotFoundError(
            f"no stack named '{stack.name}' found in {self.url}; create it with `pulumi stack init {stack.name}`"
        )

    def write(self, stack: StackId, checkpoint: bytes) -> None:
        """Replace the checkpoint, and keep the old one as `.bak`. If it raises OSError, the old checkpoint is unchanged."""
        keys = self._checkpoint_keys(stack)
        old = self._latest(keys)
        new = _plain_key(stack) + self.file_suffix
        if old:
            self.store.copy(old, f"{old}.bak")
        elif self.store.read(_META) is None:
            self.check_layout()
            self.store.write(_META, b"version: 1\n")
        self.store.write(new, self.compress(checkpoint))
        for key in keys:
            if key != new:
                self.store.remove(key)

    def compress(self, content: bytes) -> bytes:
        return gzip.compress(content, compresslevel=6, mtime=0) if self.packs else content

    @property
    def file_suffix(self) -> str:
        """What this backend appends to `.json` in the names of its files."""
        return _GZIP_SUFFIX if self.packs else ""

    def remove(self, stack: StackId) -> None:
        """Remove a stack. Its last checkpoint stays as `.bak`."""
        while key := self.stack_key(stack):
            self.store.copy(key, f"{key}.bak")
            self.store.remove(key)
        self.journal(stack).remove()
        for entry in self.store.list_keys(self.history_folder(stack)):
            self.store.remove(entry)


def _packs(environment: Mapping[str, str]) -> bool:
    def is_on(name: str) -> bool:
        return environment.get(name, "").lower() in ("1", "true")

    if is_on(_ZSTD_VARIABLE):
        raise NeedsCliError(
            _ZSTD_VARIABLE, f"unset it; this engine compresses with {_GZIP_VARIABLES[0]}=true"
        )
    return any(is_on(name) for name in _GZIP_VARIABLES)


def _plain_key(stack: StackId) -> str:
    return f"stacks/{stack.project}/{stack.name}.json"


def _stack_name(key: str) -> str:
    """The name of the stack whose checkpoint this is. Empty for other files."""
    name = key.rpartition("/")[2].removesuffix(_GZIP_SUFFIX)
    return name.removesuffix(".json") if name.endswith(".json") else ""


def decompress_if_gzip(content: bytes) -> bytes:
    """The content, decompressed if it is gzip. Damaged content is returned as it is; parsing it reports the damage."""
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return content
