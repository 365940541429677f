"""Kelpie: the queue of training jobs and the rule that scales a container group to it.

What it promises, and what it does not: docs/services.md.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

import httpx
import tenacity
from pydantic import AfterValidator, BaseModel, Field, SecretStr, model_validator

from flux_training.clients.errors import (
    Conflict,
    Service,
    ServiceError,
    TemporaryRefusal,
    UncertainOutcome,
    error_message_in,
)
from flux_training.clients.http import Answer, Http, RetryPolicy
from flux_training.training.errors import BadInput

KELPIE_URL = "https://kelpie.saladexamples.com"
UNFINISHED = frozenset({"pending", "running"})
MAX_REPLICAS = 500
MAX_IDLE_SECONDS = 3600
FIRST_PAGE_SIZE = 1000
MAX_CANCELS = 3
MAX_RULE_POSTS = 3
TRANSIENT_403 = {
    "error accessing authentication service": TemporaryRefusal.OUTAGE,
    "network connection lost": TemporaryRefusal.OUTAGE,
    "invalid project": TemporaryRefusal.UNCLEAR,
}


def _in_utc(time: datetime) -> datetime:
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _with_trailing_slash(prefix: str) -> str:
    return prefix.rstrip("/") + "/"


# Jobs have ISO times with Z. Scaling rules have `YYYY-MM-DD HH:MM:SS` in UTC.
Time = Annotated[datetime, AfterValidator(_in_utc)]
# Kelpie adds a trailing slash to folders. Adding it here makes sent and received values equal.
Prefix = Annotated[str, AfterValidator(_with_trailing_slash)]


class SyncRule(BaseModel, extra="forbid", frozen=True):
    """Copies objects below `prefix` in `bucket` to `local_path`, or back.

    `pattern` is a JavaScript regular expression, matched against the whole key in `before`, and against the relative path otherwise.
    """

    bucket: str
    prefix: Prefix
    local_path: str
    direction: Literal["download", "upload"]
    pattern: str | None = None


class Sync(BaseModel, extra="forbid", frozen=True):
    """What a node downloads before the command, and uploads during and after it."""

    before: list[SyncRule] = []
    during: list[SyncRule] = []
    after: list[SyncRule] = []


class JobRequest(BaseModel, extra="forbid", frozen=True):
    """A job to queue. Kelpie stores it as plain text, so `environment` must hold no secrets."""

    container_group_id: str
    command: str = Field(min_length=1)
    arguments: list[str] = []
    environment: dict[str, str] = {}
    sync: Sync
    max_failures: int = Field(default=3, ge=1)
    heartbeat_interval: int = Field(default=30, ge=1, description="seconds")
    webhook: str | None = None

    @model_validator(mode="after")
    def _check_sync_directions(self) -> Self:
        """Kelpie refuses other directions: `sync.before.direction must be "download"`."""
        if any(rule.direction != "download" for rule in self.sync.before):
            raise ValueError("the rules in sync.before must be downloads")
        if any(rule.direction != "upload" for rule in [*self.sync.during, *self.sync.after]):
            raise ValueError("the rules in sync.during and sync.after must be uploads")
        return self


class Job(Answer):
    """A job in Kelpie's answers. Times are UTC."""

    id: str
    container_group_id: str
    status: str
    command: str = ""
    arguments: list[str] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict)
    sync: Sync = Sync()
    created: Time | None = None
    started: Time | None = None
    completed: Time | None = None
    failed: Time | None = None
    canceled: Time | None = None
    heartbeat: Time | None = None
    heartbeat_interval: int = 30
    machine_id: str | None = None
    num_heartbeats: int = 0
    num_failures: int = 0
    max_failures: int = 3
    webhook: str | None = None

    @property
    def unfinished(self) -> bool:
        """Whether it is pending or running. Only these jobs may be canceled."""
        return self.status in UNFINISHED


class KelpieRule(Answer):
    """How many replicas Kelpie keeps for a container group."""

    container_group_id: str
    min_replicas: int
    max_replicas: int
    idle_threshold_seconds: int
    container_group_name: str = ""


class _Jobs(Answer):
    jobs: list[Job]


class Kelpie:
    """Kelpie's API for one SaladCloud project. Thread-safe."""

    def __init__(
        self,
        url: str,
        api_key: SecretStr,
        organization: str,
        project: str,
        transport: httpx.BaseTransport | None = None,
        *,
        retry_policy: RetryPolicy | None = None,
        if_down: str = "try again later",
    ) -> None:
        refused = (
            "check the SaladCloud API key, the organization and the project "
            f"(given: organization {organization}, project {project})"
        )
        headers: dict[str, SecretStr | str] = {
            "Salad-Api-Key": api_key,
            "Salad-Organization": organization,
            "Salad-Project": project,
        }
        self._http = Http(
            Service("Kelpie", url, if_refused=refused, if_down=if_down, secrets=(api_key,)),
            headers,
            transport=transport,
            transient=_temporary_refusal_in,
            retry_policy=retry_policy,
        )

    def __repr__(self) -> str:
        return f"<Kelpie at {self._http.service.host}>"

    def list_jobs(self, container_group_id: str | None = None, status: str | None = None) -> list[Job]:
        """All jobs, oldest first; `status` is one of pending, running, completed, canceled, failed.

        Kelpie's pages overlap and have gaps, because they are sorted by whole seconds without a tie-break. But the page size
        is unlimited, and a page that is not full is the whole list.
        """
        size = FIRST_PAGE_SIZE
        while True:
            params: dict[str, str | int] = {"page_size": size, "page": 1, "asc": "true"}
            if container_group_id is not None:
                params["container_group_id"] = container_group_id
            if status is not None:
                params["status"] = status
            jobs = self._http.get(_Jobs, "jobs", params).jobs
            if len(jobs) < size:
                return jobs
            size *= 10

    def get_job(self, job_id: str) -> Job:
        """The job. Raises NotFound."""
        return self._http.get(Job, f"jobs/{job_id}")

    def post_job(self, job: JobRequest) -> Job:
        """Queue a job.

        Raises UncertainOutcome if no answer came. Kelpie has no idempotency key, so the same request again is a second paid
        job: first list the jobs and look for the run id in `environment`.
        """
        body = job.model_dump(mode="json", exclude_none=True)
        return self._http.parse_body(Job, self._http.request("POST", "jobs", body=body))

    def cancel_job(self, job_id: str) -> bool:
        """Cancel a pending or running job. Returns False for any other and for an unknown job, without sending anything.

        Kelpie's DELETE rewrites finished jobs to canceled, and that starts GPUs: the job is read before each attempt.
        """
        for attempt in _attempts(MAX_CANCELS, UncertainOutcome):
            with attempt:
                job = self._http.find(Job, f"jobs/{job_id}")
                if job is None:
                    return False
                if not job.unfinished:
                    return attempt.retry_state.attempt_number > 1 and job.status == "canceled"
                self._http.request("DELETE", f"jobs/{job_id}", repeatable=False)
        return True

    def get_rule(self, group_id: str) -> KelpieRule | None:
        """The scaling rule of a container group, if it has one."""
        return self._http.find(KelpieRule, f"scaling-rules/{group_id}")

    def put_rule(
        self, group_id: str, min_replicas: int, max_replicas: int, idle_threshold_seconds: int
    ) -> KelpieRule:
        """Create or change the rule of a container group. Raises BadInput."""
        findings = rule_findings(min_replicas, max_replicas, idle_threshold_seconds)
        if findings:
            raise BadInput(findings)
        body = {
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "idle_threshold_seconds": idle_threshold_seconds,
        }
        # A group has at most one rule. If a POST took effect but its answer was lost, Kelpie refuses the repeated POST, and a
        # PATCH follows.
        for attempt in _attempts(MAX_RULE_POSTS, Conflict, UncertainOutcome):
            with attempt:
                if self.get_rule(group_id) is not None:
                    answer = self._http.request("PATCH", f"scaling-rules/{group_id}", body=body)
                else:
                    answer = self._http.request(
                        "POST", "scaling-rules", body=body | {"container_group_id": group_id}
                    )
                rule = self._http.parse_body(KelpieRule, answer)
        return rule

    def delete_rule(self, group_id: str) -> None:
        """Delete the rule, if there is one. Must precede deleting the group, since Kelpie acts on groups by name."""
        self._http.request("DELETE", f"scaling-rules/{group_id}")


def _attempts(count: int, *errors: type[ServiceError]) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors), stop=tenacity.stop_after_attempt(count), reraise=True
    )


def rule_findings(min_replicas: int, max_replicas: int, idle_threshold_seconds: int) -> list[str]:
    """What is wrong with a scaling rule. Kelpie would accept min > max."""
    findings = [
        f"{name} ({value}) must be 0 to {most}; change the cluster's settings"
        for name, value, most in (
            ("minReplicas", min_replicas, MAX_REPLICAS),
            ("maxReplicas", max_replicas, MAX_REPLICAS),
            ("idleThresholdSeconds", idle_threshold_seconds, MAX_IDLE_SECONDS),
        )
        if not 0 <= value <= most
    ]
    if min_replicas > max_replicas:
        findings.append(
            f"minReplicas ({min_replicas}) is more than maxReplicas ({max_replicas}); "
            "raise maxReplicas or lower minReplicas"
        )
    return findings


def _temporary_refusal_in(answer: httpx.Response) -> TemporaryRefusal | None:
    """Kelpie asks SaladCloud about every key, and reports a failure there as a 403 with one of these texts."""
    if answer.status_code != 403:
        return None
    words = error_message_in(answer).lower()
    return next((why for text, why in TRANSIENT_403.items() if text in words), None)
