"""Downloads through a proxy that breaks them: each run goes on by itself, or ends with a clear reason."""

import errno
import hashlib
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest

from flux_training.node.launcher import downloads, retries
from flux_training.node.launcher.bucket import BucketClient, BucketError, Timeouts
from flux_training.node.launcher.downloads import Download, DownloadBatch
from flux_training.node.launcher.errors import ExitCode, RunEndedError
from flux_training.node.launcher.retries import RetryingBucket
from flux_training.node.launcher.signing import SigningKeys
from tests.node.fake_trainer import weights
from tests.node.fault_proxy import DownloadFault, FaultProxy, ProxiedRequest
from tests.node.runs import Node
from tests.node.storage import ACCESS_KEY_ID, SECRET_ACCESS_KEY, folder_storage
from tests.node.test_odd_answers import ODD_ANSWERS

GOOD = ("steps:8-20", "final:20")
ONLY_IMAGES = {DownloadFault.WRONG}  # a checkpoint with wrong bytes is not used
# test_odd_answers.py tries these within milliseconds.
WHOLE_STARTS = [
    pytest.param(fault, id=fault.name, marks=[pytest.mark.long] if fault in ODD_ANSWERS else [])
    for fault in DownloadFault
]


def first_time(fault: DownloadFault) -> Callable[[ProxiedRequest], DownloadFault | None]:
    """Each request meets the fault once."""

    def fault_for(request: ProxiedRequest) -> DownloadFault | None:
        is_image = request.path.endswith(".jpg")
        return fault if request.number == 1 and (is_image or fault not in ONLY_IMAGES) else None

    return fault_for


def always(fault: DownloadFault, suffix: str) -> Callable[[ProxiedRequest], DownloadFault | None]:
    return lambda request: fault if request.path.endswith(suffix) else None


def interrupted_run(home: Path, **limits: float) -> Node:
    """A node for a run with a checkpoint in the bucket."""
    node = Node(home, *GOOD, **limits)
    (node.stored / "job_000000008.safetensors").write_bytes(weights(8, (0.5,) * 400))
    return node


@pytest.mark.parametrize("fault", WHOLE_STARTS)
def test_a_fault_that_passes_delays_the_run_and_does_not_fail_it(
    fault: DownloadFault, tmp_path: Path
) -> None:
    node = interrupted_run(tmp_path, read_seconds=0.3, download_attempts=8)
    with FaultProxy(node.storage.url, first_time(fault)) as proxy:
        result = node.run(AWS_ENDPOINT_URL=proxy.url)
    assert (result.code, result.progress["state"], result.progress["begun"]) == (0, "finished", [8, 1]), (
        result.out
    )
    print(f"{fault.name}: {result.progress['download_seconds']} GPU seconds for downloads")


@pytest.mark.parametrize("fault", WHOLE_STARTS)
def test_a_fault_that_stays_ends_the_start_as_a_counted_failure(fault: DownloadFault, tmp_path: Path) -> None:
    node = interrupted_run(tmp_path, read_seconds=0.3, download_attempts=2)
    with FaultProxy(node.storage.url, always(fault, "00002.jpg")) as proxy:
        result = node.run(AWS_ENDPOINT_URL=proxy.url)
    assert (result.code, result.progress["state"]) == (ExitCode.FILES_MISSING, "failed"), result.out
    assert "cannot be downloaded: dataset/00002.jpg: " in result.progress["message"]


def test_a_slow_download_ends_when_its_time_is_over(tmp_path: Path) -> None:
    node = interrupted_run(tmp_path, download_minutes=0.02)
    with FaultProxy(node.storage.url, always(DownloadFault.STALL, "00002.jpg")) as proxy:
        result = node.run(AWS_ENDPOINT_URL=proxy.url)
    assert result.code == ExitCode.FILES_MISSING, result.out
    assert "the time for downloads is over: downloading: 1 of 2 files" in result.progress["message"]


@pytest.mark.parametrize("suffix", ["00002.jpg", "progress.json", "job_000000008.safetensors"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_job_that_is_stopped_during_a_download_dies_by_that_signal(
    signum: signal.Signals, suffix: str, tmp_path: Path
) -> None:
    node = interrupted_run(tmp_path, read_seconds=20)
    with FaultProxy(node.storage.url, always(DownloadFault.STALL, suffix)) as proxy:
        if suffix == "progress.json":
            (node.stored / suffix).write_text("{}")
        process = node.start(AWS_ENDPOINT_URL=proxy.url)
        while not any(request.path.endswith(suffix) for request in list(proxy.requests)):
            time.sleep(0.01)
        process.send_signal(signum)
        started = time.monotonic()
        assert process.wait(20) == -signum
    assert time.monotonic() - started < 3


# ---- one object at a time


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bucket of the S3 server, and no pauses between tries."""
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.0)
    path = folder_storage().root / f"download-{time.monotonic_ns()}"
    path.mkdir()
    return path


def client(bucket: Path, url: str = "", read_seconds: float = 10) -> BucketClient:
    keys = SigningKeys(ACCESS_KEY_ID, SECRET_ACCESS_KEY)
    return BucketClient(url or folder_storage().url, bucket.name, "auto", keys, Timeouts(5, read_seconds))


def fetch(bucket: Path, url: str, wanted: list[Download], attempts: int = 5, seconds: float = 20) -> None:
    batch = DownloadBatch(client(bucket, url, 0.5), wanted, attempts)
    batch.run(time.monotonic() + seconds, lambda _progress: None)


@pytest.mark.parametrize("fault", [DownloadFault.CUT, DownloadFault.RESET, DownloadFault.STALL])
def test_a_broken_download_is_resumed_where_it_broke(
    fault: DownloadFault, bucket: Path, tmp_path: Path
) -> None:
    data = os.urandom(3_000_000)
    (bucket / "big").write_bytes(data)
    wanted = Download("big", tmp_path / "big", len(data), hashlib.sha256(data).hexdigest())
    with FaultProxy(folder_storage().url, lambda request: fault if request.number < 4 else None) as proxy:
        fetch(bucket, proxy.url, [wanted])
    assert (tmp_path / "big").read_bytes() == data
    assert [request.range for request in proxy.requests][1] == "bytes=1500000-"
    assert proxy.sent_bytes <= len(data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big"]


def test_a_download_that_breaks_after_its_last_byte_is_complete(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of nothing cannot be asked for: S3 answers 416. An answer whose last bytes come too slowly breaks like this."""
    (bucket / "object").write_bytes(b"x" * 100)
    write = downloads.PartialFile.write

    def write_and_break(partial: downloads.PartialFile, chunk: bytes) -> None:
        write(partial, chunk)
        raise BucketError("only 100 bytes in 60 s", retryable=True)

    monkeypatch.setattr(downloads.PartialFile, "write", write_and_break)
    fetch(bucket, "", [Download("object", tmp_path / "object", 100)])
    assert (tmp_path / "object").read_bytes() == b"x" * 100


def test_an_object_that_changes_during_a_download_is_fetched_anew(bucket: Path, tmp_path: Path) -> None:
    old, new = b"a" * 100_000, b"b" * 100_000
    (bucket / "object").write_bytes(old)

    def fault_for(request: ProxiedRequest) -> DownloadFault | None:
        if request.number == 2:
            (bucket / "object").write_bytes(new)
            os.utime(bucket / "object", (1, 1))  # the server's ETag is made of size and time
        return DownloadFault.CUT if request.number == 1 else None

    with FaultProxy(folder_storage().url, fault_for) as proxy:
        fetch(bucket, proxy.url, [Download("object", tmp_path / "object", len(new))])
    assert (tmp_path / "object").read_bytes() == new


def test_many_files_come_several_at_a_time_and_with_bounded_memory(bucket: Path, tmp_path: Path) -> None:
    names = [f"{number:03}" for number in range(60)]
    for name in names:
        (bucket / name).write_bytes(name.encode() * 100)
    wanted = [Download(name, tmp_path / name, 300) for name in names]
    seen = []
    with FaultProxy(folder_storage().url, lambda _request: None) as proxy:
        batch = DownloadBatch(client(bucket, proxy.url), wanted, 3)
        batch.run(time.monotonic() + 20, seen.append)
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert str(batch.progress) == "downloading: 60 of 60 files, 0.0 of 0.0 MB"
    assert all(0 <= progress.files <= 60 for progress in seen)


def test_an_empty_object_needs_no_bytes(bucket: Path, tmp_path: Path) -> None:
    (bucket / "empty").write_bytes(b"")
    fetch(bucket, "", [Download("empty", tmp_path / "empty", 0, hashlib.sha256(b"").hexdigest())])
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_full_disk_during_a_download_is_reported_as_such(bucket: Path, tmp_path: Path) -> None:
    (bucket / "object").write_bytes(b"x")
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        mock.patch.object(downloads.PartialFile, "write", side_effect=full),
        pytest.raises(RunEndedError, match="No space left") as caught,
    ):
        fetch(bucket, "", [Download("object", tmp_path / "object", 1)])
    assert caught.value.code == ExitCode.DISK_FULL


def test_a_folder_that_cannot_be_written_is_reported_as_such(bucket: Path) -> None:
    (bucket / "object").write_bytes(b"x")
    with pytest.raises(RunEndedError) as caught:
        fetch(bucket, "", [Download("object", Path("/proc/self/object"), 1)])
    assert caught.value.code in (ExitCode.NOT_WRITABLE, ExitCode.NODE_UNUSABLE)


# ---- the client


@pytest.mark.parametrize("prefix", ["plain/", "a b+c/é/", "~tilde/(x)&='\"/", "日本/"])
def test_odd_keys_are_signed_listed_read_and_deleted(prefix: str, bucket: Path) -> None:
    for number in range(3):
        path = bucket / prefix / f"{number} +&.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    store = RetryingBucket(client(bucket), 2)
    found = store.list_objects(prefix)
    assert [item.key for item in found] == [f"{prefix}{number} +&.txt" for number in range(3)]
    assert [store.get_bytes(item.key, 10) for item in found] == [b"0", b"1", b"2"]
    store.delete(found[0].key)
    assert store.get_bytes(found[0].key, 10) is None


def test_a_long_listing_comes_in_pages_and_has_an_end(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1100):
        (bucket / f"{number:04}").touch()
    store = RetryingBucket(client(bucket), 2)
    assert [item.key for item in store.list_objects("")] == [f"{number:04}" for number in range(1100)]
    monkeypatch.setattr(retries, "MAX_LISTED", 1050)
    assert len(store.list_objects("")) == 1050


def test_an_object_that_is_larger_than_expected_is_not_read(bucket: Path) -> None:
    (bucket / "large").write_bytes(bytes(1000))
    with pytest.raises(BucketError, match="more than 999"):
        RetryingBucket(client(bucket), 2).get_bytes("large", 999)


@pytest.mark.parametrize("request_of", [RetryingBucket.list_objects, RetryingBucket.delete])
def test_a_request_whose_headers_never_end_is_tried_again(
    request_of: Callable[[RetryingBucket, str], object], bucket: Path
) -> None:
    """No time-out of the socket ends it: each byte comes in time."""
    (bucket / "object").write_bytes(b"x")

    def slow(request: ProxiedRequest) -> DownloadFault | None:
        return DownloadFault.SLOW_HEADERS if request.number == 1 else None

    with FaultProxy(folder_storage().url, slow) as proxy:
        request_of(RetryingBucket(client(bucket, proxy.url), 2, max_seconds=0.5), "object")
        assert [request.number for request in proxy.requests] == [1, 2]
        with pytest.raises(BucketError, match=r"no whole answer within 0\.5 s"):
            RetryingBucket(client(bucket, proxy.url), 1, max_seconds=0.5).get_bytes("another", 10)


def test_the_error_of_most_tries_is_reported(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.01)

    def last_is_busy(request: ProxiedRequest) -> DownloadFault:
        return DownloadFault.UNAVAILABLE if request.number == 3 else DownloadFault.FORBIDDEN

    with (
        FaultProxy(folder_storage().url, last_is_busy) as proxy,
        pytest.raises(BucketError, match="403 AccessDenied"),
    ):
        RetryingBucket(client(bucket, proxy.url), 3).get_bytes("object", 10)


def test_a_wrong_clock_is_corrected_by_the_servers(bucket: Path) -> None:
    """S3 refuses a signature that is 15 minutes off; games turn clocks back."""
    (bucket / "object").write_bytes(b"x")
    store = client(bucket)
    store._clock_offset = timedelta(hours=-5)
    assert RetryingBucket(store, 2).get_bytes("object", 10) == b"x"
