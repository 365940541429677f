"""R2's access keys: tokens, and temporary credentials that belong to a token.

The access key id of a token is the token's id; its secret is the SHA-256 of the token's value.
"""

import json
import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from localcloud.database import CloudDatabase, now


@dataclass(frozen=True)
class KeyScope:
    """What a key allows: in which buckets (None: all), whether to write, whether to manage buckets (`admin`), and for which keys.

    Without `prefixes` and `objects`, it is valid for all keys.
    """

    buckets: Sequence[str] | None
    write: bool
    admin: bool = False
    prefixes: Sequence[str] = ()
    objects: Sequence[str] = ()

    def allows_bucket(self, bucket: str) -> bool:
        return self.buckets is None or bucket in self.buckets

    def allows_key(self, bucket: str, key: str) -> bool:
        return self.allows_bucket(bucket) and (key in self.objects or self._has_prefix(key))

    def allows_listing(self, bucket: str, prefix: str) -> bool:
        """Whether the keys that begin with `prefix` may be listed."""
        return self.allows_bucket(bucket) and self._has_prefix(prefix)

    def _has_prefix(self, text: str) -> bool:
        everything = not self.prefixes and not self.objects
        return everything or text.startswith(tuple(self.prefixes))

    def covers(self, other: Self) -> bool:
        """Whether this scope allows all that the other one does. Prefixes are not compared: only temporary credentials have them."""
        return (
            all(self.allows_bucket(bucket) for bucket in other.buckets or ())
            and self.write >= other.write
            and self.admin >= other.admin
        )


@dataclass(frozen=True)
class AccessKey:
    """An access key. `expires` is in seconds since 1970; `parent` is the token of temporary credentials."""

    name: str
    secret: str
    scopes: Sequence[KeyScope]
    policies: list[Any]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: float = field(default_factory=now)
    expires: float | None = None
    session_token: str | None = None
    parent: str | None = None

    @property
    def is_expired(self) -> bool:
        return self.expires is not None and self.expires <= now()


class AccessKeys:
    """The keys in the database. `root` are the ids of the local cloud's own keys, which are not in it and allow everything."""

    def __init__(self, database: CloudDatabase, root: Iterable[str]) -> None:
        self._db, self._root = database, frozenset(root)

    def add(self, key: AccessKey) -> None:
        row = asdict(key)
        row |= {name: json.dumps(row[name]) for name in ("scopes", "policies")}
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        self._db.execute(f"INSERT INTO r2_keys ({names}) VALUES ({marks})", row)  # noqa: S608 (constant names)

    def get(self, identity: str) -> AccessKey | None:
        """The key, unless it belongs to a token that was deleted or has expired. The key itself may have expired."""
        row = self._db.first("SELECT * FROM r2_keys WHERE id = ?", identity)
        if row is None:
            return None
        key = _key(row)
        if key.parent and key.parent not in self._root:
            parent = self.get(key.parent)
            if parent is None or parent.is_expired:
                return None
        return key

    def tokens(self) -> list[AccessKey]:
        """All tokens, without temporary credentials."""
        rows = self._db.execute("SELECT * FROM r2_keys WHERE parent IS NULL ORDER BY created")
        return [_key(row) for row in rows]

    def remove(self, identity: str) -> None:
        """Delete a token."""
        self._db.execute("DELETE FROM r2_keys WHERE id = ? AND parent IS NULL", (identity,))

    def is_root(self, identity: str) -> bool:
        return identity in self._root


def _key(row: sqlite3.Row) -> AccessKey:
    scopes = [KeyScope(**scope) for scope in json.loads(row["scopes"])]
    return AccessKey(**{**dict(row), "scopes": scopes, "policies": json.loads(row["policies"])})
