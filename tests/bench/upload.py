"""Uploading and fetching, against raw obstore (the limit), the recipe's way, s5cmd and rclone, on a real S3 server in memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import obstore
from obstore.store import S3Store
from pydantic import SecretStr

from flux_training.clients import bulk
from flux_training.clients.bulk import MAX_WIDTH, PART_BYTES, Incoming, Outgoing
from flux_training.clients.storage import Storage
from tests.bench.measure import Times, in_turns, table
from tests.bench.tools import BUCKET, KEY_ID, REGION, SECRET, Server, settings_of_aws

IMAGES, IMAGE_BYTES = 2000, 100_000
BIG_BYTES = 2_000_000_000
# A program that has not copied the images by then is left out.
TRY_SECONDS = 60


def many(server: Server, tools: dict[str, Path], folder: Path, rounds: int, images: int = IMAGES) -> str:
    """2,000 images of 100 KB; captions travel in the manifest, so they are 2,000 more files for the others, and one for us."""
    source = folder / "images"
    _make_images(source, images)
    paths = sorted(source.iterdir())
    outgoing, hashing = _hashed([path for path in paths if path.suffix == ".jpg"])
    storage = our_storage(server)

    def ours() -> None:
        storage.send_files(outgoing)
        storage.put_bytes("ours/manifest.json", b"x" * 150 * images)

    def unchecked() -> None:
        with _reading_alone():
            ours()

    acts: dict[str, Callable[[], object]] = {
        "ours, transfer alone": unchecked,
        "ours, each file hashed again as it goes (the product)": ours,
        "raw obstore, the same files": lambda: asyncio.run(
            raw_obstore(server, [file.path for file in outgoing])
        ),
        "the recipe's way, captions too": lambda: recipe(server, paths),
    }
    acts |= _programs(server, tools, source)
    times = in_turns(acts, rounds)
    notes = {name: f"{images / found.median:.0f} images/s" for name, found in times.items()}
    ceiling = in_turns({"server": lambda: asyncio.run(empty_puts(server, images))}, 3)["server"]
    used = server.cpu_seconds()
    ours()
    used = server.cpu_seconds() - used
    return "\n".join(
        [
            table(
                f"{images:,} images of {IMAGE_BYTES // 1000} KB, transfer alone",
                times,
                "ours, transfer alone",
                notes,
            ),
            f"Hashing them beforehand (parallel, once; then remembered): {hashing:.3f} s. The server's own ceiling: "
            f"{images / ceiling.median:.0f} empty PUTs a second; of one of our rounds it used {used:.2f} s of CPU itself, "
            f"on {os.cpu_count()} cores shared with the clients.",
            "",
        ]
    )


def fetching(server: Server, folder: Path, rounds: int) -> str:
    """The images of `many` back again: `fetch` likewise."""
    storage, target = our_storage(server), folder / "back"
    keys = [item.key for item in storage.list("ours/") if item.key.endswith(".jpg")]
    acts: dict[str, Callable[[], object]] = {
        "ours (verified)": lambda: storage.fetch_files([Incoming(key, target / key) for key in keys]),
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
    return table(f"Fetching {len(keys):,} images", times, "ours (verified)", note)


def one_big(server: Server, folder: Path, rounds: int, size: int = BIG_BYTES) -> str:
    """One file of 2 GB."""
    path = folder / "big"
    block = os.urandom(10_000_000)
    with path.open("wb") as file:
        for number in range(size // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    storage, whole = our_storage(server), Outgoing(path, "ours/big", path.stat().st_size, sha256)

    def unchecked() -> None:
        with _reading_alone():
            storage.send_files([whole])

    times = in_turns(
        {
            "ours, transfer alone": unchecked,
            "ours, hashed again as it goes (the product)": lambda: storage.send_files([whole]),
            "raw obstore": lambda: obstore.put(raw_store(server), "raw/big", path),
        },
        rounds,
    )
    notes = {name: f"{size / found.median / 1e6:.0f} MB/s" for name, found in times.items()}
    path.unlink()
    return table(f"One file of {size / 1e9:.0f} GB", times, "ours, transfer alone", notes)


def our_storage(server: Server) -> Storage:
    return Storage(server.url, REGION, KEY_ID, SecretStr(SECRET), None, BUCKET)


@contextmanager
def _reading_alone() -> Iterator[None]:
    """The product's way without its second hash, which no other program here makes: hashing is printed apart."""
    checked = bulk._read, bulk._verified_parts
    bulk._read, bulk._verified_parts = lambda file: file.path.read_bytes(), _parts
    try:
        yield
    finally:
        bulk._read, bulk._verified_parts = checked


def _parts(file: Outgoing) -> Iterator[bytes]:
    with file.path.open("rb", buffering=0) as source:
        while part := source.read(PART_BYTES):
            yield part


def raw_store(server: Server) -> S3Store:
    options: Any = {"allow_http": True, "timeout": "300s"}
    return S3Store(
        BUCKET,
        endpoint=server.url,
        region=REGION,
        access_key_id=KEY_ID,
        secret_access_key=SECRET,
        client_options=options,
    )


async def raw_obstore(server: Server, paths: list[Path]) -> None:
    """As its documentation does it: put_async of paths, as many at a time as ours begins with."""
    store, room = raw_store(server), asyncio.Semaphore(MAX_WIDTH)

    async def one(path: Path) -> None:
        async with room:
            await obstore.put_async(store, f"raw/{path.name}", path)

    await asyncio.gather(*map(one, paths))


async def raw_fetch(server: Server, keys: list[str], target: Path) -> None:
    store, room = raw_store(server), asyncio.Semaphore(MAX_WIDTH)

    async def one(key: str) -> None:
        async with room:
            answer = await obstore.get_async(store, key)
            (target / Path(key).name).write_bytes(await answer.bytes_async())

    await asyncio.gather(*map(one, keys))


async def empty_puts(server: Server, count: int) -> None:
    """What the server can do at most: nothing to read, nothing to hash, nothing to write."""
    store, room = raw_store(server), asyncio.Semaphore(MAX_WIDTH)

    async def one(number: int) -> None:
        async with room:
            await obstore.put_async(store, f"empty/{number}", b"", use_multipart=False)

    await asyncio.gather(*map(one, range(count)))


def client(server: Server) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        region_name=REGION,
    )


def recipe(server: Server, paths: list[Path]) -> None:
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


def _programs(server: Server, tools: dict[str, Path], source: Path) -> dict[str, Callable[[], object]]:
    environment = {**os.environ, **settings_of_aws(server)}
    # rclone gives up over a bundle of certificates, and nothing here is encrypted.
    environment.pop("AWS_CA_BUNDLE", None)
    lines = {}
    if "s5cmd" in tools:
        lines["s5cmd cp"] = [
            str(tools["s5cmd"]),
            "--log",
            "error",
            "cp",
            f"{source}/*.jpg",
            f"s3://{BUCKET}/s5/",
        ]
    if "rclone" in tools:
        environment |= {
            "RCLONE_S3_PROVIDER": "Other",
            "RCLONE_S3_ENV_AUTH": "true",
            "RCLONE_S3_ENDPOINT": server.url,
        }
        # It makes the bucket first, which versitygw answers with 500 while objects come in.
        options = ["--s3-no-check-bucket", "--transfers", "32", "--no-check-dest", "--include", "*.jpg"]
        lines["rclone copy"] = [str(tools["rclone"]), "copy", *options, str(source), f":s3:{BUCKET}/rclone"]

    def run(line: list[str]) -> None:
        done = subprocess.run(
            line, env=environment, capture_output=True, text=True, check=False, timeout=TRY_SECONDS
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-500:])

    acts: dict[str, Callable[[], object]] = {}
    for name, line in lines.items():
        try:
            run(line)
            acts[name] = partial(run, line)
        except (RuntimeError, subprocess.TimeoutExpired) as failure:
            print(f"{name} is left out: {failure}")
    return acts


def _make_images(folder: Path, count: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:05}.jpg").write_bytes(os.urandom(IMAGE_BYTES))
        (folder / f"{number:05}.txt").write_text(f"tr1gger, picture {number}\n", encoding="utf-8")


def _hashed(paths: list[Path]) -> tuple[list[Outgoing], float]:
    from concurrent.futures import ThreadPoolExecutor
    from time import perf_counter

    begun = perf_counter()
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), paths))
    seconds = perf_counter() - begun
    outgoing = [
        Outgoing(path, f"ours/{path.name}", IMAGE_BYTES, digest)
        for path, digest in zip(paths, digests, strict=True)
    ]
    return outgoing, seconds
