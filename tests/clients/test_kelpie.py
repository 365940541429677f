"""The Kelpie client with a failing service. With a working one: test_with_kelpie.py."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from flux_training.clients.errors import NotFound, ServiceError, Unauthorized, Unavailable, UncertainOutcome
from flux_training.clients.http import RetryPolicy
from flux_training.clients.kelpie import Job, JobRequest, Kelpie, Sync, SyncRule
from flux_training.training.errors import BadInput

KEY = "canary-kelpie-77aa"
JOB = {"id": "j1", "container_group_id": "g1", "status": "pending"}
RULE = {"container_group_id": "g1", "min_replicas": 0, "max_replicas": 2, "idle_threshold_seconds": 60}
Handler = Callable[[httpx.Request], httpx.Response]


def kelpie(handler: Handler) -> Kelpie:
    return Kelpie(
        "http://kelpie.test",
        SecretStr(KEY),
        "org",
        "proj",
        httpx.MockTransport(handler),
        retry_policy=RetryPolicy(sleep=lambda _: None),
    )


def job_request(**changes: object) -> JobRequest:
    fields = {"container_group_id": "g1", "command": "python", "sync": Sync(), **changes}
    return JobRequest.model_validate(fields)


@pytest.mark.parametrize(
    "words",
    ["Invalid Project some-project", "Network connection lost.", "Error Accessing Authentication Service"],
)
def test_a_transient_403_is_retried_even_for_a_post(words: str) -> None:
    """A SaladCloud fault comes back as such a 403, before Kelpie has done anything."""
    calls = 0

    def handler(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        if calls < 4:
            return httpx.Response(403, text=json.dumps({"error": "Forbidden", "message": words}))
        return httpx.Response(202, json=JOB)

    assert kelpie(handler).post_job(job_request()).id == "j1"
    assert calls == 4


def test_a_lasting_transient_403_says_what_may_be_wrong() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(403, json={"error": "Forbidden", "message": "Invalid Project proj"})

    with pytest.raises(Unavailable) as caught:
        kelpie(handler).list_jobs()
    for word in ("key", "organization org", "project proj", "Invalid Project proj"):
        assert word in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_lasting_outage_behind_kelpie_is_not_reported_as_a_wrong_key() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(
            403, text='{"error": "Forbidden", "message": "Error Accessing Authentication Service"}'
        )

    with pytest.raises(Unavailable) as caught:
        kelpie(handler).list_jobs()
    assert "the service could not check the key, which may be valid" in str(caught.value)
    assert "check the SaladCloud API key" not in str(caught.value)


def test_another_403_is_not_retried() -> None:
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(403, json={"error": "Forbidden", "message": "Admins only"})

    with pytest.raises(Unauthorized):
        kelpie(handler).list_jobs()
    assert len(calls) == 1


def test_a_post_without_an_answer_is_uncertain_and_sent_once() -> None:
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        raise httpx.ReadTimeout("timed out")

    with pytest.raises(UncertainOutcome):
        kelpie(handler).post_job(job_request())
    assert len(calls) == 1


def test_every_request_carries_key_organization_and_project() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        names = ("Salad-Api-Key", "Salad-Organization", "Salad-Project")
        assert [request.headers[name] for name in names] == [KEY, "org", "proj"]
        return httpx.Response(200, json=JOB)

    kelpie(handler).get_job("j1")


def test_a_list_longer_than_a_page_is_requested_again_as_a_whole() -> None:
    """Kelpie's order has ties, so pages can overlap: every job must come from one answer."""
    jobs = [JOB | {"id": str(number)} for number in range(1000)] + [JOB | {"id": "last"}]
    sizes = []

    def handler(request: httpx.Request) -> httpx.Response:
        assert request.url.params["page"] == "1"
        assert request.url.params["asc"] == "true"
        sizes.append(int(request.url.params["page_size"]))
        page = jobs[: sizes[-1]]
        return httpx.Response(200, json={"_count": len(page), "jobs": page})

    assert [job.id for job in kelpie(handler).list_jobs("g1")] == [job["id"] for job in jobs]
    assert sizes == [1000, 10000]


def test_only_pending_and_running_jobs_are_canceled() -> None:
    """DELETE of a completed job rewrites it to canceled, and that starts GPUs."""
    for status in ("completed", "failed", "canceled"):

        def handler(request: httpx.Request, status: str = status) -> httpx.Response:
            assert request.method == "GET"
            return httpx.Response(200, json=JOB | {"status": status})

        assert kelpie(handler).cancel_job("j1") is False


def test_after_a_lost_answer_to_a_cancel_the_job_is_read_again() -> None:
    state = {"status": "running"}
    deletes = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            deletes.append(request)
            state["status"] = "canceled"
            raise httpx.ReadError("reset")
        return httpx.Response(200, json=JOB | state)

    assert kelpie(handler).cancel_job("j1") is True
    assert len(deletes) == 1


def test_a_job_that_finishes_while_its_cancel_is_lost_stays_finished() -> None:
    state = {"status": "running"}

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            assert state["status"] == "running"
            state["status"] = "completed"
            raise httpx.ReadError("reset")
        return httpx.Response(200, json=JOB | state)

    assert kelpie(handler).cancel_job("j1") is False


def test_attempts_to_cancel_are_limited() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500 if request.method == "DELETE" else 200, json=JOB)

    with pytest.raises(UncertainOutcome):
        kelpie(handler).cancel_job("j1")


def test_a_rule_whose_answer_was_lost_is_found_and_changed() -> None:
    rules: dict[str, dict[str, object]] = {}
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if request.method == "GET":
            return httpx.Response(200, json=rules["g1"]) if rules else httpx.Response(404)
        if request.method == "POST":
            rules["g1"] = dict(RULE)
            raise httpx.ReadError("reset")
        rules["g1"] |= json.loads(request.content)
        return httpx.Response(200, json=rules["g1"])

    assert kelpie(handler).put_rule("g1", 0, 2, 60).max_replicas == 2
    assert asked == ["GET", "POST", "GET", "PATCH"]


def test_a_rule_whose_request_was_lost_is_posted_again() -> None:
    """Kelpie keeps one rule a group, so that a second post is no second rule."""
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if request.method == "GET":
            return httpx.Response(404)
        if asked.count("POST") == 1:
            raise httpx.ReadError("reset")
        return httpx.Response(201, json=RULE)

    assert kelpie(handler).put_rule("g1", 0, 2, 60).max_replicas == 2
    assert asked == ["GET", "POST", "GET", "POST"]


def test_a_rule_that_cannot_be_created_is_an_error() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404 if request.method == "GET" else 500)

    with pytest.raises(UncertainOutcome):
        kelpie(handler).put_rule("g1", 0, 2, 60)


def test_an_invalid_rule_is_not_sent() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise AssertionError("sent")

    with pytest.raises(BadInput) as caught:
        kelpie(handler).put_rule("g1", 600, 2, 4000)
    assert len(caught.value.findings) == 3
    assert "minReplicas (600) is more than maxReplicas (2)" in str(caught.value)


def test_prefixes_compare_equal_with_and_without_their_slash() -> None:
    rules = [
        SyncRule(bucket="b", prefix=prefix, local_path="d/", direction="download")
        for prefix in ("a/b", "a/b/")
    ]
    assert rules[0] == rules[1]
    assert rules[0].prefix == "a/b/"


def test_a_job_request_is_strict() -> None:
    up = {"bucket": "b", "prefix": "p/", "local_path": "d/", "direction": "upload"}
    down = up | {"direction": "download"}
    assert job_request(sync={"before": [down], "during": [up], "after": [up]}).max_failures == 3
    for wrong in (
        {"sync": {"before": [up]}},
        {"sync": {"during": [down]}},
        {"sync": {"after": [down]}},
        {"sync": {"befor": []}},
        {"sync": {"before": [down | {"dir": 1}]}},
        {"comand": "x"},
        {"command": ""},
        {"max_failures": 0},
        {"environment": {"A": 1}},
    ):
        with pytest.raises(ValidationError):
            job_request(**wrong)


def test_unset_options_are_not_sent() -> None:
    bodies = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(202, json=JOB)

    down = SyncRule(bucket="b", prefix="p", local_path="d/", direction="download")
    kelpie(handler).post_job(job_request(sync=Sync(before=[down])))
    (body,) = bodies
    assert "webhook" not in body
    assert "pattern" not in body["sync"]["before"][0]


def test_answers_are_read_leniently() -> None:
    raw = JOB | {
        "status": "a new one",
        "webhook": None,
        "environment": None,
        "created": "2026-11-22T10:00:00.123Z",
        "sync": {"before": [], "between": [], "after": None},
        "price": 3,
    }
    job = kelpie(lambda _: httpx.Response(200, json=raw)).get_job("j1")
    assert job.environment == {}
    assert job.created == datetime(2026, 11, 22, 10, 0, 0, 123000, tzinfo=UTC)
    assert not job.unfinished
    assert Job.model_validate(JOB).unfinished


def test_times_of_jobs_are_utc() -> None:
    job = Job.model_validate(JOB | {"created": "2026-11-22 10:00:00"})
    assert job.created == datetime(2026, 11, 22, 10, tzinfo=UTC)


def test_an_unknown_job() -> None:
    client = kelpie(lambda _: httpx.Response(404, json={"error": "Not Found", "message": "Job not found"}))
    assert client.cancel_job("nope") is False
    with pytest.raises(NotFound, match="Job not found"):
        client.get_job("nope")


def test_another_program_at_the_address_is_reported() -> None:
    with pytest.raises(ServiceError, match=r"check that kelpie\.test is the address of Kelpie"):
        kelpie(lambda _: httpx.Response(200, text="<html>hello")).list_jobs()


def test_repr_shows_no_key() -> None:
    client = kelpie(lambda _: httpx.Response(200))
    assert KEY not in f"{client!r}{client._http!r}{vars(client)}"
