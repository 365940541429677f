"""Kelpie: the queue of training jobs and the rule that scales a container group to it.

What it promises, and what it does not: docs/services.md.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

import httpx
from pydantic import AfterValidator, BaseModel, Field, SecretStr, model_validator

from flux_training.clients.errors import Conflict, NotFound, Service, UncertainOutcome, words_of
from flux_training.clients.http import Answer, Http, Patience
from flux_training.training.errors import BadInput

KELPIE_URL = "https://kelpie.saladexamples.com"
UNFINISHED = frozenset({"pending", "running"})
MOST_REPLICAS = 500
MOST_IDLE_SECONDS = 3600
FIRST_PAGE = 1000
CANCEL_TRIES = 3
RULE_TRIES = 3
PASSING_403 = ("invalid project", "network connection lost")


def _in_utc(time: datetime) -> datetime:
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _folder(prefix: str) -> str:
    return prefix.rstrip("/") + "/"


# Jobs have ISO times with Z, scaling rules `YYYY-MM-DD HH:MM:SS` in UTC.
Time = Annotated[datetime, AfterValidator(_in_utc)]
# Kelpie adds the trailing slash; with it from the start, what was sent and what comes back compare equal.
Prefix = Annotated[str, AfterValidator(_folder)]


class SyncRule(BaseModel, extra="forbid", frozen=True):
    """Objects below `prefix` in `bucket` and files below `local_path` are kept the same, in one direction.

    `pattern` is a JavaScript regular expression: on the whole key in `before`, else on the relative path.
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
    """A job to queue. Kelpie stores and shows all of it in plain text: no secrets in `environment`."""

    container_group_id: str
    command: str = Field(min_length=1)
    arguments: list[str] = []
    environment: dict[str, str] = {}
    sync: Sync
    max_failures: int = Field(default=3, ge=1)
    heartbeat_interval: int = Field(default=30, ge=1, description="seconds")
    webhook: str | None = None

    @model_validator(mode="after")
    def _directions(self) -> Self:
        """Kelpie refuses any other: `sync.before.direction must be "download"`."""
        if any(rule.direction != "download" for rule in self.sync.before):
            raise ValueError("what is synced before a job must be a download")
        if any(rule.direction != "upload" for rule in [*self.sync.during, *self.sync.after]):
            raise ValueError("what is synced during and after a job must be an upload")
        return self


class Job(Answer):
    """A job as Kelpie tells of it. Times are UTC."""

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
        """Whether it is waiting or running: the only jobs that may be canceled."""
        return self.status in UNFINISHED


class ScalingRule(Answer):
    """How many replicas Kelpie keeps for a container group."""

    container_group_id: str
    min_replicas: int
    max_replicas: int
    idle_threshold_seconds: int
    container_group_name: str = ""
    created: Time | None = None
    updated: Time | None = None


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
        patience: Patience | None = None,
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
            transient=_passing_fault,
            patience=patience,
        )

    def __repr__(self) -> str:
        return f"<Kelpie at {self._http.service.host}>"

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._http.close()

    def list_jobs(self, container_group_id: str | None = None, status: str | None = None) -> list[Job]:
        """All jobs, oldest first; `status` is one of pending, running, completed, canceled, failed.

        Kelpie's pages overlap and have gaps, as they are sorted by a time of whole seconds with no tie-break.
        Its page size has no bound: one page that is not full is the whole list, as of one moment.
        """
        size = FIRST_PAGE
        while True:
            params: dict[str, str | int] = {"page_size": size, "page": 1, "asc": "true"}
            if container_group_id is not None:
                params["container_group_id"] = container_group_id
            if status is not None:
                params["status"] = status
            jobs = self._http.read(_Jobs, self._http.request("GET", "jobs", params=params)).jobs
            if len(jobs) < size:
                return jobs
            size *= 10

    def get_job(self, job_id: str) -> Job:
        """The job. Raises NotFound."""
        return self._http.read(Job, self._http.request("GET", f"jobs/{job_id}"))

    def post_job(self, job: JobRequest) -> Job:
        """Queue a job.

        Raises UncertainOutcome when the answer never came: Kelpie has no idempotency key, the same request
        again is a second paid job. List the jobs and look for the own mark in `environment` first.
        """
        body = job.model_dump(mode="json", exclude_none=True)
        return self._http.read(Job, self._http.request("POST", "jobs", body=body))

    def cancel_job(self, job_id: str) -> bool:
        """Cancel a pending or running job; False, and nothing sent, for any other and for one unknown.

        Kelpie's DELETE rewrites finished jobs to canceled, and that starts GPUs: the job is read first, and
        again before each repetition.
        """
        for attempt in range(CANCEL_TRIES):
            try:
                job = self.get_job(job_id)
            except NotFound:
                return False
            if not job.unfinished:
                return attempt > 0 and job.status == "canceled"
            try:
                self._http.request("DELETE", f"jobs/{job_id}", repeatable=False)
            except UncertainOutcome:
                if attempt == CANCEL_TRIES - 1:
                    raise
            else:
                return True
        raise AssertionError("unreachable")

    def get_rule(self, group_id: str) -> ScalingRule | None:
        """The scaling rule of a container group, if it has one."""
        try:
            answer = self._http.request("GET", f"scaling-rules/{group_id}")
        except NotFound:
            return None
        return self._http.read(ScalingRule, answer)

    def put_rule(
        self, group_id: str, min_replicas: int, max_replicas: int, idle_threshold_seconds: int
    ) -> ScalingRule:
        """Make the rule so, whether there was one or not (a second POST would be a 500). Raises BadInput."""
        findings = rule_findings(min_replicas, max_replicas, idle_threshold_seconds)
        if findings:
            raise BadInput(findings)
        body = {
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "idle_threshold_seconds": idle_threshold_seconds,
        }
        for left in reversed(range(RULE_TRIES)):
            if self.get_rule(group_id) is not None:
                break
            try:
                answer = self._http.request(
                    "POST", "scaling-rules", body=body | {"container_group_id": group_id}
                )
                return self._http.read(ScalingRule, answer)
            except (Conflict, UncertainOutcome):
                # Kelpie keeps one rule a group: a post that comes late is refused, or ours is.
                if not left and self.get_rule(group_id) is None:
                    raise
        return self._http.read(
            ScalingRule, self._http.request("PATCH", f"scaling-rules/{group_id}", body=body)
        )

    def delete_rule(self, group_id: str) -> None:
        """Delete the rule; fine if there is none. Before the group: Kelpie acts on groups by their name."""
        self._http.request("DELETE", f"scaling-rules/{group_id}")


def rule_findings(min_replicas: int, max_replicas: int, idle_threshold_seconds: int) -> list[str]:
    """What is wrong with a scaling rule. Kelpie itself accepts min > max."""
    findings = [
        f"{name} ({value}) must be 0 to {most}; change the cluster's settings"
        for name, value, most in (
            ("minReplicas", min_replicas, MOST_REPLICAS),
            ("maxReplicas", max_replicas, MOST_REPLICAS),
            ("idleThresholdSeconds", idle_threshold_seconds, MOST_IDLE_SECONDS),
        )
        if not 0 <= value <= most
    ]
    if min_replicas > max_replicas:
        findings.append(
            f"minReplicas ({min_replicas}) is more than maxReplicas ({max_replicas}); "
            "the least cannot be above the most; raise maxReplicas or lower minReplicas"
        )
    return findings


def _passing_fault(answer: httpx.Response) -> bool:
    """Kelpie asks SaladCloud about every key; a fault there comes back as a 403 with one of these texts."""
    return answer.status_code == 403 and any(text in words_of(answer).lower() for text in PASSING_403)
