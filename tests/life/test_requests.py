"""How many requests an `up` sends when all runs have finished: the records of verified weights are listed, and no run is looked at."""

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flux_training.training.runs.run import RunKeys
from tests.life.attacks import weights_file
from tests.life.nodes import begin_job, report
from tests.life.stacks import Stack, new_stack

MAX_REQUESTS = 30


def finish_all(stack: Stack, only: str = "") -> None:
    """As nodes would: take all jobs, and upload the weights of each run, or of the run of one job."""
    storage, queued = stack.connection.storage("life"), stack.jobs()
    for job in queued:
        begin_job(stack.connection, job.container_group_id)

    def finish(item: tuple[str, dict[str, object]]) -> None:
        name, job = item
        keys, data = RunKeys(str(job["folder"]), name), weights_file(tensor=b"good")
        done = {"sha256": hashlib.sha256(data).hexdigest()}
        storage.put_bytes(keys.weights, data)
        storage.put_bytes(keys.done, json.dumps(done).encode())

    with ThreadPoolExecutor(8) as threads:
        jobs = stack.outputs()["jobs"]
        names = [only] if only else list(jobs)
        list(threads.map(finish, ((name, jobs[name]) for name in names)))
    for job in queued:
        if job.environment["FLUX_RUN_ID"] in [jobs[name]["runId"] for name in names]:
            report(stack.connection, job, "completed")


def requests(stack: Stack) -> list[str]:
    return (stack.cloud / "requests.jsonl").read_text().splitlines()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("jobs", [8, pytest.param(1000, marks=pytest.mark.long)])
def test_a_no_op_asks_about_no_finished_run(jobs: int, engine: str, cloud: Path, tmp_path: Path) -> None:
    names = {f"job-{number:04}": number for number in range(jobs)}
    stack = new_stack(tmp_path / "stack", cloud, f"requests{jobs}", names, engine)
    stack.up()
    finish_all(stack)
    stack.up()  # records the weights
    before = len(requests(stack))
    assert "unchanged" in stack.up()
    sent = [json.loads(line) for line in requests(stack)[before:]]
    kinds = Counter((one["service"], one["method"], one["path"].partition("?")[0]) for one in sent)
    assert len(sent) <= MAX_REQUESTS, kinds
    # A listing has a thousand objects: a claim, a posted job and the weights of each run.
    assert len(sent) <= 10 + 3 * jobs / 1000, kinds
