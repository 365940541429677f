"""`make up` and what follows it, with small jobs and real processes."""

import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from localcloud import lifecycle
from localcloud.home import Home
from localcloud.testing import running_cloud
from safetensors.numpy import load_file

from components.dataset import dataset_urn
from flux_training.clients.connection import Connection, connect
from flux_training.clients.kelpie import Job
from tests.e2e.checkout import ROOT, Checkout, asked, new_checkout
from tests.support.files import readable
from tests.training.job_folders import make_job, write_image

LORA_KEY = re.compile(r"transformer\.(single_)?transformer_blocks\.\d+\..+\.lora_[AB]\.weight")


def connection_to(checkout: Checkout) -> Connection:
    return connect("local", {}, {"FLUX_LOCAL_CLOUD": str(checkout.root / ".localcloud/connection.json")})


def queue(checkout: Checkout) -> list[Job]:
    return connection_to(checkout).kelpie().list_jobs()


def results(checkout: Checkout, job: str, stack: str = "dev") -> Path:
    (run,) = (checkout.root / "outputs" / stack / job).iterdir()
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


@pytest.mark.long
def test_the_example_jobs_learn(tmp_path: Path) -> None:
    """The two folders of jobs/ as they are: what the README's first command trains."""
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


def test_up_trains_and_a_second_up_does_nothing(first_up: tuple[Checkout, str], trained: Checkout) -> None:
    printed = first_up[1]
    jobs = trained.outputs()["jobs"]
    for name, job in jobs.items():
        assert_results_are_whole(trained.root / "outputs/dev" / name / job["runId"], name)
        assert f"outputs/dev/{name}/{job['runId']}" in printed
    assert {name: job["status"] for name, job in jobs.items()} == {"cat": "completed", "dog": "completed"}
    assert {job["kelpieId"] for job in jobs.values()} <= {job.id for job in queue(trained)}

    before = len(trained.requests())
    assert "10 unchanged" in trained.make("up")
    since = trained.requests()[before:]
    assert since
    assert asked(since, "kelpie", "POST") == []
    assert asked(since, "s3", "PUT") == []


@pytest.mark.long
def test_no_key_is_printed_or_stored(first_up: tuple[Checkout, str], trained: Checkout) -> None:
    printed = first_up[1] + trained.make("preview") + trained.make("refresh")
    connection = json.loads((trained.root / ".localcloud/connection.json").read_text(encoding="utf-8"))
    keys = [connection["salad"]["api_key"], connection["s3"]["secret_access_key"]]
    places = [".pulumi", "outputs", ".localcloud/s3", ".localcloud/log", ".localcloud/requests.jsonl"]
    files = [
        path
        for place in places
        for path in [trained.root / place, *(trained.root / place).rglob("*")]
        if path.is_file()
    ]
    assert len(files) > 20
    for key in keys:
        assert key not in printed
        assert [str(path) for path in files if key.encode() in readable(path)] == []
        assert all(key not in json.dumps(job.model_dump(mode="json")) for job in queue(trained))


@pytest.mark.long
def test_only_edited_jobs_are_trained_again(trained: Checkout) -> None:
    """A caption of one job, an image of the other; then one of them is taken out."""
    old = {name: job["runId"] for name, job in trained.outputs()["jobs"].items()}
    (trained.root / "jobs/cat/dataset/00002.txt").write_text("tr1gger, edited\n", encoding="utf-8")
    preview = trained.make("preview")
    assert "1 to replace" in preview
    assert re.search(r"replace.*\n(.*\n){0,4}.*TrainingJob::cat", preview)
    assert "TrainingJob::dog" not in preview
    assert "--outputs:--" not in preview
    write_image(trained.root / "jobs/dog/dataset/00002.jpg", 77)
    assert "3 to replace" in trained.make("preview")

    before = len(trained.requests())
    trained.make("up")
    since = trained.requests()[before:]
    assert len(asked(since, "kelpie", "POST", "/jobs")) == 2
    assert asked(since, "kelpie", "DELETE") == []
    images = [
        entry
        for entry in since
        if entry["method"] == "PUT" and entry["path"].startswith("/flux-training/datasets/")
    ]
    # The others are copied inside the bucket.
    assert [entry["path"].rsplit("/", 1)[1] for entry in images if entry["bytes_in"] > 0] == ["00002.jpg"]
    assert len(images) == 3
    for job, run in old.items():
        assert {run} < runs_in_bucket(trained, job)
        assert (trained.root / "outputs/dev" / job / run / f"{job}.safetensors").is_file()

    before = len(trained.requests())
    trained.declare(cat={})
    trained.make("up")
    assert asked(trained.requests()[before:], "kelpie", "DELETE", "/jobs/") == []
    assert {job.status for job in queue(trained)} == {"completed"}
    assert sorted(trained.outputs()["jobs"]) == ["cat"]
    assert not any(resource["urn"].endswith("::dog") for resource in trained.resources())
    assert old["dog"] in runs_in_bucket(trained, "dog")


@pytest.mark.long
def test_destroy_leaves_the_results_and_up_adopts_them(trained: Checkout) -> None:
    runs = runs_in_bucket(trained, "cat")
    printed = trained.make("destroy")
    assert "s3://flux-training/runs/" in printed
    assert trained.resources() == []
    assert connection_to(trained).salad().list_groups() == []
    assert runs_in_bucket(trained, "cat") == runs

    before = len(trained.requests())
    trained.make("up")
    assert asked(trained.requests()[before:], "kelpie", "POST", "/jobs") == []
    assert {job["status"] for job in trained.outputs()["jobs"].values()} == {"completed"}
    assert len(trained.resources()) == 9
    # Progress is reported under this URN: a provider does not know its resource's name.
    urns = {resource["urn"] for resource in trained.resources()}
    assert dataset_urn("flux-training/dev", "cat") in urns


@pytest.mark.long
def test_a_resumed_run_continues_from_the_newest_checkpoint_of_the_previous_one(trained: Checkout) -> None:
    train_yml = make_job(trained.root / "jobs", "owl", seed=3) / "train.yml"
    trained.declare(owl={})
    trained.make("up")
    first = results(trained, "owl").name
    text = train_yml.read_text(encoding="utf-8")
    train_yml.write_text(text.replace("steps: 20", "steps: 30"), encoding="utf-8")
    trained.declare(owl={"resume": True})
    assert f"continues from step 20 of run {first}" in trained.make("up")
    second = trained.outputs()["jobs"]["owl"]["runId"]
    run = trained.root / "outputs/dev/owl" / second
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["parent"] == first
    rows = (run / "loss.csv").read_text(encoding="utf-8").splitlines()[1:]
    steps = [int(row.split(",")[0]) for row in rows]
    assert min(steps) > 18
    assert max(steps) == 30
    assert "unchanged" in trained.make("up")
    assert trained.outputs()["jobs"]["owl"]["runId"] == second


def _posted(checkout: Checkout) -> bool:
    return bool(asked(checkout.requests(), "kelpie", "POST", "/jobs"))


def _uploading(checkout: Checkout) -> bool:
    return bool(asked(checkout.requests(), "s3", "PUT", "/datasets/"))


def _training(checkout: Checkout) -> bool:
    return any(checkout.bucket.glob("runs/*/*/output/progress.json"))


@pytest.mark.long
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


@pytest.mark.long
def test_all_mistakes_are_listed_and_nothing_is_created(checkout: Checkout) -> None:
    jobs = checkout.root / "jobs"
    make_job(jobs, "bird").rename(jobs / "fish")
    for name in ("cow", "hen", "pig"):
        make_job(jobs, name)
    (jobs / "cat/train.yml").unlink()
    (jobs / "dog/dataset/00001.txt").unlink()
    (jobs / "cow/dataset/00001.jpg").unlink()
    (jobs / "hen/dataset/00001.jpg").write_text("x")
    checkout.declare(cat={}, dog={}, fish={}, cow={}, hen={}, pig={})
    for target in ("preview", "up"):
        printed = checkout.make(target, code=2)
        for message in (
            "jobs/cat: no train.yml",
            "00001.txt: no caption for this image",
            "config.name is `bird`, but the folder is `fish`",
            "a caption without an image",
            "00001.jpg: cannot be read as an image",
        ):
            assert message in printed
        assert "Traceback" not in printed
    checkout.configure("clutser", {"gpu": "RTX 5090"})
    assert "unknown key (did you mean `cluster`?)" in checkout.make("preview", code=2)
    assert [entry for entry in checkout.requests() if entry["method"] != "GET"] == []
    assert checkout.resources() == []


def test_an_occupied_port_is_reported_with_a_fix(tmp_path: Path, virtualenv: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with new_checkout(tmp_path / "checkout", cloud=f"--port {port}", virtualenv=virtualenv) as checkout:
            printed = checkout.make("up", code=2)
    assert str(port) in printed
    assert "--port" in printed
    assert "Traceback" not in printed


@pytest.mark.long
def test_the_program_starts_a_stopped_local_cloud(trained: Checkout) -> None:
    trained.make("down")
    assert "local cloud running" in trained.engine("preview")
    assert lifecycle.cloud_status(Home(trained.root / ".localcloud"))["pid"]


@pytest.mark.long
def test_the_same_commands_work_for_a_stack_on_saladcloud(tmp_path: Path) -> None:
    """`make up STACK=prod`; the environment gives the addresses and keys of a local cloud in place of the real ones."""
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
            "YES": "1",
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

        no_yes = replace(prod, environment={k: v for k, v in prod.environment.items() if k != "YES"})
        assert "`make up YES=1 STACK=prod` does not ask" in no_yes.make("up", code=2)

        printed = prod.make("up")
        for job in ("cat", "dog"):
            assert_results_are_whole(results(prod, job, "prod"), job)
        assert not (prod.root / ".localcloud").exists()
        files = [path for path in (prod.root / ".pulumi").rglob("*") if path.is_file()]
        for secret in (keys["SALAD_API_KEY"], keys["FLUX_S3_SECRET_ACCESS_KEY"]):
            assert secret not in printed
            assert [str(path) for path in files if secret.encode() in readable(path)] == []
        wrong = replace(prod, environment={**prod.environment, "SALAD_PROJECT": "another"})
        assert "this stack lives in" in wrong.make("refresh", code=2)
        prod.make("destroy")
