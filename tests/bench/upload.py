"""Uploading and fetching, against raw obstore (the limit), the recipe's way and s5cmd, on a real S3 server in memory."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import obstore
from obstore.store import S3Store
from pydantic import SecretStr

from flux_training.clients.bulk import MAX_WIDTH, FileToUpload, ObjectToDownload
from flux_training.clients.storage import Storage
from tests.bench.measure import Times, in_turns, table
from tests.bench.tools import BUCKET, KEY_ID, REGION, SECRET, S3Server, settings_of_aws

IMAGES, IMAGE_BYTES = 2000, 100_000
BIG_BYTES = 2_000_000_000
MAX_PROGRAM_SECONDS = 60
# Hashes each file again as it is sent, and verifies each that it fetches.
OURS = "ours"


def many(server: S3Server, tools: dict[str, Path], folder: Path, rounds: int, images: int = IMAGES) -> str:
    """2,000 images of 100 KB. Captions travel in our manifest; the others send 2,000 more files for them."""
    source = folder / "images"
    _make_images(source, images)
    paths = sorted(source.iterdir())
    outgoing = [
        FileToUpload(path, f"ours/{path.name}", IMAGE_BYTES, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in paths
        if path.suffix == ".jpg"
    ]
    storage = our_storage(server)

    def ours() -> None:
        storage.send_files(outgoing)
        storage.put_bytes("ours/manifest.json", b"x" * 150 * images)

    acts: dict[str, Callable[[], object]] = {
        OURS: ours,
        "raw obstore, the same files": lambda: asyncio.run(
            raw_obstore(server, [file.path for file in outgoing])
        ),
        "the recipe's way, captions too": lambda: recipe(server, paths),
    }
    if "s5cmd" in tools:
        acts["s5cmd cp"] = lambda: s5cmd(server, tools["s5cmd"], source)
    times = in_turns(acts, rounds)
    notes = {name: f"{images / found.median:.0f} images/s" for name, found in times.items()}
    return table(f"{images:,} images of {IMAGE_BYTES // 1000} KB", times, OURS, notes)


def fetching(server: S3Server, folder: Path, rounds: int) -> str:
    """Fetch the images that `many` has sent."""
    storage, target = our_storage(server), folder / "back"
    keys = [item.key for item in storage.list("ours/") if item.key.endswith(".jpg")]
    acts: dict[str, Callable[[], object]] = {
        OURS: lambda: storage.fetch_files([ObjectToDownload(key, target / key) for key in keys]),
        "raw obstore": lambda: asyncio.run(raw_fetch(server, keys, target / "raw")),
        "boto3, one after the other": lambda: [
            client(server).download_file(BUCKET, key, str(target / Path(key).name)) for key in keys[:200]
        ],
    }
    (target / "raw").mkdir(parents=True)
    times = in_turns(acts, rounds)
    one = times["boto3, one after the other"]
    times["boto3, one after the other"] = Times(tuple(t * len(keys) / 200 for t in one.rounds))
    note = {"boto3, one after the other": "measured on 200, times ten"}
    return table(f"Fetching {len(keys):,} images", times, OURS, note)


def one_big(server: S3Server, folder: Path, rounds: int, size: int = BIG_BYTES) -> str:
    """One file of 2 GB."""
    path = folder / "big"
    block = os.urandom(10_000_000)
    with path.open("wb") as file:
        for number in range(size // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    storage, whole = our_storage(server), FileToUpload(path, "ours/big", path.stat().st_size, sha256)
    times = in_turns(
        {
            OURS: lambda: storage.send_files([whole]),
            "raw obstore": lambda: obstore.put(raw_store(server), "raw/big", path),
        },
        rounds,
    )
    notes = {name: f"{size / found.median / 1e6:.0f} MB/s" for name, found in times.items()}
    path.unlink()
    return table(f"One file of {size / 1e9:.0f} GB", times, OURS, notes)


def our_storage(server: S3Server) -> Storage:
    return Storage(server.url, REGION, KEY_ID, SecretStr(SECRET), None, BUCKET)


def raw_store(server: S3Server) -> S3Store:
    options: Any = {"allow_http": True, "timeout": "300s"}
    return S3Store(
        BUCKET,
        endpoint=server.url,
        region=REGION,
        access_key_id=KEY_ID,
        secret_access_key=SECRET,
        client_options=options,
    )


async def raw_obstore(server: S3Server, paths: list[Path]) -> None:
    """put_async of paths as in its documentation, as many at a time as ours."""
    store, room = raw_store(server), asyncio.Semaphore(MAX_WIDTH)

    async def one(path: Path) -> None:
        async with room:
            await obstore.put_async(store, f"raw/{path.name}", path)

    await asyncio.gather(*map(one, paths))


async def raw_fetch(server: S3Server, keys: list[str], target: Path) -> None:
    store, room = raw_store(server), asyncio.Semaphore(MAX_WIDTH)

    async def one(key: str) -> None:
        async with room:
            answer = await obstore.get_async(store, key)
            (target / Path(key).name).write_bytes(await answer.bytes_async())

    await asyncio.gather(*map(one, keys))


def client(server: S3Server) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        region_name=REGION,
    )


def recipe(server: S3Server, paths: list[Path]) -> None:
    """prepare-and-queue-jobs.py of SaladTechnologies/salad-recipes: one thread a file, all at once, `upload_file` in each."""
    s3 = client(server)
    threads = [
        threading.Thread(target=s3.upload_file, args=(str(path), BUCKET, f"recipe/{path.name}"))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def s5cmd(server: S3Server, program: Path, source: Path) -> None:
    line = [str(program), "--log", "error", "cp", f"{source}/*.jpg", f"s3://{BUCKET}/s5/"]
    environment = {**os.environ, **settings_of_aws(server)}
    subprocess.run(line, env=environment, capture_output=True, check=True, timeout=MAX_PROGRAM_SECONDS)


def _make_images(folder: Path, count: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:05}.jpg").write_bytes(os.urandom(IMAGE_BYTES))
        (folder / f"{number:05}.txt").write_text(f"tr1gger, picture {number}\n", encoding="utf-8")
