"""The Kelpie client against the local cloud, and against the real service if its keys are given."""

import uuid

import pytest
from pydantic import SecretStr

from flux_training.clients.connection import Connection
from flux_training.clients.errors import Invalid, NotFound, ServiceError
from flux_training.clients.http import RetryPolicy
from flux_training.clients.kelpie import JobRequest, Kelpie, Sync, SyncRule
from flux_training.clients.salad import ContainerGroup


def job_request(group: ContainerGroup, mark: str) -> JobRequest:
    return JobRequest(
        container_group_id=group.id,
        command="python",
        arguments=["training-config/launch.py"],
        environment={"FLUX_RUN_ID": mark},
        sync=Sync(
            before=[SyncRule(bucket="b", prefix="p/in", local_path="in/", direction="download")],
            during=[SyncRule(bucket="b", prefix="p/out", local_path="out/", direction="upload")],
            after=[SyncRule(bucket="b", prefix="p/model", local_path="model/", direction="upload")],
        ),
        max_failures=4,
    )


def test_a_job_comes_back_as_it_was_queued(connection: Connection, group: ContainerGroup) -> None:
    kelpie, request = connection.kelpie(), job_request(group, "mark")
    posted = kelpie.post_job(request)
    read = kelpie.get_job(posted.id)
    assert read.id == posted.id
    assert read.unfinished
    assert read.container_group_id == group.id
    assert read.sync == request.sync
    assert read.environment == request.environment
    assert read.arguments == request.arguments
    assert read.max_failures == 4
    assert read.created is not None
    assert read.completed is None
    assert kelpie.cancel_job(posted.id)


def test_all_jobs_of_a_group_are_listed(connection: Connection, group: ContainerGroup) -> None:
    kelpie = connection.kelpie()
    posted = {kelpie.post_job(job_request(group, str(number))).id for number in range(7)}
    listed = kelpie.list_jobs(group.id)
    assert {job.id for job in listed} == posted
    assert {job.environment["FLUX_RUN_ID"] for job in listed} == {str(number) for number in range(7)}
    canceled = listed[0].id
    assert kelpie.cancel_job(canceled)
    assert {job.id for job in kelpie.list_jobs(group.id, "pending")} == posted - {canceled}
    assert [job.id for job in kelpie.list_jobs(group.id, "canceled")] == [canceled]
    assert kelpie.list_jobs(str(uuid.uuid4())) == []
    for job_id in posted - {canceled}:
        assert kelpie.cancel_job(job_id)


def test_the_same_request_twice_is_two_jobs(connection: Connection, group: ContainerGroup) -> None:
    """Why post_job is never repeated on its own."""
    kelpie, request = connection.kelpie(), job_request(group, "same")
    first, second = kelpie.post_job(request), kelpie.post_job(request)
    assert first.id != second.id
    assert all(kelpie.cancel_job(job.id) for job in (first, second))


def test_a_job_is_canceled_once(connection: Connection, group: ContainerGroup) -> None:
    kelpie = connection.kelpie()
    job = kelpie.post_job(job_request(group, "cancel"))
    assert kelpie.cancel_job(job.id) is True
    assert kelpie.cancel_job(job.id) is False
    assert kelpie.get_job(job.id).status == "canceled"


def test_missing_things(connection: Connection) -> None:
    kelpie, unknown = connection.kelpie(), str(uuid.uuid4())
    assert kelpie.cancel_job(unknown) is False
    assert kelpie.get_rule(unknown) is None
    kelpie.delete_rule(unknown)
    with pytest.raises(NotFound, match="Job not found"):
        kelpie.get_job(unknown)
    with pytest.raises(Invalid, match="Container Group Not Found"):
        kelpie.put_rule(unknown, 0, 1, 60)
    with pytest.raises(Invalid, match="status: Invalid enum value"):
        kelpie.list_jobs(status="nope")


def test_a_rule_is_created_changed_and_deleted(connection: Connection, group: ContainerGroup) -> None:
    kelpie = connection.kelpie()
    assert kelpie.get_rule(group.id) is None
    made = kelpie.put_rule(group.id, 0, 2, 300)
    assert (made.min_replicas, made.max_replicas, made.idle_threshold_seconds) == (0, 2, 300)
    assert made.container_group_name == group.name
    changed = kelpie.put_rule(group.id, 0, 0, 60)
    assert (changed.max_replicas, changed.idle_threshold_seconds) == (0, 60)
    read = kelpie.get_rule(group.id)
    assert read is not None
    assert read.max_replicas == 0
    kelpie.delete_rule(group.id)
    assert kelpie.get_rule(group.id) is None


def test_a_wrong_key_is_reported_and_not_shown(connection: Connection) -> None:
    kelpie = Kelpie(
        connection.kelpie_url,
        SecretStr("canary-wrong-kelpie-key"),
        connection.organization,
        connection.project,
        retry_policy=RetryPolicy(first=0.01),
    )
    with pytest.raises(ServiceError, match="check the SaladCloud API key") as caught:
        kelpie.list_jobs()
    assert "canary" not in str(caught.value)
