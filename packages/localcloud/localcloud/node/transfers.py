"""Transfers between node and bucket (src/s3.ts of the worker).

Errors are logged and ignored: a job can run with half of its files, and be completed with nothing uploaded.
"""

import contextlib
import gzip
import io
import logging
import mimetypes
import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import IncompleteReadError, ResponseStreamingError
from urllib3.exceptions import ProtocolError

log = logging.getLogger(__name__)

CONCURRENT_FILES = 20
NEVER_SECONDS = 10**6  # the real worker's S3 client has no read timeout
MAX_ATTEMPTS = 3  # the default of the real worker's S3 client, @aws-sdk/client-s3
BROKEN_BODY = (IncompleteReadError, ResponseStreamingError, ProtocolError)
PARTS = TransferConfig(multipart_threshold=10 << 20, multipart_chunksize=10 << 20, max_concurrency=8)


class CutBodyError(Exception):
    """A download ended before its body was complete. The real worker then waits for ever."""


class OutsideError(Exception):
    """The path leaves the node's folder. The real worker follows it; this one runs on a user's machine and must not."""


def inside(home: Path, path: str) -> Path:
    """`path` below `home`. Raises OutsideError."""
    found = Path(os.path.normpath(home / path))
    if home not in found.parents:
        raise OutsideError(f"{path!r} is outside the node's folder")
    return found


class Transfers:
    """Downloads and uploads, with credentials from the environment (AWS_*)."""

    def __init__(self, home: Path) -> None:
        self._home = home

    @cached_property
    def _s3(self) -> Any:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        config = Config(
            user_agent_extra="kelpie-node",
            max_pool_connections=2 * CONCURRENT_FILES,
            connect_timeout=10,
            read_timeout=NEVER_SECONDS,
            retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        )
        return boto3.client("s3", region_name=region, config=config)

    def download(self, entry: dict[str, Any], *, compressed: bool) -> None:
        """Download all objects below a prefix, 20 at a time, in the order of the listing. The pattern is matched against the key.

        Answers with an error are logged and ignored. Raises CutBodyError.
        """
        bucket, prefix = entry["bucket"], entry["prefix"]
        try:
            keys = list(self._list(bucket, prefix))
            if entry.get("pattern"):
                keys = [key for key in keys if re.search(entry["pattern"], key)]
            log.info("%d files to download from %s/%s", len(keys), bucket, prefix)
            for start in range(0, len(keys), CONCURRENT_FILES):
                with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
                    downloads = []
                    for key in keys[start : start + CONCURRENT_FILES]:
                        local = os.path.join(entry["local_path"], key.replace(prefix, "", 1))  # noqa: PTH118 (keeps a trailing /, unlike pathlib)
                        downloads.append(
                            pool.submit(self._download_one, bucket, key, local, compressed=compressed)
                        )
                for download in downloads:
                    download.result()
        except CutBodyError:
            raise
        except Exception as error:  # noqa: BLE001 (the worker ignores all errors)
            log.error("error downloading files: %s", error)

    def _list(self, bucket: str, prefix: str) -> Iterable[str]:
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from (item["Key"] for item in page.get("Contents", []))

    def _download_one(self, bucket: str, key: str, local: str, *, compressed: bool) -> None:
        try:
            zipped = compressed and key.endswith(".gz")
            path = inside(self._home, local.removesuffix(".gz") if zipped else local)
            path.parent.mkdir(parents=True, exist_ok=True)
            body = self._s3.get_object(Bucket=bucket, Key=key)["Body"]
            with path.open(
                "wb"
            ) as file:  # write directly, so that an interrupted download leaves a partial file
                shutil.copyfileobj(gzip.GzipFile(fileobj=io.BufferedReader(body)) if zipped else body, file)
        except BROKEN_BODY as error:
            raise CutBodyError(key) from error
        except Exception as error:  # noqa: BLE001 (the worker ignores all errors)
            log.error("download failed for %s: %s", key, error)

    def upload_folder(self, folder: Path, entry: dict[str, Any], *, compressed: bool) -> None:
        """Upload all files in the folder, 20 at a time. The pattern is matched against the relative path."""
        try:
            paths = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
            names = [path.relative_to(folder).as_posix() for path in paths]
            if entry.get("pattern"):
                names = [name for name in names if re.search(entry["pattern"], name)]
            log.info("%d files to upload to %s/%s", len(names), entry["bucket"], entry["prefix"])
            with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
                for name in names:
                    key = entry["prefix"] + name
                    pool.submit(self.upload, folder / name, entry["bucket"], key, compressed=compressed)
        except Exception as error:  # noqa: BLE001 (the worker ignores all errors)
            log.error("error uploading %s: %s", folder.name, error)

    def upload(self, path: Path, bucket: str, key: str, *, compressed: bool) -> None:
        """Upload a file with its current content, even if it is still being written."""
        try:
            extra = {"ContentType": mimetypes.guess_type(path.name)[0] or "application/octet-stream"}
            if compressed:
                data = io.BytesIO(gzip.compress(path.read_bytes()))
                extra["ContentEncoding"] = "gzip"
                self._s3.upload_fileobj(data, bucket, f"{key}.gz", ExtraArgs=extra, Config=PARTS)
            elif path.stat().st_size < PARTS.multipart_threshold:
                # The real worker reads a part before it sends its length. boto3 would send the length first, and if the file is
                # replaced by a shorter one then, the storage would wait for the rest for ever.
                data = io.BytesIO(path.read_bytes())
                self._s3.upload_fileobj(data, bucket, key, ExtraArgs=extra, Config=PARTS)
            else:
                self._s3.upload_file(str(path), bucket, key, ExtraArgs=extra, Config=PARTS)
            log.info("uploaded %s", key)
        except Exception as error:  # noqa: BLE001 (the worker ignores all errors)
            log.error("error uploading %s: %s", key, error)

    def delete(self, bucket: str, key: str) -> None:
        try:
            self._s3.delete_object(Bucket=bucket, Key=key)
            log.info("deleted %s", key)
        except Exception as error:  # noqa: BLE001 (the worker ignores all errors)
            log.error("error deleting %s: %s", key, error)


def purge(home: Path, local_path: str) -> None:
    """Empty the folder, or create it."""
    try:
        folder = inside(home, local_path)
    except OutsideError as error:
        log.error("%s", error)
        return
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
