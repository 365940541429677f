"""Trainings with faults on nodes, unattended: against the local cloud, or the real Kelpie API and worker (conftest.py)."""

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from localcloud.chaos.plan import Faults
from localcloud.chaos.proxy import Exchange, Proxy
from localcloud.testing import salad_client, wait_until
from node_jobs import running_group

from flux_training.clients.connection import connect
from flux_training.clients.errors import ServiceError
from flux_training.commands.watch.follow import queue_silent_again
from flux_training.commands.watch.watcher import Watcher
from flux_training.training.runs.handout import MAX_REQUEUES, HandOutState
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from tests.node.fault_proxy import DownloadFault, FaultProxy, ProxiedRequest, at_random
from tests.node.runs import RUN_ID, picture
from tests.real.training import (
    NodeServices,
    Patience,
    kill_node,
    node_variables,
    post,
    stack_outputs,
    training,
    upload,
)

# The waits have limits of their own, which count from the last progress.
pytestmark = pytest.mark.timeout(1200)
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
BREAKS = {"cut": DownloadFault.CUT, "stall": DownloadFault.STALL, "reset": DownloadFault.RESET}


@pytest.fixture(scope="session")
def undisturbed(services: NodeServices) -> float:
    """GPU seconds of a training without faults."""
    with training(services, "undisturbed") as run:
        job = run.wait_for_report()
        assert (job.num_failures, run.requeued) == (0, [])
        keys = [item.key for item in services.storage.list(Layout("").run("undisturbed", RUN_ID).base)]
        assert [key.rpartition("/")[2] for key in keys if "/model/" in key] == [
            "done.json",
            "undisturbed.safetensors",
        ]
        return run.gpu_seconds


@pytest.fixture
def say_lost(
    services: NodeServices, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, float], None]:
    """Prints how many GPU seconds a fault cost. Against the stand-ins, that is not worth another training."""
    usual = request.getfixturevalue("undisturbed") if services.is_real else None

    def say(what: str, seconds: float) -> None:
        lost = "" if usual is None else f", {seconds - usual:.0f} of them lost"
        with capsys.disabled():
            print(f"\n  {what}: {seconds:.0f} GPU seconds{lost}")

    return say


def once(part: str, fault: DownloadFault) -> Callable[[ProxiedRequest], DownloadFault | None]:
    """The fault for the first download of a key that contains `part`."""
    return lambda request: (
        fault if request.method == "GET" and part in request.path and request.number == 1 else None
    )


def downloads(proxy: FaultProxy, part: str) -> list[str]:
    """The ranges of the requests for objects whose key contains `part`. With a broken answer, there is more than one request."""
    return [request.range for request in proxy.requests if request.method == "GET" and part in request.path]


def test_a_training_without_faults(undisturbed: float) -> None:
    assert undisturbed > 0


def with_breaks(short: str) -> pytest.MarkDecorator:
    """A test for each kind of break, all but one of them long."""
    kinds = [pytest.param(kind, marks=[] if kind == short else [pytest.mark.long]) for kind in BREAKS]
    return pytest.mark.parametrize("kind", kinds)


@with_breaks(short="cut")
def test_a_broken_download_of_an_image_is_resumed(
    services: NodeServices, say_lost: Callable[[str, float], None], kind: str
) -> None:
    with (
        FaultProxy(services.connection["s3"]["url"], once("00001.jpg", BREAKS[kind])) as proxy,
        training(services, f"image-{kind}", AWS_ENDPOINT_URL=proxy.url) as run,
    ):
        assert run.wait_for_report().num_failures == 0
        assert run.requeued == []
        assert len(downloads(proxy, "00001.jpg")) > 1
        say_lost(f"image, {kind}", run.gpu_seconds)


@with_breaks(short="reset")
def test_a_broken_download_of_a_checkpoint_is_resumed(
    services: NodeServices, say_lost: Callable[[str, float], None], kind: str
) -> None:
    with (
        FaultProxy(services.connection["s3"]["url"], once("_0000000", BREAKS[kind])) as proxy,
        training(services, f"checkpoint-{kind}", AWS_ENDPOINT_URL=proxy.url) as run,
    ):
        step = run.kill_node_with_checkpoint()
        assert run.wait_for_report().num_failures == 0
        assert run.look().status.progress.resumed[:1] == [step]
        _, again, *_ = downloads(proxy, "_0000000")
        # A reset may discard what has arrived.
        assert again.startswith("bytes=") or kind == "reset"
        say_lost(f"checkpoint, {kind}, with a killed node", run.gpu_seconds)


@with_breaks(short="stall")
def test_a_worker_that_hangs_before_the_launcher_is_noticed_and_replaced(
    services: NodeServices, say_lost: Callable[[str, float], None], kind: str
) -> None:
    """The worker's own download of train.yml breaks."""
    with (
        FaultProxy(services.connection["s3"]["url"], once("train.yml", BREAKS[kind])) as proxy,
        training(
            services,
            f"hung-{kind}",
            stall_minutes=services.pace.silent_minutes,
            AWS_ENDPOINT_URL=proxy.url,
        ) as run,
    ):
        run.wait_for_report()
        # On a busy machine a sound launcher may seem silent, too.
        assert run.requeued
        states = sorted(job.status for job in services.client.kelpie().list_jobs(run.group))
        assert states == [*["canceled"] * len(run.requeued), "completed"]
        say_lost(f"the worker's own download, {kind}", run.gpu_seconds)


def test_a_node_that_hangs_is_replaced_when_its_stalled_run_is_canceled(services: NodeServices) -> None:
    """The next step that `flux status` prints for a stalled run. The worker hangs on even after its job was canceled."""
    with (
        FaultProxy(services.connection["s3"]["url"], once("train.yml", DownloadFault.STALL)) as proxy,
        training(
            services,
            "stalled",
            stall_minutes=services.pace.silent_minutes,
            requeues=MAX_REQUEUES,
            AWS_ENDPOINT_URL=proxy.url,
        ) as run,
    ):
        row = run.wait(lambda row: row.status.state == RunState.STALLED)
        assert (
            "`./flux cancel stalled` and `make up` cancel the job and replace a node that hangs"
            in row.problem
        )
        (hung,) = services.client.salad().instances("stalled")
        run.remove()
        assert [job.status for job in services.client.kelpie().list_jobs(run.group)] == ["canceled"]
        salad = services.client.salad()
        wait_until(
            lambda: {hung.machine_id} & {node.machine_id for node in salad.instances("stalled")} == set()
        )


@pytest.mark.long  # the checkpoint's test kills a node, too
def test_a_killed_node_is_replaced_and_the_run_resumed(
    services: NodeServices, say_lost: Callable[[str, float], None]
) -> None:
    with training(services, "killed") as run:
        step = run.kill_node_with_checkpoint()
        progress = run.wait().status.progress
        assert (run.wait_for_report().num_failures, progress.restarts) == (0, 1)
        assert progress.resumed == [step]
        say_lost("killed node", run.gpu_seconds)


@pytest.mark.long
def test_a_job_that_failed_on_the_only_machine_is_trained_in_the_end(
    services: NodeServices, say_lost: Callable[[str, float], None]
) -> None:
    """Kelpie bars the machine from the job. The worker finds no work, and asks for another machine."""
    storage, key = services.storage, f"{Layout('').dataset('barred')}00002.jpg"
    with training(
        services, "barred", without="00002.jpg", MAX_TIME_WITH_NO_WORK_S=str(services.pace.idle)
    ) as run:
        row = run.wait(lambda row: row.status.hand_out == HandOutState.RETRYING)
        assert "retrying, waiting for another machine: attempt 1 of 3 failed" in row.problem
        assert not Watcher(services.client, run.outputs).read().is_well
        storage.put_bytes(key, picture(2))
        assert run.wait_for_report().num_failures == 1
        assert run.phases[-1] == RunState.COMPLETED
        say_lost("failed on the only machine", run.gpu_seconds)


@pytest.mark.long
@pytest.mark.parametrize("count", [4, 20])
def test_trainings_behind_faulty_proxies_and_with_killed_nodes_are_neither_doubled_nor_lost(
    services: NodeServices, tmp_path: Path, count: int
) -> None:
    """A tenth of the requests to Kelpie fails, also of the nodes', three of a hundred downloads break, and every few seconds a node loses its power."""
    names, dice = [f"many-{count}-{number}" for number in range(count)], random.Random(1)
    faults = at_random(1, 0.03, (DownloadFault.CUT, DownloadFault.RESET))

    def broken(request: ProxiedRequest) -> DownloadFault | None:
        """Only downloads of objects: the worker does not repeat an upload that breaks (docs/services.md)."""
        is_download = request.method == "GET" and request.path.count("/") > 2
        return faults(request) if is_download else None

    exchanges = list[Exchange]()
    kelpie, s3 = services.connection["kelpie"]["url"], services.connection["s3"]["url"]
    with (
        Proxy(kelpie, lambda _: "kelpie", Faults(0.1, seed=1), exchanges.append) as proxy,
        FaultProxy(s3, broken) as storage,
        running_group(
            services.connection,
            f"many-{count}",
            **node_variables(AWS_ENDPOINT_URL=storage.url, NODE_KELPIE_URL=proxy.url + urlsplit(kelpie).path),
        ) as group,
    ):
        faulty = tmp_path / "connection.json"
        url = proxy.url + urlsplit(kelpie).path
        faulty.write_text(json.dumps(services.connection | {"kelpie": {"url": url}}), encoding="utf-8")
        client = connect("local", {}, {"FLUX_LOCAL_CLOUD": str(faulty)})
        with salad_client(services.connection) as salad:
            salad.patch(
                f"/containers/many-{count}", json={"replicas": 4}, headers=MERGE_PATCH
            ).raise_for_status()
        for name in names:
            upload(services, name)
        with ThreadPoolExecutor(5) as pool:
            posted = list(pool.map(lambda name: post(services, client, name, group), names))
        ids = dict(zip(names, (job.id for job in posted), strict=True))
        outputs = stack_outputs(ids, group, f"many-{count}", services.pace.silent_minutes * 4)
        requeued, kills = 0, 0
        for line in until_all_completed(Watcher(client, outputs), services.pace.poll):
            requeued += len(line)
            running = [folder for folder in services.home.glob("nodes/*") if (folder / "output").exists()]
            if running and kills < count / 3 and (not kills or dice.random() < 0.3):
                kill_node(dice.choice(sorted(running)))
                kills += 1
        jobs = [job for job in services.client.kelpie().list_jobs(group) if job.status != "canceled"]
        assert sorted(job.environment["FLUX_JOB"] for job in jobs) == sorted(names)
        assert {job.status for job in jobs} == {"completed"}
        assert all(services.storage.head(Layout("").run(name, RUN_ID).weights) for name in names)
        assert kills
        assert any("/heartbeat" in exchange.target for exchange in exchanges)
        assert proxy.faults is not None
        assert proxy.faults.counts.total() > proxy.faults.counts["none"]
    print(
        f"{kills} nodes killed, {requeued} runs queued again, {proxy.faults.counts if proxy.faults else {}}"
    )


def until_all_completed(watcher: Watcher, pause: float) -> Iterator[list[str]]:
    """Watches as `flux status --watch` does. Yields what it did, once for each reading."""
    patience = Patience()
    while True:
        # Its requests fail, too.
        with contextlib.suppress(ServiceError):
            found = watcher.read()
            rows = [(row.name, row.status.phase, row.status.progress.step) for row in found.rows]
            patience.check(rows, rows)
            yield queue_silent_again(watcher, found)
            if all(row.status.state == RunState.COMPLETED and row.status.has_ended for row in found.rows):
                return
        time.sleep(max(1, pause))
