"""A backend in an S3-compatible bucket, by boto3.

The URL is the CLI's own: `s3://BUCKET[/FOLDER]?endpoint=…&region=…&s3ForcePathStyle=true`.  Credentials come from
where every AWS tool looks for them (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, …).

A bucket cannot append to a file.  A log is a folder of objects there, one for each `append`, named
`<when it was started>-<number>`: the latest start counts, and one without a number 0 is being removed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from pulumi_embedded.errors import NeedsCliError
from pulumi_embedded.state.stores import Log, StoreError

SCHEME: Final = "s3://"
_FIRST: Final = f"-{0:08}"
_ON: Final = ("1", "t", "true")


@dataclass(frozen=True)
class Place:
    """What the URL says."""

    bucket: str
    folder: str = ""
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    path_style: bool = False

    @classmethod
    def of(cls, url: str) -> Place:
        """Raises NeedsCliError for parameters that are not known here."""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        plain = query.pop("disableSSL", query.pop("disable_https", "")).lower() in _ON
        endpoint = query.pop("endpoint", None)
        if endpoint and "://" not in endpoint:
            endpoint = f"{'http' if plain else 'https'}://{endpoint}"
        style = query.pop("s3ForcePathStyle", query.pop("use_path_style", "")).lower() in _ON
        query.pop("awssdk", None)  # which of Go's SDKs
        folders = [query.pop("prefix", "").strip("/"), parts.path.strip("/")]
        folder = "".join(f"{part}/" for part in folders if part)
        found = cls(
            parts.netloc, folder, endpoint, query.pop("region", None), query.pop("profile", None), style
        )
        if query:
            raise NeedsCliError(f"the parameter {min(query)!r} of the backend {url}")
        return found


class S3Store:
    """A store that is a bucket, or a folder in one."""

    is_local = False

    def __init__(self, url: str, below: str = "") -> None:
        self._place = Place.of(url)
        self._prefix = self._place.folder + (f"{below}/" if below else "")

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        place = self._place
        with self._telling():
            return boto3.Session(profile_name=place.profile, region_name=place.region).client(
                "s3",
                endpoint_url=place.endpoint,
                config=Config(
                    s3={"addressing_style": "path" if place.path_style else "auto"},
                    retries={"mode": "standard", "max_attempts": 5},
                    connect_timeout=10,
                    read_timeout=60,
                    # Stores other than AWS refuse the newer checksums, as the CLI knows too.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )

    def read(self, key: str) -> bytes | None:
        """See `Store`."""
        with self._telling():
            try:
                found = self._client.get_object(Bucket=self._place.bucket, Key=self._prefix + key)
            except self._client.exceptions.NoSuchKey:
                return None
            return bytes(found["Body"].read())

    def exists(self, key: str) -> bool:
        """See `Store`."""
        return self._prefix + key in self._listed(self._prefix + key)

    def write(self, key: str, data: bytes) -> None:
        """See `Store`."""
        with self._telling():
            self._client.put_object(Bucket=self._place.bucket, Key=self._prefix + key, Body=data)

    def modified(self, key: str) -> float:
        """See `Store`.  In whole seconds, as buckets have it."""
        with self._telling():
            pages = self._pages(self._prefix + key)
            times = {item["Key"]: item["LastModified"].timestamp() for item in pages}
        return float(times.get(self._prefix + key, 0.0))

    def copy(self, source: str, target: str) -> None:
        """See `Store`."""
        place = {"Bucket": self._place.bucket, "Key": self._prefix + source}
        with self._telling():
            self._client.copy_object(Bucket=self._place.bucket, Key=self._prefix + target, CopySource=place)

    def remove(self, key: str) -> None:
        """See `Store`."""
        with self._telling():
            self._client.delete_object(Bucket=self._place.bucket, Key=self._prefix + key)

    def keys(self, folder: str) -> list[str]:
        """See `Store`."""
        keys = self._listed(f"{self._prefix}{folder}/")
        return sorted(key.removeprefix(self._prefix) for key in keys)

    def log(self, key: str) -> Log:
        """See `Store`."""
        return ObjectLog(self, key)

    def _listed(self, prefix: str) -> list[str]:
        with self._telling():
            return [item["Key"] for item in self._pages(prefix)]

    def _pages(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._place.bucket, Prefix=prefix, Delimiter="/"
        )
        for page in pages:
            yield from page.get("Contents", [])

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Failures of the library as our own."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise StoreError(f"the bucket {self._place.bucket} of the backend: {error}") from None


class ObjectLog:
    """A log that is a folder of objects."""

    def __init__(self, bucket: S3Store, folder: str) -> None:
        self._bucket = bucket
        self._folder = folder
        self._start = ""
        self._count = 0

    def start(self, head: bytes) -> None:
        """See `Log`."""
        before = self._bucket.keys(self._folder)
        self._start, self._count = f"{time.time_ns():020}", 0
        self.append(head)
        self._remove(before)

    def append(self, lines: bytes) -> None:
        """See `Log`."""
        if not self._start:
            self._start, self._count = self._latest()
        self._bucket.write(f"{self._folder}/{self._start}-{self._count:08}", lines)
        self._count += 1

    def read(self) -> bytes:
        """See `Log`."""
        start, count = self._latest()
        keys = [f"{self._folder}/{start}-{number:08}" for number in range(count)]
        return b"".join(self._bucket.read(key) or b"" for key in keys)

    def _latest(self) -> tuple[str, int]:
        """When the log was started that counts, and how many objects it has."""
        names = [key.rpartition("/")[2] for key in self._bucket.keys(self._folder)]
        start = max((name.partition("-")[0] for name in names if name.endswith(_FIRST)), default="")
        return start, sum(bool(start) and name.startswith(f"{start}-") for name in names)

    def remove(self) -> None:
        """See `Log`."""
        self._remove(self._bucket.keys(self._folder))

    def _remove(self, keys: list[str]) -> None:
        for key in keys:  # in order: without its first object a log does not count
            self._bucket.remove(key)

    def put_aside(self) -> str:
        """See `Log`."""
        aside = f"{self._folder}.{time.time_ns()}.aside"
        self._bucket.write(aside, self.read())
        self.remove()
        return aside

    def close(self) -> None:
        """See `Log`."""
