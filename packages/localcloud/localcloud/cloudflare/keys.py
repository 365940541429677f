"""The access keys of R2 beside the local cloud's own: tokens, and the temporary credentials made from them.

A token's access key id is its id, its secret the SHA-256 of its value (UPSTREAM.md).
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from localcloud.database import now


@dataclass(frozen=True)
class Scope:
    """What a key may do: in which buckets (None: all), write or only read, whole buckets too (`admin`), below which keys.

    Without prefixes and objects all keys are meant.
    """

    buckets: tuple[str, ...] | None
    write: bool
    admin: bool = False
    prefixes: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()

    def has_bucket(self, bucket: str) -> bool:
        """Whether the bucket is in it at all."""
        return self.buckets is None or bucket in self.buckets

    def has_key(self, bucket: str, key: str) -> bool:
        """Whether an object is in it."""
        everything = not self.prefixes and not self.objects
        return self.has_bucket(bucket) and (
            everything or key in self.objects or key.startswith(self.prefixes or ("\0",))
        )

    def has_listing(self, bucket: str, prefix: str) -> bool:
        """Whether the keys below `prefix` may be listed."""
        everything = not self.prefixes and not self.objects
        return self.has_bucket(bucket) and (everything or prefix.startswith(self.prefixes or ("\0",)))

    def covers(self, other: Scope) -> bool:
        """Whether all that the other one allows is allowed by this one, prefixes aside: only temporary ones have them."""
        return (
            all(self.has_bucket(bucket) for bucket in other.buckets or ())
            and self.write >= other.write
            and self.admin >= other.admin
        )


@dataclass(frozen=True)
class Key:
    """An access key as it is stored. `expires` in seconds since 1970; `parent` is the token of temporary credentials."""

    id: str
    name: str
    secret: str
    scopes: tuple[Scope, ...]
    policies: list[Any]
    created: float
    expires: float | None = None
    session_token: str | None = None
    parent: str | None = None

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now()


class Keys:
    """The keys in the database; `root` are the ids that are not in it: the local cloud's own key, which may do all."""

    def __init__(self, database: sqlite3.Connection, root: Iterable[str]) -> None:
        self._db, self._root = database, frozenset(root)

    def add(self, key: Key) -> None:
        """Keep a new one."""
        row = asdict(key) | {
            "scopes": json.dumps([asdict(scope) for scope in key.scopes]),
            "policies": json.dumps(key.policies),
        }
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        self._db.execute(f"INSERT INTO r2_keys ({names}) VALUES ({marks})", row)  # noqa: S608 (our own names)

    def get(self, identity: str) -> Key | None:
        """A key that still counts, though it may have expired: one whose token is gone does not."""
        row = self._db.execute("SELECT * FROM r2_keys WHERE id = ?", (identity,)).fetchone()
        if row is None:
            return None
        key = _key(row)
        if key.parent and key.parent not in self._root:
            parent = self.get(key.parent)
            if parent is None or parent.expired:
                return None
        return key

    def tokens(self) -> list[Key]:
        """All tokens, temporary credentials left out."""
        rows = self._db.execute("SELECT * FROM r2_keys WHERE parent IS NULL ORDER BY created")
        return [_key(row) for row in rows]

    def remove(self, identity: str) -> bool:
        """Whether there was such a token."""
        found = self._db.execute("DELETE FROM r2_keys WHERE id = ? AND parent IS NULL", (identity,))
        return found.rowcount > 0

    def is_root(self, identity: str) -> bool:
        """Whether it is the local cloud's own key."""
        return identity in self._root


def new_token_value() -> str:
    """A token's value, 40 characters as Cloudflare's."""
    return secrets.token_urlsafe(30)


def new_id() -> str:
    """32 hex digits."""
    return uuid.uuid4().hex


def _key(row: sqlite3.Row) -> Key:
    fields = dict(row)
    scopes = tuple(
        Scope(
            None if scope["buckets"] is None else tuple(scope["buckets"]),
            scope["write"],
            scope["admin"],
            tuple(scope["prefixes"]),
            tuple(scope["objects"]),
        )
        for scope in json.loads(fields.pop("scopes"))
    )
    policies = json.loads(fields.pop("policies"))
    return Key(**fields, scopes=scopes, policies=policies)
