"""SaladCloud: container groups and GPU classes. How it behaves: docs/services.md."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, TypeVar, cast
from urllib.parse import quote

import httpx
import tenacity
from pydantic import BaseModel, Field, SecretStr

from flux_training.clients.errors import NotFound, Service, Unavailable
from flux_training.clients.gpu_classes import GpuAvailability, GpuClass, find_gpu_class
from flux_training.clients.http import Answer, Http, RetryPolicy, shared_limiter
from flux_training.training.errors import BadInput

SALAD_URL = "https://api.salad.com/api/public"
REQUESTS_PER_MINUTE = 240
NAME = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]")
DISPLAY_NAME = re.compile(r"[ ,\-.0-9A-Za-z]{2,63}")
MAX_VALUE_LENGTH = 1000
GIB = 1024**3
MAX_POLL_SECONDS = 5.0
LOG_PAGE_SIZE, LOG_PAGES = 100, 20

T = TypeVar("T")

Priority = Literal["high", "medium", "low", "batch"]


class Resources(Answer):
    """The resources of a replica. Memory in MB, storage in bytes, GPU classes by UUID."""

    cpu: int
    memory: int
    storage_amount: int | None = None
    gpu_classes: list[str] = Field(default_factory=list)


class Container(Answer):
    """What a group's replicas run. Environment values can be credentials, so all are SecretStr."""

    image: str
    resources: Resources
    environment_variables: dict[str, SecretStr] = Field(default_factory=dict)


class GroupState(Answer):
    """pending, running, stopped, succeeded, failed or deploying."""

    status: str
    description: str = ""


class ContainerGroup(Answer):
    """A container group in SaladCloud's answers. They have `priority` here; requests have it below `container`."""

    id: str
    name: str
    container: Container
    display_name: str = ""
    priority: str | None = None
    replicas: int
    autostart_policy: bool = True
    current_state: GroupState
    version: int = 1

    def environment_value(self, name: str) -> str | None:
        """One value of the group's environment, in plain text."""
        value = self.container.environment_variables.get(name)
        return None if value is None else value.get_secret_value()


class Instance(Answer):
    """One replica: allocating, downloading, creating, running or stopping."""

    id: str
    machine_id: str = ""
    state: str


class GroupSpec(BaseModel, extra="forbid", frozen=True):
    """The desired container group. Builds the bodies of requests that create and change it.

    Memory in MB, storage in bytes, GPU classes by UUID. No command: the image starts the worker by itself.
    """

    name: str
    image: str
    environment: dict[str, str | SecretStr] = {}
    cpu: int = 4
    memory: int = 24 * 1024
    storage: int = 50 * GIB
    gpu_classes: list[str] = []
    priority: Priority = "batch"
    replicas: int = 0
    autostart: bool = True
    image_caching: bool = True
    display_name: str | None = None

    @property
    def secrets(self) -> tuple[SecretStr, ...]:
        """The secret values of its environment."""
        return tuple(value for value in self.environment.values() if isinstance(value, SecretStr))

    def findings(self) -> list[str]:
        """Everything that SaladCloud would refuse."""
        return [*self._name_findings(), *self._size_findings(), *self._environment_findings()]

    def create_body(self) -> dict[str, Any]:
        """The body of the request that creates the group, with credentials in plain text. Raises BadInput."""
        findings = self.findings()
        if findings:
            raise BadInput(findings)
        return {
            "name": self.name,
            "autostart_policy": self.autostart,
            "restart_policy": "always",
            **self._changeable_fields(),
        }

    def patch_body(self, before: GroupSpec | None = None) -> dict[str, Any]:
        """The merge patch for an existing group; with `before`, only the differences from it.

        Without name, autostart policy and restart policy, which SaladCloud cannot change. Any change below `container` restarts
        every replica. Raises BadInput.
        """
        findings = self.findings()
        if findings:
            raise BadInput(findings)
        wanted = self._changeable_fields()
        if before is None:
            return wanted
        return _merge_patch(before._changeable_fields(), wanted)

    def _changeable_fields(self) -> dict[str, Any]:
        resources = {
            "cpu": self.cpu,
            "memory": self.memory,
            "storage_amount": self.storage,
            "gpu_classes": self.gpu_classes,
        }
        container: dict[str, Any] = {
            "image": self.image,
            "image_caching": self.image_caching,
            "priority": self.priority,
            "resources": resources,
            "environment_variables": {name: _plain(value) for name, value in self.environment.items()},
        }
        body: dict[str, Any] = {"container": container, "replicas": self.replicas}
        if self.display_name is not None:
            body["display_name"] = self.display_name
        return body

    def _name_findings(self) -> list[str]:
        found = []
        if not NAME.fullmatch(self.name):
            found.append(
                f"the container group's name ({self.name!r}) must be 2 to 63 of a-z, 0-9 and -, begin with a "
                "letter and not end with -; choose another name"
            )
        if self.display_name is not None and not DISPLAY_NAME.fullmatch(self.display_name):
            found.append(
                f"the container group's display name ({self.display_name!r}) must be 2 to 63 letters, "
                "digits, spaces, commas, hyphens and full stops; choose another"
            )
        return found

    def _size_findings(self) -> list[str]:
        limits = (
            ("cpu", self.cpu, 1, 1024, "cores"),
            ("memory", self.memory, 1024, 2**30, "MB"),
            ("storage", self.storage, GIB, 2**50, "bytes"),
            ("replicas", self.replicas, 0, 500, "replicas"),
        )
        return [
            f"the container group's {name} ({value}) must be {least} to {most} {unit}; change the setting"
            for name, value, least, most, unit in limits
            if not least <= value <= most
        ]

    def _environment_findings(self) -> list[str]:
        """Shows the length of a value, never the value, which can be a credential."""
        return [
            f"the environment value {name} has {len(_plain(value))} characters; SaladCloud takes 1 to "
            f"{MAX_VALUE_LENGTH}; "
            + ("leave it out or give it a value" if not _plain(value) else "shorten it")
            for name, value in self.environment.items()
            if not 1 <= len(_plain(value)) <= MAX_VALUE_LENGTH
        ]


class LogResource(Answer):
    """Where a log line comes from. SaladCloud does not document the labels."""

    labels: dict[str, str] = Field(default_factory=dict)


class LogEntry(Answer):
    """One line that a container has logged."""

    time: datetime
    text_log: str = ""
    json_log: dict[str, Any] = Field(default_factory=dict)
    severity: str = "default"
    resource: LogResource = LogResource()

    def is_of(self, names: Collection[str]) -> bool:
        """Whether one of its labels is one of these ids or names."""
        return any(value in names for value in self.resource.labels.values())


class _LogEntries(Answer):
    items: list[LogEntry] = Field(default_factory=list)
    page_min_time: datetime | None = None


class Quotas(Answer):
    """How many replicas all groups of the organization may have, and have."""

    quota: int = Field(alias="container_replicas_quota")
    used: int = Field(0, alias="container_replicas_used")


class _Quotas(Answer):
    container_groups_quotas: Quotas


class _GpuClasses(Answer):
    items: list[GpuClass]


class _Groups(Answer):
    items: list[ContainerGroup]


class _Instances(Answer):
    instances: list[Instance]


class Salad:
    """SaladCloud's API for one project. Thread-safe. The clients of one key share its 240 requests a minute."""

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
        self._organization = f"organizations/{quote(organization, safe='')}"
        self._groups = f"{self._organization}/projects/{quote(project, safe='')}/containers"
        self._retry_policy = retry_policy or RetryPolicy()
        fingerprint = hashlib.sha256(f"{url} {api_key.get_secret_value()}".encode()).hexdigest()
        refused = (
            "check the SaladCloud API key, the organization and the project "
            f"(given: organization {organization}, project {project})"
        )
        self._http = Http(
            Service("SaladCloud", url, if_refused=refused, if_down=if_down, secrets=(api_key,)),
            {"Salad-Api-Key": api_key},
            transport=transport,
            limiter=shared_limiter(fingerprint, REQUESTS_PER_MINUTE),
            retry_policy=self._retry_policy,
        )

    def __repr__(self) -> str:
        return f"<Salad at {self._http.service.host}>"

    def gpu_classes(self) -> list[GpuClass]:
        """The available GPUs, with prices."""
        return self._http.get(_GpuClasses, f"{self._organization}/gpu-classes").items

    def gpu_availability(self, gpu_class: str) -> GpuAvailability:
        """How many replicas of a GPU class (its UUID) could start now."""
        body = {"gpu_classes": [gpu_class]}
        path = f"{self._organization}/availability/sce-gpu-availability"
        answer = self._http.request("POST", path, body=body, repeatable=True)
        return self._http.parse_body(GpuAvailability, answer)

    def gpu_class_id(self, name_or_uuid: str) -> str:
        """The UUID of the GPU class of this name or UUID. Raises BadInput with similar names."""
        return find_gpu_class(self.gpu_classes(), name_or_uuid).id

    def quotas(self) -> Quotas:
        """The organization's limits."""
        return self._http.get(_Quotas, f"{self._organization}/quotas").container_groups_quotas

    def log_entries(self, start: datetime, end: datetime, of: Collection[str], most: int) -> list[LogEntry]:
        """The last `most` lines between two times whose labels contain one of `of`, oldest first.

        The query language of the API is not documented, so this reads all lines of the organization, newest first, at most
        LOG_PAGES pages of them. Raises NotFound if the API does not offer logs.
        """
        found: list[LogEntry] = []
        for _ in range(LOG_PAGES):
            body = {
                "query": "",
                "start_time": start.isoformat(),
                "end_time": end.isoformat(),
                "page_size": LOG_PAGE_SIZE,
                "sort_order": "desc",
            }
            answer = self._http.request(
                "POST", f"{self._organization}/log-entries", body=body, repeatable=True
            )
            page = self._http.parse_body(_LogEntries, answer)
            found += [entry for entry in page.items if entry.is_of(of)]
            earlier = page.page_min_time
            if len(found) >= most or len(page.items) < LOG_PAGE_SIZE or earlier is None or earlier >= end:
                break
            end = earlier
        return sorted(found, key=lambda entry: entry.time)[-most:]

    def list_groups(self) -> list[ContainerGroup]:
        """All container groups of the project."""
        return self._http.get(_Groups, self._groups).items

    def get_group(self, name: str) -> ContainerGroup | None:
        """The container group, or None."""
        return self._http.find(ContainerGroup, self._group(name))

    def create_group(self, spec: GroupSpec) -> ContainerGroup:
        """Create the group. Raises BadInput, Conflict (the name is taken), UncertainOutcome (look it up by name)."""
        answer = self._http.request("POST", self._groups, body=spec.create_body(), secrets=spec.secrets)
        return self._http.parse_body(ContainerGroup, answer)

    def patch_group(
        self, name: str, patch: Mapping[str, Any], secrets: Sequence[SecretStr] = ()
    ) -> ContainerGroup:
        """Change the group. `patch` and `secrets` come from one GroupSpec. Raises NotFound."""
        answer = self._http.request(
            "PATCH",
            self._group(name),
            body=dict(patch),
            content_type="application/merge-patch+json",
            secrets=secrets,
        )
        return self._http.parse_body(ContainerGroup, answer)

    def delete_group(self, name: str, wait_seconds: float = 300) -> None:
        """Delete the group, if it exists, and wait until it is gone.

        SaladCloud answers before it deletes, and until then the name is taken. Raises Unavailable after `wait_seconds`.
        """
        group = self.get_group(name)
        if group is None:
            return
        self._http.delete(self._group(name))
        self._wait_for(
            lambda: (there := self.get_group(name)) is None or there.id != group.id,
            wait_seconds,
            f"SaladCloud is still deleting the container group {name} after {wait_seconds:.0f} s",
            "the name cannot be used again until then",
        )

    def prepared(self, group: ContainerGroup, wait_seconds: float = 300) -> ContainerGroup:
        """Wait until the group is not `pending`: SaladCloud first stores its image, and cannot start the group before.

        Raises NotFound, and Unavailable after `wait_seconds`.
        """
        if group.current_state.status != "pending":
            return group

        def once_prepared() -> ContainerGroup | None:
            now = self._http.get(ContainerGroup, self._group(group.name))
            return None if now.current_state.status == "pending" else now

        return self._wait_for(
            once_prepared,
            wait_seconds,
            f"SaladCloud is still preparing the image of container group {group.name} after {wait_seconds:.0f} s",
            "it can start the group only after that",
        )

    def start_group(self, name: str) -> None:
        """Start the group. Raises NotFound."""
        self._http.request("POST", self._group(name) + "/start", repeatable=True)

    def stop_group(self, name: str) -> None:
        """Stop the group. Raises NotFound."""
        self._http.request("POST", self._group(name) + "/stop", repeatable=True)

    def instances(self, name: str) -> list[Instance]:
        """The current replicas of the group. Raises NotFound."""
        return self._http.get(_Instances, self._group(name) + "/instances").instances

    def reallocate(self, name: str, instance_id: str) -> None:
        """Replace an instance by one on another machine. An unknown instance is ignored."""
        with suppress(NotFound):
            path = f"{self._group(name)}/instances/{quote(instance_id, safe='')}/reallocate"
            self._http.request("POST", path, repeatable=True)

    def reallocate_machine(self, name: str, machine_id: str) -> bool:
        """Replace the group's instance on this machine. Returns whether there is one. Raises NotFound for an unknown group."""
        # An instance that has not been given a machine yet has no machine id.
        there = self.instances(name) if machine_id else []
        found = [instance.id for instance in there if instance.machine_id == machine_id]
        for instance_id in found:
            self.reallocate(name, instance_id)
        return bool(found)

    def _wait_for(self, poll: Callable[[], T | None], seconds: float, not_yet: str, why: str) -> T:
        """Call `poll` until it returns a value, at growing intervals. Raises Unavailable."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda found: not found),
            stop=tenacity.stop_after_delay(seconds),
            wait=tenacity.wait_exponential(0.1, MAX_POLL_SECONDS, 1.5),
            sleep=self._retry_policy.sleep,
        )
        try:
            return cast(T, retrying(poll))
        except tenacity.RetryError:
            raise Unavailable(not_yet, why, "wait a few minutes and run the same command again") from None

    def _group(self, name: str) -> str:
        """The path of the group. Escaped, so that an invalid name cannot lead elsewhere."""
        return f"{self._groups}/{quote(name, safe='')}"


def _merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7396) from `old` to `new`. Removed values become null."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        if isinstance(value, Mapping) and isinstance(old.get(name), Mapping):
            if below := _merge_patch(old[name], value):
                patch[name] = below
        elif name not in old or old[name] != value:
            patch[name] = value
    return patch


def _plain(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
