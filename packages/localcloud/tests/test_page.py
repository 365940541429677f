"""The web page: its content, its escaping, and its rendering in a browser."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from group_body import group_body, job_body
from localcloud.testing import kelpie_client, run_localcloud, running_cloud, s3_client, salad_client
from localcloud.web.job_outputs import read_outputs
from localcloud.web.page import describe_progress
from PIL import Image

HOSTILE = "<script>alert(1)</script>"


@dataclass
class Shown:
    """A cloud with a group and two jobs. The first job has losses and samples."""

    page: str
    job: str
    home: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    home = tmp_path_factory.mktemp("page") / "cloud"
    with (
        running_cloud(home, nodes=0) as connection,
        salad_client(connection) as salad,
        kelpie_client(connection) as kelpie,
    ):
        group = salad.post("/containers", json=group_body("on-the-page", autostart_policy=False)).json()["id"]
        fill_bucket(connection)
        job = kelpie.post("/jobs", json=traced_job(group, "cat", "runs/cat/1/output/")).json()["id"]
        kelpie.post("/jobs", json=traced_job(group, HOSTILE, "../../")).raise_for_status()
        assert run_localcloud(home, "chaos", "bad-gpu").returncode == 0
        yield Shown(connection["page"], job, home)


def traced_job(group: str, name: str, prefix: str) -> dict[str, Any]:
    during = [{"bucket": "bkt", "prefix": prefix, "local_path": "output/", "direction": "upload"}]
    environment = {"FLUX_JOB": name, "FLUX_RUN_ID": "0123456789ab"}
    return job_body(group, environment=environment, sync={"during": during})


def fill_bucket(connection: dict[str, Any]) -> None:
    s3 = s3_client(connection)
    s3.create_bucket(Bucket="bkt")
    progress = {
        "state": "training",
        "step": 30,
        "steps": 300,
        "loss": 0.5,
        "loss_smoothed": 0.75,
        "loss_steps": 30,
    }
    losses = (
        "step,loss\n" + "".join(f"{step},{1 / step}\n" for step in range(1, 1001)) + "1001,nan\nnonsense\n"
    )
    picture = Path(connection["request_log"]).parent / "picture.jpg"
    Image.new("RGB", (8, 8), "red").save(picture)
    for name, content in {
        "progress.json": json.dumps(progress).encode(),
        "loss.csv": losses.encode(),
        "samples/1__000000010_0.jpg": picture.read_bytes(),
        "samples/2__000000020_0.jpg": picture.read_bytes(),
        "samples/note.txt": b"x",
    }.items():
        s3.put_object(Bucket="bkt", Key=f"runs/cat/1/output/{name}", Body=content)


def test_the_page_shows_groups_nodes_queue_cost_loss_and_samples(shown: Shown) -> None:
    page = httpx.get(shown.page).text
    for text in ("on-the-page", "RTX 5090", "stopped", "Cost so far", "$0.0000", "Nodes", "Queue"):
        assert text in page
    for text in (
        "cat",
        "0123456789ab",
        "step 30 of 300",
        "loss (mean of 30 steps) 0.7500",
        "to 1000",
        "2 pending",
    ):
        assert text in page
    assert "<polyline" in page
    assert "Active faults: bad-gpu" in page
    for number in (1, 2):
        url = f"/samples/{shown.job}/{number}__0000000{number}0_0.jpg"
        assert url in page
        assert httpx.get(shown.page + url[1:]).headers["content-type"] == "image/jpeg"
    assert "note.txt" not in page


def test_the_page_escapes_values_and_serves_no_other_files(shown: Shown) -> None:
    answer = httpx.get(shown.page)
    assert HOSTILE not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http" not in answer.text.replace("http-equiv", "")
    for name in ("note.txt", "..%2F..%2Floss.csv", "..%2fprogress.json", "none.jpg"):
        assert httpx.get(f"{shown.page}samples/{shown.job}/{name}").status_code == 404
    assert httpx.get(f"{shown.page}samples/none/1.jpg").status_code == 404


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("running", "training, step 189 of 300, 40 s left"),
        ("canceled", "step 189 of 300"),
        ("pending", "step 189 of 300"),
    ],
)
def test_a_card_says_what_the_trainer_does_only_while_the_job_runs(status: str, text: str) -> None:
    progress = {"state": "training", "step": 189, "steps": 300, "eta_seconds": 40}
    found = describe_progress(progress, status)
    assert found is not None
    assert found["text"] == text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_the_page_is_not_shown_under_another_name(shown: Shown, host: str) -> None:
    """A name of another site may be made to lead to this address: that site's pages must not read it."""
    for path in ("", f"samples/{shown.job}/1__000000010_0.jpg"):
        assert httpx.get(shown.page + path, headers={"Host": host}).status_code == 400
        assert httpx.get(shown.page + path, headers={"Host": "localhost"}).status_code == 200


def test_other_sites_are_refused(shown: Shown) -> None:
    for path in ("", f"samples/{shown.job}/1__000000010_0.jpg"):
        for origin in ("http://evil.example", "null", "https://127.0.0.1"):
            assert httpx.get(shown.page + path, headers={"Origin": origin}).status_code == 403
        own = httpx.get(shown.page + path, headers={"Origin": shown.page.rstrip("/")})
        assert own.status_code == 200
        assert own.headers["cross-origin-resource-policy"] == "same-origin"
        assert own.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in own.headers["content-security-policy"]


@pytest.mark.parametrize(
    "progress",
    [
        b"[" * 100_000,
        b'{"step": NaN, "steps": Infinity}',
        b'{"step": ' + b"9" * 4000 + b', "steps": 20, "loss_smoothed": 1e308}',
        b'{"step": 1, "steps": 20, "eta_seconds": 1e300, "message": "\\ud800"}',
        b'{"step": 1, "steps": 20, "message": "' + b"x" * 2_000_000 + b'"}',
        b'{"step": true, "steps": 20, "loss_smoothed": [1], "loss_steps": "2", "message": {}}',
        b"\xff",
    ],
)
def test_the_page_survives_what_a_job_writes(progress: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "bkt" / "runs"
    folder.mkdir(parents=True)
    (folder / "progress.json").write_bytes(progress)
    (folder / "loss.csv").write_bytes(b"1,1e308\n2,nan\n" + b"9" * 5000 + b",1\n\xff\n3,0.5\n4,0.25\n")
    body = {"sync": {"during": [{"bucket": "bkt", "prefix": "runs/"}]}}
    outputs = read_outputs(body, tmp_path)
    assert outputs.losses == [(3, 0.5), (4, 0.25)]
    assert all(len(str(value)) <= 1000 for value in outputs.progress.values())
