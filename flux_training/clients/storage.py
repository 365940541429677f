"""A bucket in any S3-compatible storage: Cloudflare R2, AWS, MinIO, the local cloud."""

import base64
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import tenacity
from pydantic import SecretStr

from flux_training.clients.bulk import (
    BucketAccess,
    Bulk,
    FileToUpload,
    ObjectToDownload,
    OnProgress,
    ignore_progress,
)
from flux_training.clients.errors import Conflict, Invalid, NotFound, Service, ServiceError, Unauthorized
from flux_training.clients.http import LOOPBACK
from flux_training.clients.s3_errors import UNREADABLE, no_answer_error, refused
from flux_training.training.words import one_line

AWS_URL = "https://s3.amazonaws.com"
MAX_CONNECTIONS = 32
MAX_KEYS_PER_DELETE = 1000
MAX_READS = 3
# The limits for listing folders, which nodes can create: more than the jobs of a stack, and than the runs of a job.
MAX_FOLDERS = 10_000
# The maximum number of pages, each with a thousand folders and objects. Objects that nodes put beside the folders are on these
# pages too.
MAX_FOLDER_PAGES = 20
# XML 1.0 cannot represent these characters, so keys that contain them cannot be in a list of keys to delete.
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
REGIONS_WITHOUT_LOCATION = frozenset({"auto", "us-east-1"})


@dataclass(frozen=True)
class ObjectInfo:
    """An object without its bytes. `etag` has no quotes, and is no MD5 after a multipart upload; `modified` is the storage's time."""

    key: str
    size: int
    etag: str
    modified: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Folders:
    """Names, sorted. `is_cut`: there are more than a listing reads."""

    names: Sequence[str] = ()
    is_cut: bool = False


class Storage:
    """One bucket. Thread-safe. Every method raises ServiceError if the storage refuses or does not answer."""

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
        service = self._service = Service(
            "object storage",
            endpoint_url or AWS_URL,
            if_refused=f"check the storage's access key, its secret, and that it may use bucket {bucket}",
            if_down=if_down,
            secrets=tuple(s for s in (secret_access_key, session_token, SecretStr(access_key_id)) if s),
        )
        self._lock = threading.Lock()
        self._made: Any = None
        self._bulk = Bulk(
            BucketAccess(
                service,
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
        """Whether the bucket exists. Raises Unauthorized if it belongs to someone else."""
        return self._none_if_missing(lambda: self._call("head_bucket")) is not None

    def ensure(self) -> bool:
        """Create the bucket if it does not exist. Returns whether it was created. Raises Conflict if another account has it."""
        if self.exists():
            return False
        try:
            self.create_bucket()
        except Conflict as conflict:
            if conflict.code != "BucketAlreadyOwnedByYou":
                raise
            return False  # Another update has just created the bucket.
        return True

    def create_bucket(self) -> None:
        """Create the bucket. Raises Conflict if the name is taken."""
        place: dict[str, Any] = {}
        if self.region not in REGIONS_WITHOUT_LOCATION and self.endpoint_url is None:
            place["CreateBucketConfiguration"] = {"LocationConstraint": self.region}
        try:
            self._call("create_bucket", **place)
        except Conflict as conflict:
            # botocore repeats a request whose answer was lost, and the repeated request finds the bucket that the first one
            # created.
            if not (conflict.repeated and conflict.code == "BucketAlreadyOwnedByYou"):
                raise

    def delete_bucket(self) -> None:
        """Delete the bucket, if it exists. Raises Conflict if it holds objects."""
        self._none_if_missing(lambda: self._call("delete_bucket"))

    def lifecycle_rules(self) -> list[dict[str, Any]]:
        """The rules by which the bucket deletes objects, in S3's form ([{ID, Status, Filter, Expiration …}]). Raises NotFound without a bucket."""
        try:
            rules: list[dict[str, Any]] = self._call("get_bucket_lifecycle_configuration").get("Rules", [])
        except NotFound as error:
            if error.code != "NoSuchLifecycleConfiguration":
                raise
            return []
        return rules

    def put_lifecycle_rules(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace all rules, including those of others who share the bucket."""
        self._call(
            "put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": [*map(dict, rules)]}
        )

    def head(self, key: str) -> ObjectInfo | None:
        """Size and ETag; None if there is no such object, or no bucket."""
        answer = self._none_if_missing(lambda: self._call("head_object", Key=key))
        return answer and ObjectInfo(
            key, answer["ContentLength"], answer["ETag"].strip('"'), answer.get("LastModified")
        )

    def get_bytes(self, key: str) -> bytes | None:
        """The whole object; None if it does not exist. Raises NotFound without a bucket."""
        try:
            return self._read("get_object", Key=key)
        except NotFound as error:
            if error.code == "NoSuchBucket":
                raise
            return None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, or fewer at the end of the object. Raises NotFound.

        None of an object whose writer keeps others from reading it (see UNREADABLE).
        """
        if length <= 0:
            return b""
        try:
            return self._read("get_object", Key=key, Range=f"bytes={start}-{start + length - 1}")
        except (Invalid, Unauthorized) as error:
            # A range beyond the end of the object is answered with 416 InvalidRange, by some storages with 400 InvalidArgument.
            if error.status == 416 or error.code == "InvalidArgument" or error.code in UNREADABLE:
                return b""
            raise

    def put_bytes(
        self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None
    ) -> str:
        """Write the object and return its ETag.

        `if_none_match`: only if it does not exist; `if_match`: only if it still has this ETag; otherwise Conflict is raised.
        After a lost answer the object is read back to see who wrote it, so competing writers must write different bytes.
        """
        condition: dict[str, str] = {}
        if if_none_match:
            condition["IfNoneMatch"] = "*"
        if if_match is not None:
            condition["IfMatch"] = f'"{if_match.strip(chr(34))}"'
        try:
            return self._put(key, data, condition)
        except Conflict as conflict:
            # botocore repeats a request whose answer was lost, and the repeated request finds the object that the first one
            # wrote.
            if not conflict.repeated or self.get_bytes(key) != data:
                raise
            if (found := self.head(key)) is None:
                raise
            return found.etag

    def send_files(
        self, files: Sequence[FileToUpload], on_progress: OnProgress = ignore_progress
    ) -> Mapping[str, str]:
        """Upload many files at once, each checked against its `sha256`. Returns their ETags by key; see Bulk.send."""
        return self._bulk.send(files, on_progress)

    def download(self, key: str, path: Path, sha256: str | None = None, *, size: int | None = None) -> None:
        """Fetch one object; see `fetch_files`."""
        self.fetch_files([ObjectToDownload(key, path, sha256, size)])

    def fetch_files(
        self, objects: Sequence[ObjectToDownload], on_progress: OnProgress = ignore_progress
    ) -> None:
        """Download many objects at once, each checked against its `sha256` if that is given; see Bulk.fetch."""
        self._bulk.fetch(objects, on_progress)

    def copy_many(
        self, pairs: Sequence[tuple[str, str]], on_progress: OnProgress = ignore_progress
    ) -> Sequence[tuple[str, str]]:
        """Copy many objects inside the bucket. Returns the pairs whose source does not exist; see Bulk.copy."""
        return self._bulk.copy(pairs, on_progress)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key begins with `prefix`, sorted by key."""
        for page in self._pages(Prefix=prefix):
            for item in page.get("Contents", []):
                yield ObjectInfo(item["Key"], item["Size"], item["ETag"].strip('"'), item.get("LastModified"))

    def list_folders(self, prefix: str = "") -> Folders:
        """The folders directly below `prefix`, which is empty or ends with a slash. Reads at most MAX_FOLDER_PAGES pages."""
        names: list[str] = []
        for number, page in enumerate(self._pages(Prefix=prefix, Delimiter="/"), start=1):
            found = (entry["Prefix"] for entry in page.get("CommonPrefixes", []))
            names += (folder.removeprefix(prefix).rstrip("/") for folder in found)
            has_more = bool(page.get("IsTruncated"))
            if len(names) > MAX_FOLDERS or (has_more and number == MAX_FOLDER_PAGES):
                return Folders(sorted(names[:MAX_FOLDERS]), is_cut=True)
        return Folders(sorted(names))

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects; missing ones are ignored. Raises ServiceError naming an object that was not deleted."""
        for key in filter(NOT_IN_XML.search, keys):
            self._call("delete_object", Key=key)
        listable = [key for key in keys if not NOT_IN_XML.search(key)]
        for start in range(0, len(listable), MAX_KEYS_PER_DELETE):
            batch = listable[start : start + MAX_KEYS_PER_DELETE]
            answer = self._call(
                "delete_objects", Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
            )
            errors = answer.get("Errors", [])
            if errors:
                first = errors[0]
                words = self._service.clean(f"{first.get('Code', '')}: {first.get('Message', '')}")
                raise ServiceError(
                    f"{len(errors)} objects of bucket {self.bucket} were not deleted",
                    f"{one_line(str(first.get('Key')))}: {words}",
                    self._service.if_refused,
                )

    def delete_each(self, keys: Iterable[str]) -> int:
        """Delete objects in parts: `keys` may be any number. Returns how many. Raises ServiceError as `delete_many` does."""
        left, count = iter(keys), 0
        while part := list(itertools.islice(left, MAX_KEYS_PER_DELETE)):
            self.delete_many(part)
            count += len(part)
        return count

    def delete_below(self, prefix: str) -> int:
        """Delete the objects whose keys begin with `prefix`. Returns how many. In parts: nodes can make any number."""
        return self.delete_each(item.key for item in self.list(prefix))

    def _put(self, key: str, data: bytes, condition: Mapping[str, str]) -> str:
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        answer = self._call("put_object", Key=key, Body=data, ContentMD5=md5, **condition)
        return str(answer["ETag"]).strip('"')

    def _read(self, operation: str, **arguments: Any) -> bytes:
        """The body of an answer. Fetched again if it breaks off: botocore's own retries end where the body begins."""
        from botocore.exceptions import BotoCoreError

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(BotoCoreError),
            stop=tenacity.stop_after_attempt(MAX_READS),
            reraise=True,
        )
        try:
            return retrying(lambda: bytes(self._call(operation, **arguments)["Body"].read()))
        except BotoCoreError as failure:
            raise self._no_answer(failure) from None

    def _pages(self, **arguments: Any) -> Iterator[Mapping[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", **arguments, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _none_if_missing(self, call: Callable[[], Any]) -> Any:
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
            raise self._no_answer(failure) from None

    def _no_answer(self, failure: Exception) -> ServiceError:
        return no_answer_error(self._service, self.bucket, type(failure).__name__, str(failure))

    def _client(self) -> Any:
        """botocore's client (thread-safe). Made at the first use, because importing botocore takes 0.3 s."""
        with self._lock:
            if self._made is None:
                self._made = self._make_client()
            return self._made

    def _make_client(self) -> Any:
        import botocore.session
        from botocore.config import Config
        from botocore.handlers import add_expect_header

        # Ignore the user's AWS CLI configuration: profile, files and endpoint.
        nowhere = {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull}
        # Each entry is (name in the file, environment variable, default, conversion). With the first two None, only the default
        # counts.
        core = botocore.session.Session({name: (None, None, value, None) for name, value in nowhere.items()})
        # By default botocore looks into the folders of 400 services, which takes 60 ms.
        core.get_component("data_loader").list_available_services = lambda *_: ["s3"]
        local = httpx.URL(self._service.url).host in LOOPBACK
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=MAX_CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": self._retries + 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=True,
            s3={"addressing_style": "path" if self.endpoint_url else "auto"},
            # The user's proxy cannot reach the local cloud, so it is bypassed.
            proxies={} if local else None,
        )
        # A botocore client is enough: boto3 adds transfers and resources, which obstore replaces here.
        client = core.create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self._key_id,
            aws_secret_access_key=self._secret.get_secret_value(),
            aws_session_token=self._token.get_secret_value() if self._token else None,
            config=config,
        )
        # Send bodies at once, without waiting for "100 Continue". If a server refuses before asking for the body, it would take
        # the next request on the same connection for that body.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        client.meta.events.register("before-call.s3.DeleteObjects", _sign_deletion_with_md5)
        return client


def _sign_deletion_with_md5(params: dict[str, Any], **_event: Any) -> None:
    """Sign a deletion with an MD5, as S3 has always accepted. botocore sends a CRC32, which many other services refuse."""
    params["context"].pop("checksum", None)
    params["headers"].pop("x-amz-sdk-checksum-algorithm", None)
    md5 = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(md5).decode()
