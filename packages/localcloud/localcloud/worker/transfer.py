"""Files between the node and the bucket (src/s3.ts of the worker).

Errors are logged and swallowed: a job can run on half of its files, and be completed with nothing uploaded.
"""

from __future__ import annotations

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

log = logging.getLogger(__name__)

BATCH = 20
ATTEMPTS = 3
PARTS = TransferConfig(multipart_threshold=10 << 20, multipart_chunksize=10 << 20, max_concurrency=8)


class OutsideError(Exception):
    """A path that leaves the node's folder. The real worker follows it; a stand-in on somebody's machine must not."""


def inside(home: Path, path: str) -> Path:
    """`path` below `home`; raises OutsideError."""
    found = Path(os.path.normpath(home / path))
    if home not in found.parents:
        raise OutsideError(f"{path!r} is not below the node's folder")
    return found


class Transfers:
    """Downloads and uploads with the credentials of the environment (AWS_*)."""

    def __init__(self, home: Path) -> None:
        self._home = home

    @cached_property
    def _s3(self) -> Any:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        config = Config(
            user_agent_extra="kelpie-node",
            max_pool_connections=2 * BATCH,
            connect_timeout=10,
            # The defaults of the worker's client (@aws-sdk/client-s3): a key written too often is given up after these.
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        return boto3.client("s3", region_name=region, config=config)

    def download(self, entry: dict[str, Any], *, compressed: bool) -> None:
        """All objects under a prefix, 20 at a time, in the order of the listing. The pattern sees the whole key."""
        bucket, prefix = entry["bucket"], entry["prefix"]
        try:
            keys = list(self._list(bucket, prefix))
            if entry.get("pattern"):
                keys = [key for key in keys if re.search(entry["pattern"], key)]
            log.info("%d files to download from %s/%s", len(keys), bucket, prefix)
            for start in range(0, len(keys), BATCH):
                with ThreadPoolExecutor(BATCH) as pool:
                    for key in keys[start : start + BATCH]:
                        local = os.path.join(entry["local_path"], key.replace(prefix, "", 1))  # noqa: PTH118 - a key ending in / stays a folder
                        pool.submit(self._download_one, bucket, key, local, compressed=compressed)
        except Exception as err:  # noqa: BLE001 - swallowed like the worker does
            log.error("error downloading files: %s", err)

    def _list(self, bucket: str, prefix: str) -> Iterable[str]:
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from (item["Key"] for item in page.get("Contents", []))

    def _download_one(self, bucket: str, key: str, local: str, *, compressed: bool) -> None:
        try:
            zipped = compressed and key.endswith(".gz")
            path = inside(self._home, local.removesuffix(".gz") if zipped else local)
            path.parent.mkdir(parents=True, exist_ok=True)
            body = self._s3.get_object(Bucket=bucket, Key=key)["Body"]
            with path.open("wb") as file:  # in place: a download that breaks leaves what had come
                shutil.copyfileobj(gzip.GzipFile(fileobj=io.BufferedReader(body)) if zipped else body, file)
        except Exception as err:  # noqa: BLE001 - swallowed like the worker does
            log.error("download failed for %s: %s", key, err)

    def upload_folder(self, folder: Path, entry: dict[str, Any], *, compressed: bool) -> None:
        """All files below the folder, 20 at a time. The pattern sees the relative path."""
        try:
            names = [
                path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir()
            ]
            if entry.get("pattern"):
                names = [name for name in names if re.search(entry["pattern"], name)]
            log.info("%d files to upload to %s/%s", len(names), entry["bucket"], entry["prefix"])
            with ThreadPoolExecutor(BATCH) as pool:
                for name in names:
                    key = entry["prefix"] + name
                    pool.submit(self.upload, folder / name, entry["bucket"], key, compressed=compressed)
        except Exception as err:  # noqa: BLE001 - swallowed like the worker does
            log.error("error uploading %s: %s", folder.name, err)

    def upload(self, path: Path, bucket: str, key: str, *, compressed: bool) -> None:
        """One file, as long as it is at this moment."""
        try:
            extra = {"ContentType": mimetypes.guess_type(path.name)[0] or "application/octet-stream"}
            if compressed:
                data = io.BytesIO(gzip.compress(path.read_bytes()))
                extra["ContentEncoding"] = "gzip"
                self._s3.upload_fileobj(data, bucket, f"{key}.gz", ExtraArgs=extra, Config=PARTS)
            else:
                self._s3.upload_file(str(path), bucket, key, ExtraArgs=extra, Config=PARTS)
            log.info("uploaded %s", key)
        except Exception as err:  # noqa: BLE001 - swallowed like the worker does
            log.error("error uploading %s: %s", key, err)

    def delete(self, bucket: str, key: str) -> None:
        """One object."""
        try:
            self._s3.delete_object(Bucket=bucket, Key=key)
            log.info("deleted %s", key)
        except Exception as err:  # noqa: BLE001 - swallowed like the worker does
            log.error("error deleting %s: %s", key, err)


def purge(home: Path, local_path: str) -> None:
    """The folder is there afterwards, and empty: also one that no job had made."""
    try:
        folder = inside(home, local_path)
    except OutsideError as err:
        log.error("%s", err)
        return
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
