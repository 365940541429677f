"""The whole of a stack: bucket, datasets, container group, jobs, scaling rule, in the order that money asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.dynamic import Resource

from components.bucket import Bucket
from components.container_group import TrainingGroup
from components.dataset import Dataset
from components.declared_runs import DeclaredRuns
from components.scaling_rule import ScalingRule
from components.training_job import TrainingJob
from training.declare import DeclaredJob
from training.settings import ClusterSettings, StackSettings


@dataclass(frozen=True)
class Surroundings:
    """What the pipeline is told besides the settings.

    `owner` is `<project>/<stack>`; `home` where its resources live. `credentials` is a fingerprint of what the nodes get, so that a new key shows as a change.
    `unfinished` counts the declared runs without verified weights; it matters only without autoscaling.
    """

    owner: str
    home: str
    credentials: str
    unfinished: int


def cluster_size(cluster: ClusterSettings, declared: int) -> tuple[int, int]:
    """(min, max) replicas: no more replicas than jobs, for one more could only idle."""
    most = min(cluster.max_replicas, declared)
    return min(cluster.min_replicas, most), most


def in_sum(jobs: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """The jobs' costs with their sums, as far as they are known."""
    known = {name: dict(cost) for name, cost in jobs.items() if cost}
    sums = {
        key: round(sum(cost.get(key, 0.0) for cost in known.values()), 4)
        for key in ("estimateUsd", "actualUsd")
        if any(key in cost for cost in known.values())
    }
    return {**sums, "jobs": known}


def resource_urn(parent: pulumi.ComponentResource, kind: type[Resource], name: str) -> str:
    """The URN that a dynamic resource below a top-level component will have: its provider is not told."""
    types = f"{parent.pulumi_resource_type}$pulumi-python:{kind._resource_type_name}"
    return f"urn:pulumi:{pulumi.get_stack()}::{pulumi.get_project()}::{types}::{name}"


class TrainingPipeline(pulumi.ComponentResource):
    """Its jobs are `summary()`, by name."""

    def __init__(
        self,
        name: str,
        settings: StackSettings,
        jobs: Sequence[DeclaredJob],
        surroundings: Surroundings,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("flux:index:TrainingPipeline", name, None, opts)
        self._settings = settings
        self._surroundings = surroundings
        storage = settings.storage
        self._home = {"home": surroundings.home}
        self.place = {**self._home, "bucket": storage.bucket, "prefix": storage.key_prefix}
        self.bucket = self._bucket()
        datasets = {job.name: self._dataset(job) for job in jobs if job.dataset_of == job.name}
        self.group = self._group(len(jobs))
        declared = self._declared_runs(jobs)
        self.jobs = {job.name: self._job(job, [datasets[job.dataset_of], declared]) for job in jobs}
        if settings.cluster.autoscale:
            self._rule(len(jobs))
        self.register_outputs({})

    def summary(self) -> dict[str, Any]:
        """The stack outputs of the jobs, by name: all from the resources, none from the folders, which may have changed since."""
        return {
            name: {
                "kelpieId": job.kelpieId,
                "runId": job.runId,
                "status": job.status,
                "reason": job.reason,
                "results": job.results,
                "folder": job.place,
                "steps": job.steps,
                "stallMinutes": job.stallMinutes,
            }
            for name, job in self.jobs.items()
        }

    def cost(self) -> pulumi.Output[dict[str, Any]]:
        """The stack output `cost`: each job's estimate when it was queued, and what it has taken as last seen; dollars and hours."""
        return pulumi.Output.all(**{name: job.cost for name, job in self.jobs.items()}).apply(in_sum)

    def _bucket(self) -> Bucket:
        props = {
            "kind": self._settings.storage.kind,
            **self.place,
            "owner": self._surroundings.owner,
            "adopt": self._settings.adopt,
            "results": self._settings.results,
        }
        return Bucket("bucket", props, pulumi.ResourceOptions(parent=self))

    def _dataset(self, job: DeclaredJob) -> Dataset:
        props = {
            **self.place,
            "name": job.name,
            "folder": str(job.image_set.folder),
            "digest": job.image_set.digest,
            "images": job.image_set.count,
            "bytes": job.image_set.size,
            "urn": resource_urn(self, Dataset, job.name),
        }
        return Dataset(job.name, props, pulumi.ResourceOptions(parent=self, depends_on=[self.bucket]))

    def _group(self, declared: int) -> TrainingGroup:
        cluster = self._settings.cluster
        least, most = cluster_size(cluster, declared)
        props = {
            **self._home,
            "name": cluster.name,
            "image": cluster.image,
            "gpu": cluster.gpu,
            "priority": cluster.priority,
            "cpu": cluster.cpu,
            "memory": cluster.memory,
            "storage": cluster.storage,
            "replicas": least if cluster.autoscale else min(most, self._surroundings.unfinished),
            "autoscale": cluster.autoscale,
            "variables": ", ".join(sorted(cluster.environment)),
            "credentials": self._surroundings.credentials,
            "owner": self._surroundings.owner,
            "adopt": self._settings.adopt,
        }
        return TrainingGroup("cluster", props, pulumi.ResourceOptions(parent=self))

    def _declared_runs(self, jobs: Sequence[DeclaredJob]) -> DeclaredRuns:
        props = {**self.place, "groupId": self.group.id, "runs": {job.name: job.run_id for job in jobs}}
        return DeclaredRuns("runs", props, pulumi.ResourceOptions(parent=self))

    def _job(self, job: DeclaredJob, needs: list[Resource]) -> TrainingJob:
        webhook = job.settings.webhook or self._settings.webhook
        props = {
            "job": job.name,
            "folder": str(job.folder.path),
            "dataset": job.settings.dataset,
            "digest": job.image_set.digest,
            "runId": job.run_id,
            "attempt": job.settings.attempt,
            "parent": job.parent,
            "steps": job.folder.config.steps,
            "groupId": self.group.id,
            "groupName": self._settings.cluster.name,
            **self.place,
            "maxHours": job.settings.max_hours,
            "stallMinutes": job.settings.stall_minutes,
            "webhook": pulumi.Output.secret(webhook) if webhook else None,
            "owner": self._surroundings.owner,
        }
        return TrainingJob(job.name, props, pulumi.ResourceOptions(parent=self, depends_on=needs))

    def _rule(self, declared: int) -> ScalingRule:
        cluster = self._settings.cluster
        least, most = cluster_size(cluster, declared)
        props = {
            **self._home,
            "groupId": self.group.id,
            "minReplicas": least,
            "maxReplicas": most,
            "idleThresholdSeconds": cluster.idle_threshold_seconds,
        }
        # After the jobs, so that it goes before them: a job canceled under a rule counts as active and would start a GPU.
        return ScalingRule(
            "scaling", props, pulumi.ResourceOptions(parent=self, depends_on=list(self.jobs.values()))
        )
