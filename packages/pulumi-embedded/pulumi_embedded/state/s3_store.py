"""A backend in an S3-compatible bucket, with boto3.

The URL is the CLI's: `s3://BUCKET[/FOLDER]?endpoint=…&region=…&s3ForcePathStyle=true`. Credentials come from where
every AWS tool looks for them (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, …).

Objects cannot be appended to. A log is therefore a folder of objects, one per `append`, named `<start time>-<number>`.
The log with the latest start time is the current one; a log without number 0 is being removed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.state.stores import Log, StoreError

SCHEME: Final = "s3://"
_FIRST: Final = f"-{0:08}"
_TRUE: Final = ("1", "t", "true")


@dataclass(frozen=True)
class BucketUrl:
    """The parts of an `s3://` backend URL."""

    bucket: str
    folder: str = ""
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    path_style: bool = False

    @classmethod
    def parse(cls, url: str) -> BucketUrl:
        """Raises NeedsCliError for parameters that are not supported."""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        plain = query.pop("disableSSL", query.pop("disable_https", "")).lower() in _TRUE
        endpoint = query.pop("endpoint", None)
        if endpoint and "://" not in endpoint:
            endpoint = f"{'http' if plain else 'https'}://{endpoint}"
        path_style = query.pop("s3ForcePathStyle", query.pop("use_path_style", "")).lower() in _TRUE
        query.pop("awssdk", None)  # a URL parameter that only matters to the Go SDKs
        folders = [query.pop("prefix", "").strip("/"), parts.path.strip("/")]
        folder = "".join(f"{part}/" for part in folders if part)
        region, profile = query.pop("region", None), query.pop("profile", None)
        if query:
            raise NeedsCliError(f"the parameter {min(query)!r} of the backend {url}")
        return cls(parts.netloc, folder, endpoint, region, profile, path_style)


class S3Store:
    """A store in a bucket, or in a folder of a bucket."""

    is_local = False

    def __init__(self, url: str, subfolder: str) -> None:
        if find_spec("boto3") is None:
            raise EngineError("an s3:// backend needs boto3: `python -m pip install 'pulumi-embedded[s3]'`")
        self._url = BucketUrl.parse(url)
        self._prefix = f"{self._url.folder}{subfolder}/"

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        url = self._url
        config = Config(
            s3={"addressing_style": "path" if url.path_style else "auto"},
            retries={"mode": "standard", "max_attempts": 5},
            connect_timeout=10,
            read_timeout=60,
            # S3-compatible stores other than AWS refuse the newer checksums, so send
            # them only when required.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        session = boto3.Session(profile_name=url.profile, region_name=url.region)
        return session.client("s3", endpoint_url=url.endpoint, config=config)

    def read(self, key: str) -> bytes | None:
        with self._requests() as client:
            try:
                return bytes(client.get_object(**self._place(key))["Body"].read())
            except client.exceptions.NoSuchKey:
                return None

    def write(self, key: str, data: bytes) -> None:
        with self._requests() as client:
            client.put_object(**self._place(key), Body=data)

    def modified(self, key: str) -> float:
        return self._list(self._prefix + key).get(self._prefix + key, 0.0)

    def copy(self, source: str, target: str) -> None:
        with self._requests() as client:
            client.copy_object(**self._place(target), CopySource=self._place(source))

    def remove(self, key: str) -> None:
        with self._requests() as client:
            client.delete_object(**self._place(key))

    def list_keys(self, folder: str) -> list[str]:
        keys = self._list(f"{self._prefix}{folder}/")
        return sorted(key.removeprefix(self._prefix) for key in keys)

    def log(self, key: str) -> Log:
        return ObjectLog(self, key)

    def _list(self, prefix: str) -> Mapping[str, float]:
        """When each object with this prefix, below no further folder, was last written."""
        with self._requests() as client:
            paginator = client.get_paginator("list_objects_v2")
            pages = paginator.paginate(Bucket=self._url.bucket, Prefix=prefix, Delimiter="/")
            objects = [item for page in pages for item in page.get("Contents", [])]
        return {item["Key"]: item["LastModified"].timestamp() for item in objects}

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._url.bucket, "Key": self._prefix + key}

    @contextmanager
    def _requests(self) -> Iterator[Any]:
        """The client. Raises StoreError for its errors."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield self._client
        except (BotoCoreError, ClientError) as error:
            raise StoreError(f"the bucket {self._url.bucket} of the backend: {error}") from None


@dataclass
class ObjectLog:
    """A log as a folder of objects."""

    store: S3Store
    folder: str
    _start: str = field(default="", init=False)
    _count: int = field(default=0, init=False)

    def start(self, head: bytes) -> None:
        before = self.store.list_keys(self.folder)
        self._start, self._count = f"{time.time_ns():020}", 0
        self.append(head)
        self._remove(before)

    def append(self, lines: bytes) -> None:
        if not self._start:
            self._start, self._count = self._latest_log()
        self.store.write(f"{self.folder}/{self._start}-{self._count:08}", lines)
        self._count += 1

    def read(self) -> bytes:
        start, count = self._latest_log()
        keys = [f"{self.folder}/{start}-{number:08}" for number in range(count)]
        return b"".join(self.store.read(key) or b"" for key in keys)

    def _latest_log(self) -> tuple[str, int]:
        """The start time of the current log, and how many objects it has."""
        names = [key.rpartition("/")[2] for key in self.store.list_keys(self.folder)]
        start = max((name.partition("-")[0] for name in names if name.endswith(_FIRST)), default="")
        return start, sum(bool(start) and name.startswith(f"{start}-") for name in names)

    def remove(self) -> None:
        self._remove(self.store.list_keys(self.folder))

    def _remove(self, keys: list[str]) -> None:
        # The keys are sorted, so the first object is removed first. Without it, the rest of
        # the log is ignored.
        for key in keys:
            self.store.remove(key)

    def put_aside(self) -> str:
        aside = f"{self.folder}.{time.time_ns()}.aside"
        self.store.write(aside, self.read())
        self.remove()
        return aside
