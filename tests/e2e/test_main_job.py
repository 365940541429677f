"""The main job as a user sees it: `make up`, and what comes after it. Small jobs, real processes, no CLI."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from localcloud.testing import running_cloud
from safetensors.numpy import load_file

from components.dataset import dataset_urn
from flux_training.clients.connection import connect
from flux_training.clients.kelpie import Job
from tests.e2e.checkout import ROOT, Checkout, asked, new_checkout
from tests.support.files import readable
from tests.training.job_folders import make_job, write_image

LORA_KEY = re.compile(r"transformer\.(single_)?transformer_blocks\.\d+\..+\.lora_[AB]\.weight")


NO_CLI = pytest.mark.skipif(
    shutil.which("pulumi") is None, reason="no `pulumi` on the PATH: only the embedded engine is tried"
)


@pytest.fixture(params=["embedded", pytest.param("cli", marks=NO_CLI)])
def checkout(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Checkout]:
    with new_checkout(tmp_path / "checkout", engine=request.param) as fresh:
        yield fresh


def queue(checkout: Checkout) -> list[Job]:
    environ = {"FLUX_LOCAL_CLOUD": str(checkout.root / ".localcloud/connection.json")}
    return connect("local", {}, environ).kelpie().list_jobs()


def results(checkout: Checkout, job: str) -> Path:
    (run,) = (checkout.root / "outputs" / job).iterdir()
    return run


def runs_in_bucket(checkout: Checkout, job: str) -> set[str]:
    return {
        path.parent.parent.name for path in (checkout.bucket / "runs" / job).glob("*/model/*.safetensors")
    }


def assert_results_are_whole(run: Path, job: str) -> None:
    weights = load_file(run / f"{job}.safetensors")
    assert weights
    assert all(LORA_KEY.fullmatch(key) for key in weights)
    assert all(np.isfinite(tensor.astype(np.float32)).all() for tensor in weights.values())
    assert len(list((run / "samples").iterdir())) >= 2
    assert (run / "train.yml").is_file()
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["run_id"] == run.name
    assert record["kelpie"]["id"]
    assert record["kelpie"]["machine_id"]
    assert record["kelpie"]["num_heartbeats"] >= 0
    progress = json.loads((run / "progress.json").read_text(encoding="utf-8"))
    assert (progress["state"], progress["step"]) == ("finished", progress["steps"])


def test_the_example_jobs_learn(tmp_path: Path) -> None:
    """The two folders of jobs/ as they are: what the README's first command does."""
    with new_checkout(tmp_path / "checkout", cloud="--port 0") as checkout:
        shutil.rmtree(checkout.root / "jobs")
        shutil.copytree(ROOT / "jobs", checkout.root / "jobs")
        shutil.copy2(ROOT / "Pulumi.dev.yaml", checkout.root)
        checkout.make("up")
        names = ("chelsea-cat", "coffee-cup")
        for job in names:
            run = results(checkout, job)
            assert_results_are_whole(run, job)
            progress = json.loads((run / "progress.json").read_text(encoding="utf-8"))
            assert progress["loss_last"] < progress["loss_first"]
        one, other = (load_file(results(checkout, job) / f"{job}.safetensors") for job in names)
        assert (
            any(not np.array_equal(one[key], other[key]) for key in one.keys() & other.keys())
            or one.keys() != other.keys()
        )


def test_up_trains_and_a_second_up_does_nothing(checkout: Checkout) -> None:
    printed = checkout.make("up")
    for job in ("cat", "dog"):
        assert_results_are_whole(results(checkout, job), job)
        assert f"outputs/{job}/" in printed
    jobs = checkout.outputs()["jobs"]
    assert {name: job["status"] for name, job in jobs.items()} == {"cat": "completed", "dog": "completed"}
    assert {job.id for job in queue(checkout)} == {job["kelpieId"] for job in jobs.values()}

    before = len(checkout.requests())
    assert "10 unchanged" in checkout.make("up")
    since = checkout.requests()[before:]
    assert since
    assert asked(since, "kelpie", "POST") == []
    assert asked(since, "s3", "PUT") == []


def test_no_key_is_left_anywhere_it_does_not_belong(checkout: Checkout) -> None:
    printed = checkout.make("up") + checkout.make("preview") + checkout.make("refresh")
    connection = json.loads((checkout.root / ".localcloud/connection.json").read_text(encoding="utf-8"))
    keys = [connection["salad"]["api_key"], connection["s3"]["secret_access_key"]]
    places = [".pulumi", "outputs", ".localcloud/s3", ".localcloud/log", ".localcloud/requests.jsonl"]
    files = [
        path
        for place in places
        for path in [checkout.root / place, *(checkout.root / place).rglob("*")]
        if path.is_file()
    ]
    assert len(files) > 20
    for key in keys:
        assert key not in printed
        assert [str(path) for path in files if key.encode() in readable(path)] == []
        assert all(key not in json.dumps(job.model_dump(mode="json")) for job in queue(checkout))


def test_an_edited_caption_trains_that_job_alone_and_sends_no_image(checkout: Checkout) -> None:
    checkout.make("up")
    old_run = results(checkout, "cat").name
    (checkout.root / "jobs/cat/dataset/00002.txt").write_text("tr1gger, edited\n", encoding="utf-8")

    preview = checkout.make("preview")
    assert "1 to replace" in preview
    assert re.search(r"replace.*\n(.*\n){0,4}.*TrainingJob::cat", preview)
    assert "TrainingJob::dog" not in preview

    before = len(checkout.requests())
    checkout.make("up")
    since = checkout.requests()[before:]
    assert len(asked(since, "kelpie", "POST", "/jobs")) == 1
    assert asked(since, "s3", "PUT", "/datasets/") == []
    assert asked(since, "kelpie", "DELETE") == []
    assert {old_run} < runs_in_bucket(checkout, "cat")
    assert len(runs_in_bucket(checkout, "cat")) == 2
    assert len(runs_in_bucket(checkout, "dog")) == 1
    assert (checkout.root / "outputs/cat" / old_run / "cat.safetensors").is_file()


def test_a_replaced_image_is_the_only_one_sent(checkout: Checkout) -> None:
    checkout.make("up")
    write_image(checkout.root / "jobs/cat/dataset/00002.jpg", 77)
    assert "2 to replace" in checkout.make("preview")

    before = len(checkout.requests())
    checkout.make("up")
    since = checkout.requests()[before:]
    images = [
        entry
        for entry in since
        if entry["method"] == "PUT" and entry["path"].startswith("/flux-training/datasets/")
    ]
    assert [entry["path"].rsplit("/", 1)[1] for entry in images if entry["bytes_in"] > 0] == ["00002.jpg"]
    assert len(images) == 3
    assert len(asked(since, "kelpie", "POST", "/jobs")) == 1
    assert len(list((checkout.bucket / "datasets").iterdir())) == 2


def test_a_job_taken_out_goes_and_its_results_stay(checkout: Checkout) -> None:
    checkout.make("up")
    before = len(checkout.requests())
    checkout.declare(cat={})
    checkout.make("up")
    since = checkout.requests()[before:]
    assert asked(since, "kelpie", "DELETE", "/jobs/") == []
    assert {job.status for job in queue(checkout)} == {"completed"}
    assert sorted(checkout.outputs()["jobs"]) == ["cat"]
    assert not any(resource["urn"].endswith("::dog") for resource in checkout.resources())
    assert len(runs_in_bucket(checkout, "dog")) == 1


def test_destroy_leaves_the_results_and_up_takes_them_over(checkout: Checkout) -> None:
    checkout.make("up")
    printed = checkout.make("destroy")
    assert "s3://flux-training/runs/" in printed
    assert checkout.resources() == []
    environ = {"FLUX_LOCAL_CLOUD": str(checkout.root / ".localcloud/connection.json")}
    assert connect("local", {}, environ).salad().list_groups() == []
    assert len(runs_in_bucket(checkout, "cat")) == 1

    before = len(checkout.requests())
    checkout.make("up")
    assert asked(checkout.requests()[before:], "kelpie", "POST", "/jobs") == []
    assert {job["status"] for job in checkout.outputs()["jobs"].values()} == {"completed"}
    assert len(checkout.resources()) == 9
    # Where its progress is shown: a provider is not told its resource's name.
    urns = {resource["urn"] for resource in checkout.resources()}
    assert dataset_urn("flux-training/dev", "cat") in urns


def test_a_resumed_run_goes_on_from_the_newest_checkpoint_of_the_last(checkout: Checkout) -> None:
    checkout.declare(cat={})
    checkout.make("up")
    first = results(checkout, "cat").name
    train_yml = checkout.root / "jobs/cat/train.yml"
    train_yml.write_text(
        train_yml.read_text(encoding="utf-8").replace("steps: 20", "steps: 30"), encoding="utf-8"
    )
    checkout.declare(cat={"resume": True})
    assert f"goes on from step 20 of run {first}" in checkout.make("up")
    second = checkout.outputs()["jobs"]["cat"]["runId"]
    run = checkout.root / "outputs/cat" / second
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["parent"] == first
    steps = [
        int(line.split(",")[0]) for line in (run / "loss.csv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    assert min(steps) > 18
    assert max(steps) == 30
    assert "unchanged" in checkout.make("up")
    assert checkout.outputs()["jobs"]["cat"]["runId"] == second


def _posted(checkout: Checkout) -> bool:
    return bool(asked(checkout.requests(), "kelpie", "POST", "/jobs"))


def _uploading(checkout: Checkout) -> bool:
    return bool(asked(checkout.requests(), "s3", "PUT", "/datasets/"))


def _training(checkout: Checkout) -> bool:
    return any(checkout.bucket.glob("runs/*/*/output/progress.json"))


@pytest.mark.parametrize("moment", [_uploading, _posted, _training], ids=lambda moment: moment.__name__)
def test_killed_and_run_again_it_queues_each_run_once(
    checkout: Checkout, moment: Callable[[Checkout], bool]
) -> None:
    process = checkout.start("up")
    try:
        deadline = time.monotonic() + 120
        while not moment(checkout):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    checkout.make("up")
    runs = [job.environment["FLUX_RUN_ID"] for job in queue(checkout)]
    assert len(runs) == len(set(runs)) == 2
    for job in ("cat", "dog"):
        assert_results_are_whole(results(checkout, job), job)


BAD: dict[str, tuple[Callable[[Checkout], object], str]] = {
    "no train.yml": (lambda c: (c.root / "jobs/cat/train.yml").unlink(), "jobs/cat: no train.yml"),
    "another config.name": (
        lambda c: make_job(c.root / "jobs", "bird").rename(c.root / "jobs/fish") and c.declare(fish={}),
        "config.name is `bird`, but the folder is `fish`",
    ),
    "image without caption": (
        lambda c: (c.root / "jobs/cat/dataset/00001.txt").unlink(),
        "00001.txt: no caption for this image",
    ),
    "caption without image": (
        lambda c: (c.root / "jobs/dog/dataset/00001.jpg").unlink(),
        "a caption without an image",
    ),
    "unreadable image": (
        lambda c: (c.root / "jobs/dog/dataset/00001.jpg").write_text("x"),
        "00001.jpg: cannot be read as an image",
    ),
    "unknown key": (
        lambda c: c.configure("clutser", {"gpu": "RTX 5090"}),
        "unknown key (did you mean `cluster`?)",
    ),
}


@pytest.fixture(scope="module", params=["embedded", pytest.param("cli", marks=NO_CLI)])
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Checkout]:
    """One checkout and one cloud for all that is refused: nothing is made there."""
    with new_checkout(tmp_path_factory.mktemp("refused") / "checkout", engine=request.param) as fresh:
        shutil.copytree(fresh.root / "jobs", fresh.root.parent / "sound")
        yield fresh


@pytest.fixture
def refused(shared: Checkout) -> Checkout:
    """The shared checkout with sound jobs."""
    shutil.rmtree(shared.root / "jobs")
    shutil.copytree(shared.root.parent / "sound", shared.root / "jobs")
    shared.declare(cat={}, dog={})
    shared.configure("clutser", None)
    return shared


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_said_plainly_and_nothing_is_made(refused: Checkout, fault: str) -> None:
    spoil, words = BAD[fault]
    spoil(refused)
    for target in ("preview", "up"):
        printed = refused.make(target, code=2)
        assert words in printed
        assert "Traceback" not in printed
    assert [
        entry for entry in refused.requests() if entry["method"] in ("PUT", "POST", "PATCH", "DELETE")
    ] == []
    assert refused.resources() == []


def test_all_mistakes_are_told_at_once(refused: Checkout) -> None:
    (refused.root / "jobs/cat/train.yml").unlink()
    (refused.root / "jobs/dog/dataset/00001.txt").unlink()
    printed = refused.make("preview", code=2)
    assert "jobs/cat: no train.yml" in printed
    assert "00001.txt: no caption" in printed


def test_a_taken_port_is_named_with_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with new_checkout(tmp_path / "checkout", cloud=f"--port {port}") as checkout:
            printed = checkout.make("up", code=2)
    assert str(port) in printed
    assert "--port" in printed
    assert "Traceback" not in printed


def test_a_local_cloud_that_is_down_is_said_before_anything_is_tried(checkout: Checkout) -> None:
    checkout.make("up")
    checkout.make("down")
    for command in (("preview",), ("up", "--yes", "--skip-preview")):
        done = checkout.run_engine(*command)
        assert done.returncode == 1
        assert "the local cloud" in done.stdout + done.stderr
        assert "make cloud" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_a_stack_on_saladcloud_is_driven_by_the_same_command(tmp_path: Path) -> None:
    """`make up STACK=prod`, with the stand-ins' addresses and keys given as the real ones are: by the environment."""
    home = tmp_path / "elsewhere"
    with running_cloud(home, heartbeat_seconds=0.5) as cloud, new_checkout(tmp_path / "checkout") as checkout:
        keys = {
            "SALAD_API_URL": cloud["salad"]["url"],
            "KELPIE_API_URL": cloud["kelpie"]["url"],
            "SALAD_API_KEY": cloud["salad"]["api_key"],
            "SALAD_ORGANIZATION": cloud["salad"]["organization"],
            "SALAD_PROJECT": cloud["salad"]["project"],
            "FLUX_S3_ENDPOINT_URL": cloud["s3"]["url"],
            "FLUX_S3_ACCESS_KEY_ID": cloud["s3"]["access_key_id"],
            "FLUX_S3_SECRET_ACCESS_KEY": cloud["s3"]["secret_access_key"],
            "PULUMI_CONFIG_PASSPHRASE": "correct horse",
            "STACK": "prod",
        }
        prod = replace(checkout, environment={**checkout.environment, **keys})
        text = (
            (prod.root / "Pulumi.dev.yaml")
            .read_text(encoding="utf-8")
            .replace("cloud: local", "cloud: salad")
        )
        without_salt = [line for line in text.splitlines() if not line.startswith("encryptionsalt")]
        (prod.root / "Pulumi.prod.yaml").write_text("\n".join(without_salt), encoding="utf-8")

        no_passphrase = replace(
            prod, environment={k: v for k, v in prod.environment.items() if k != "PULUMI_CONFIG_PASSPHRASE"}
        )
        assert "PULUMI_CONFIG_PASSPHRASE" in no_passphrase.make("up", code=2)
        no_key = replace(
            prod, environment={k: v for k, v in prod.environment.items() if k != "SALAD_API_KEY"}
        )
        assert "SALAD_API_KEY is missing" in no_key.make("up", code=2)
        assert not (prod.root / ".localcloud").exists()

        printed = prod.make("up")
        for job in ("cat", "dog"):
            assert_results_are_whole(results(prod, job), job)
        assert not (prod.root / ".localcloud").exists()
        files = [path for path in (prod.root / ".pulumi").rglob("*") if path.is_file()]
        for secret in (keys["SALAD_API_KEY"], keys["FLUX_S3_SECRET_ACCESS_KEY"]):
            assert secret not in printed
            assert [str(path) for path in files if secret.encode() in readable(path)] == []
        wrong = replace(prod, environment={**prod.environment, "SALAD_PROJECT": "another"})
        assert "this stack lives in" in wrong.make("refresh", code=2)
        prod.make("destroy")
