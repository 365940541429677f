"""64 clients post and poll jobs while workers do them: no errors, and no job is lost or done twice.

LOCALCLOUD_LOAD_JOBS=10000 for a long run.
"""

import asyncio
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from group_body import group_body, job_body
from localcloud.testing import kelpie_client, running_cloud, salad_client

CLIENTS = 64
WORKERS = 8
JOBS = int(os.environ.get("LOCALCLOUD_LOAD_JOBS", "384"))


@dataclass
class Load:
    """The results."""

    group: str
    posted: dict[str, str] = field(default_factory=dict)  # job id -> our mark
    handed_out: Counter[str] = field(default_factory=Counter)
    completed: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    polls: int = 0

    def check(self, answer: httpx.Response, status: int) -> Any:
        if answer.status_code != status:
            self.errors.append(f"{answer.request.method} {answer.request.url}: {answer.status_code}")
        return answer.json()

    async def client(self, http: httpx.AsyncClient, number: int) -> None:
        """Post a share of the jobs, then poll each until it is completed."""
        mine = []
        for mark in range(number, JOBS, CLIENTS):
            body = job_body(self.group, environment={"MARK": str(mark)})
            job = self.check(await http.post("/jobs", json=body), 202)
            self.posted[job["id"]] = str(mark)
            mine.append(job["id"])
        for job_id in mine:
            while self.check(await http.get(f"/jobs/{job_id}"), 200)["status"] != "completed":
                self.polls += 1
                await asyncio.sleep(0.25)
            self.polls += 1
            self.completed.add(job_id)

    async def worker(self, http: httpx.AsyncClient, number: int) -> None:
        """Do one job after the other until all are done."""
        machine = {"machine_id": f"m{number}", "container_group_id": self.group}
        while self.handed_out.total() < JOBS and not self.errors:
            for job in self.check(await http.get("/work", params=machine), 200):
                self.handed_out[job["id"]] += 1
                self.check(await http.post(f"/jobs/{job['id']}/completed", json=machine), 200)


async def play(load: Load, url: str, headers: dict[str, str]) -> None:
    async def with_client(role: Any, number: int) -> None:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as http:
            await role(http, number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(CLIENTS):
            tasks.create_task(with_client(load.client, number))
        for number in range(WORKERS):
            tasks.create_task(with_client(load.worker, number))


@pytest.mark.long
@pytest.mark.timeout(0)  # it takes as long as the jobs
def test_many_clients_and_many_jobs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        running_cloud(tmp_path / "cloud", nodes=0) as connection,
        salad_client(connection) as salad,
        kelpie_client(connection) as kelpie,
    ):
        group = salad.post("/containers", json=group_body(autostart_policy=False)).json()["id"]
        load = Load(group)
        headers = {name: value for name, value in kelpie.headers.items() if name.startswith("salad-")}
        asyncio.run(play(load, connection["kelpie"]["url"], headers))
        query = {"container_group_id": group, "page_size": 10 * JOBS}
        listed = kelpie.get("/jobs", params=query, timeout=300).json()["jobs"]
    assert load.errors == []
    assert {job["id"]: job["environment"]["MARK"] for job in listed} == load.posted
    assert len(listed) == len(load.posted) == JOBS
    assert {job["status"] for job in listed} == {"completed"}
    assert load.handed_out == dict.fromkeys(load.posted, 1)
    with capfd.disabled():
        print(
            f"\n{CLIENTS} clients: {len(load.posted)} jobs posted, {len(listed)} listed, {load.handed_out.total()} handed out, "
            f"{len(load.completed)} seen completed in {load.polls} polls; {len(load.errors)} errors",
            file=sys.stderr,
        )
