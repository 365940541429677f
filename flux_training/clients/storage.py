"""A bucket in any S3-compatible storage: Cloudflare R2, AWS, MinIO, the local cloud."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import SecretStr

from flux_training.clients.bulk import Access, Bulk, Incoming, Outgoing, Told, say_nothing
from flux_training.clients.errors import (
    Conflict,
    Invalid,
    NotFound,
    Service,
    ServiceError,
)
from flux_training.clients.http import LOOPBACK
from flux_training.clients.s3_errors import no_answer, refused
from flux_training.training.errors import BadInput

AWS_URL = "https://s3.amazonaws.com"
CONNECTIONS = 32
MOST_KEYS_A_DELETE = 1000
READ_TRIES = 3
NO_LOCATION = frozenset({"auto", "us-east-1"})

R = TypeVar("R")


@dataclass(frozen=True)
class ObjectInfo:
    """An object without its bytes. `etag` has no quotes; after a multipart upload it is no MD5. `modified` by the storage's clock."""

    key: str
    size: int
    etag: str
    modified: datetime | None = field(default=None, compare=False)


class Storage:
    """One bucket. Thread-safe. Every method raises a ServiceError when the storage refuses or is silent."""

    def __init__(
        self,
        endpoint_url: str | None,
        region: str,
        access_key_id: str,
        secret_access_key: SecretStr,
        session_token: SecretStr | None = None,
        bucket: str = "",
        *,
        if_down: str = "check the storage's endpoint address and the network",
        retries: int = 4,
    ) -> None:
        self.bucket = bucket
        self.endpoint_url = endpoint_url
        self.region = region
        self._key_id = access_key_id
        self._secret = secret_access_key
        self._token = session_token
        self._retries = retries
        self._service = Service(
            "object storage",
            endpoint_url or AWS_URL,
            if_refused=f"check the storage's access key, its secret, and that it may use bucket {bucket}",
            if_down=if_down,
            secrets=tuple(s for s in (secret_access_key, session_token, SecretStr(access_key_id)) if s),
        )
        self._lock = threading.Lock()
        self._made: Any = None
        self._bulk = Bulk(
            Access(
                self._service,
                bucket,
                endpoint_url,
                region,
                access_key_id,
                secret_access_key,
                session_token,
                retries,
            )
        )

    def __repr__(self) -> str:
        return f"<Storage {self.bucket} at {self._service.host}>"

    def exists(self) -> bool:
        """Whether the bucket is there. Raises Unauthorized when it is somebody else's."""
        return self._unless_missing(lambda: self._call("head_bucket")) is not None

    def ensure(self) -> bool:
        """Make the bucket unless it is there; whether it was made. Raises Conflict when it is another account's."""
        if self.exists():
            return False
        try:
            self.create_bucket()
        except Conflict as conflict:
            if conflict.code != "BucketAlreadyOwnedByYou":
                raise
            return False  # another update made it since we looked
        return True

    def create_bucket(self) -> None:
        """Make the bucket. Raises Conflict when the name is taken."""
        place: dict[str, Any] = {}
        if self.region not in NO_LOCATION and self.endpoint_url is None:
            place["CreateBucketConfiguration"] = {"LocationConstraint": self.region}
        try:
            self._call("create_bucket", **place)
        except Conflict as conflict:
            # botocore repeats a request whose answer was lost; the second one then meets the first one's bucket.
            if not (conflict.repeated and conflict.code == "BucketAlreadyOwnedByYou"):
                raise

    def delete_bucket(self) -> None:
        """Delete the bucket; fine if there is none. Raises Conflict when it holds objects."""
        self._unless_missing(lambda: self._call("delete_bucket"))

    def lifecycle_rules(self) -> list[dict[str, Any]]:
        """What the bucket deletes by itself, as S3 has it ([{ID, Status, Filter, Expiration …}]). Raises NotFound without a bucket."""
        try:
            rules: list[dict[str, Any]] = self._call("get_bucket_lifecycle_configuration").get("Rules", [])
        except NotFound as error:
            if error.code != "NoSuchLifecycleConfiguration":
                raise
            return []
        return rules

    def put_lifecycle_rules(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace all of them: whoever shares the bucket has theirs in the same list."""
        self._call(
            "put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": [*map(dict, rules)]}
        )

    def head(self, key: str) -> ObjectInfo | None:
        """Size and ETag; None when there is no such object (a missing bucket looks the same)."""
        answer = self._unless_missing(lambda: self._call("head_object", Key=key))
        return answer and ObjectInfo(
            key, answer["ContentLength"], answer["ETag"].strip('"'), answer.get("LastModified")
        )

    def get_bytes(self, key: str) -> bytes | None:
        """The whole object; None when there is none. Raises NotFound when there is no bucket."""
        try:
            return self._read("get_object", Key=key)
        except NotFound as error:
            if error.code == "NoSuchBucket":
                raise
            return None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes from byte `start` on; fewer at the object's end. Raises NotFound."""
        if length <= 0:
            return b""
        try:
            return self._read("get_object", Key=key, Range=f"bytes={start}-{start + length - 1}")
        except Invalid as error:
            # Beyond the end: 416 InvalidRange; some storages say 400 InvalidArgument.
            if error.status == 416 or error.code == "InvalidArgument":
                return b""
            raise

    def put_bytes(
        self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None
    ) -> str:
        """Write the object and return its ETag.

        `if_none_match`: only if there is none; `if_match`: only if it still has this ETag. Raises Conflict
        otherwise. Two writers that must know which of them won write different bytes: an answer that got
        lost is told from a lost race by reading the object back.
        """
        condition: dict[str, str] = {}
        if if_none_match:
            condition["IfNoneMatch"] = "*"
        if if_match is not None:
            condition["IfMatch"] = f'"{if_match.strip(chr(34))}"'
        try:
            return self._put(key, data, condition)
        except Conflict as conflict:
            # botocore repeats a PUT whose answer was lost; the second one then meets the first one's object.
            if not conflict.repeated or self.get_bytes(key) != data:
                raise
            there = self.head(key)
            if there is None:
                raise
            return there.etag

    def put_file(self, key: str, path: Path, sha256: str) -> None:
        """Upload one file; see `send_files`."""
        try:
            size = path.stat().st_size
        except OSError as error:
            raise BadInput([f"{path} cannot be read ({error.strerror}); restore it and run again"]) from None
        self.send_files([Outgoing(path, key, size, sha256)])

    def send_files(self, files: Sequence[Outgoing], told: Told = say_nothing) -> None:
        """Upload many files at once. The bytes sent are the bytes hashed; `told(1, bytes)` after each file.

        Raises BadInput naming all that are not those of their `sha256`, ServiceError.
        """
        self._bulk.send(files, told)

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Fetch one object; see `fetch_files`."""
        self.fetch_files([Incoming(key, path, sha256)])

    def fetch_files(self, objects: Sequence[Incoming], told: Told = say_nothing) -> None:
        """Fetch many objects at once, each into its file, which appears only when it is whole; `told(1, bytes)` after each.

        Raises NotFound; ServiceError when the bytes are not those of `sha256`, if that is given; OSError for a file that cannot be written.
        """
        self._bulk.fetch(objects, told)

    def copy(self, source: str, target: str) -> None:
        """Copy an object (up to 5 GB) inside the bucket. Raises NotFound."""
        if self.copy_many([(source, target)]):
            raise NotFound(f"{source} is not in bucket {self.bucket}")

    def copy_many(
        self, pairs: Sequence[tuple[str, str]], told: Told = say_nothing
    ) -> Sequence[tuple[str, str]]:
        """Copy many objects (up to 5 GB each) inside the bucket, from key to key; gives those whose source is not there."""
        return self._bulk.copy(pairs, told)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key begins with `prefix`, by key."""
        for page in self._pages(Prefix=prefix):
            for item in page.get("Contents", []):
                yield ObjectInfo(item["Key"], item["Size"], item["ETag"].strip('"'))

    def list_folders(self, prefix: str = "") -> Sequence[str]:
        """Names (without slash) of the folders directly below `prefix`, which is empty or ends in a slash."""
        folders = [
            entry["Prefix"]
            for page in self._pages(Prefix=prefix, Delimiter="/")
            for entry in page.get("CommonPrefixes", [])
        ]
        return sorted(folder.removeprefix(prefix).rstrip("/") for folder in folders)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects; fine for those that are not there. Raises ServiceError naming one that stayed."""
        for start in range(0, len(keys), MOST_KEYS_A_DELETE):
            batch = keys[start : start + MOST_KEYS_A_DELETE]
            answer = self._call(
                "delete_objects", Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
            )
            errors = answer.get("Errors", [])
            if errors:
                first = errors[0]
                words = self._service.clean(f"{first.get('Code', '')}: {first.get('Message', '')}")
                raise ServiceError(
                    f"{len(errors)} objects of bucket {self.bucket} were not deleted",
                    f"{first.get('Key')}: {words}",
                    self._service.if_refused,
                )

    def _put(self, key: str, data: bytes, condition: Mapping[str, str]) -> str:
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        answer = self._call("put_object", Key=key, Body=data, ContentMD5=md5, **condition)
        return str(answer["ETag"]).strip('"')

    def _read(self, operation: str, **arguments: Any) -> bytes:
        """The body of an answer, fetched again when the connection breaks in its middle."""
        return self._again(lambda: bytes(self._call(operation, **arguments)["Body"].read()))

    def _again(self, once: Callable[[], R]) -> R:
        """`once`, tried again when a body ends early: botocore's own retries end where the body begins."""
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # ships no types

        for left in reversed(range(READ_TRIES)):
            try:
                return once()
            except BotoCoreError as failure:
                if not left:
                    raise no_answer(
                        self._service, self.bucket, type(failure).__name__, str(failure)
                    ) from None
        raise AssertionError("unreachable")

    def _pages(self, **arguments: Any) -> Iterator[Mapping[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", **arguments, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _unless_missing(self, call: Callable[[], Any]) -> Any:
        with suppress(NotFound):
            return call()
        return None

    def _call(self, operation: str, **arguments: Any) -> Any:
        """One S3 operation on the bucket, its failures as ServiceError."""
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        try:
            return getattr(self._client(), operation)(Bucket=self.bucket, **arguments)
        except ClientError as failure:
            key = str(arguments.get("Key", ""))
            raise refused(self._service, self.bucket, operation, key, failure.response) from None
        except ParamValidationError as failure:
            raise Invalid(
                f"{operation} on bucket {self.bucket}: {self._service.clean(str(failure))}"
            ) from None
        except BotoCoreError as failure:
            raise no_answer(self._service, self.bucket, type(failure).__name__, str(failure)) from None

    def _client(self) -> Any:
        """botocore's client (thread-safe), made at the first use: importing it takes a while."""
        with self._lock:
            if self._made is None:
                self._made = self._make_client()
            return self._made

    def _make_client(self) -> Any:
        import botocore.session  # type: ignore[import-untyped]  # ships no types
        from botocore.config import Config  # type: ignore[import-untyped]
        from botocore.handlers import add_expect_header  # type: ignore[import-untyped]

        from flux_training.clients.s3_data import S3Data

        # Only what is given here counts: not the profile, the files and the endpoint of the user's AWS CLI.
        nowhere = {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull}
        # (name in the file, environment variable, default, conversion): the default alone.
        core = botocore.session.Session({name: (None, None, value, None) for name, value in nowhere.items()})
        core.register_component("data_loader", S3Data())
        local = httpx.URL(self._service.url).host in LOOPBACK
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": self._retries + 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=True,
            s3={"addressing_style": "path" if self.endpoint_url else "auto"},
            # A proxy of the user's does not lead to the local cloud.
            proxies={} if local else None,
        )
        # What boto3 would make, without what it adds and obstore does here: 60 modules of transfers and resources.
        client = core.create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self._key_id,
            aws_secret_access_key=self._secret.get_secret_value(),
            aws_session_token=self._token.get_secret_value() if self._token else None,
            config=config,
        )
        # A server that refuses before it has asked for the body leaves the connection in a state where the
        # next request is taken for that body. So the body goes along at once.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client
