"""The whole of a stack: bucket, datasets, container group, jobs, scaling rule, in the order that money asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi.dynamic import Resource

from components.aws import AwsArgs, AwsStorage
from components.bucket import Bucket
from components.container_group import TrainingGroup
from components.dataset import PIPELINE, Dataset
from components.declared_runs import DeclaredRuns
from components.dev_group import DevGroup, dev_environment, tunnel_name
from components.images import TrainerImages
from components.node_environment import fingerprint
from components.node_keys import NodeKeys
from components.scaling_rule import ScalingRule
from components.training_job import TrainingJob
from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.runs.node_rights import node_prefixes
from flux_training.training.runs.run import Layout
from flux_training.training.settings import ClusterSettings, StackSettings


@dataclass(frozen=True)
class Surroundings:
    """What the pipeline is told besides the settings.

    `owner` is `<project>/<stack>`; `home` where its resources live. `credentials` is a fingerprint of what the nodes get, so that a new key shows as a change.
    `unfinished` counts the declared runs without verified weights; it matters only without autoscaling.
    `keys_end`: when the nodes' temporary keys are to end, empty where they have no end. `retention`: how keys begin → days.
    `parent` names the keys that temporary ones are made from, without showing them.
    """

    owner: str
    home: str
    credentials: str
    unfinished: int
    region: str = ""
    keys_end: str = ""
    parent: str = ""
    retention: Mapping[str, int] = field(default_factory=dict)


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
        super().__init__(PIPELINE, name, None, opts)
        self._settings = settings
        self._surroundings = surroundings
        storage = settings.storage
        self._home = {"home": surroundings.home}
        self.place = {**self._home, "bucket": storage.bucket, "prefix": storage.key_prefix}
        self.bucket = self._bucket()
        datasets = {job.name: self._dataset(job) for job in jobs if job.dataset_of == job.name}
        self.images = self._images()
        self.group = self._group(len(jobs), self._node_keys())
        self.dev = self._dev()
        declared = self._declared_runs(jobs)
        self.jobs = {job.name: self._job(job, [datasets[job.dataset_of], declared]) for job in jobs}
        if settings.cluster.autoscale:
            self._rule(len(jobs))
        self.register_outputs({})

    def summary(self) -> dict[str, pulumi.Output[dict[str, Any]]]:
        """The stack outputs of the jobs, by name: all from the resources, none from the folders, which may have changed since."""
        return {name: job.summary for name, job in self.jobs.items()}

    def cost(self) -> pulumi.Output[dict[str, Any]]:
        """The stack output `cost`: each job's estimate when it was queued, and what it has taken as last seen; dollars and hours."""
        return pulumi.Output.all(**{name: job.cost for name, job in self.jobs.items()}).apply(in_sum)

    def dev_summary(self) -> dict[str, Any] | None:
        """The stack output of the dev container group: where to open it in a browser, once its log has been logged in from."""
        if self.dev is None:
            return None
        tunnel = tunnel_name(self._settings.dev_name, self._settings.dev.tunnel)
        return {
            "id": self.dev.id,
            "name": self._settings.dev_name,
            "tunnel": tunnel,
            "page": f"https://vscode.dev/tunnel/{tunnel}",
        }

    @property
    def _whole_on_aws(self) -> bool:
        """Whether the bucket's own settings on AWS are this stack's to make."""
        storage = self._settings.storage
        return storage.kind == "aws" and not storage.key_prefix and not self._settings.adopt

    def _bucket(self) -> Bucket:
        props = {
            "kind": self._settings.storage.kind,
            **self.place,
            "location": self._settings.storage.location,
            "owner": self._surroundings.owner,
            "adopt": self._settings.adopt,
            "results": self._settings.results,
            "retention": None if self._whole_on_aws else dict(self._surroundings.retention) or None,
        }
        return Bucket("bucket", props, pulumi.ResourceOptions(parent=self))

    def _dataset(self, job: DeclaredJob) -> Dataset:
        props = {
            **self.place,
            "name": job.name,
            "folder": str(job.image_set.folder),
            "digest": job.image_set.digest,
            "images": job.image_set.count,
            "owner": self._surroundings.owner,
        }
        return Dataset(job.name, props, pulumi.ResourceOptions(parent=self, depends_on=[self.bucket]))

    def _images(self) -> TrainerImages | None:
        image = self._settings.image
        if not image.build:
            return None
        dev = self._settings.dev
        with_dev = dev.enabled and dev.image is None
        return TrainerImages("images", image, with_dev, opts=pulumi.ResourceOptions(parent=self))

    def _node_keys(self) -> pulumi.Output[dict[str, str]] | None:
        """Keys made for the nodes alone; None where they get those that were given (storage.kind s3)."""
        storage, told = self._settings.storage, self._surroundings
        layout = Layout(storage.key_prefix)
        if storage.kind == "aws":
            args = AwsArgs(
                storage.bucket,
                layout,
                told.region,
                told.owner,
                told.retention,
                storage.rotate,
                self._whole_on_aws,
            )
            return AwsStorage("aws", args, self.bucket, pulumi.ResourceOptions(parent=self)).keys
        if storage.kind != "r2":
            return None
        props = {
            **self._home,
            "bucket": storage.bucket,
            "prefixes": ", ".join(node_prefixes(layout)),
            "credentials": storage.credentials,
            "end": told.keys_end,
            "rotate": storage.rotate,
            "parent": told.parent,
            "owner": told.owner,
        }
        options = pulumi.ResourceOptions(parent=self, depends_on=[self.bucket])
        return NodeKeys("node-keys", props, options).keys

    def _dev(self) -> DevGroup | None:
        dev, cluster = self._settings.dev, self._settings.cluster
        if not dev.enabled:
            return None
        tunnel = tunnel_name(self._settings.dev_name, dev.tunnel)
        props = {
            **self._machine(),
            "name": self._settings.dev_name,
            "image": dev.image or (self.images.dev if self.images else None),
            "gpu": dev.gpu or cluster.gpu,
            "replicas": 1,
            "autoscale": False,
            "variables": "",
            "credentials": fingerprint(dev_environment(tunnel)),
            "tunnel": tunnel,
            "owner": self._surroundings.owner,
            "adopt": False,
        }
        return DevGroup("dev", props, pulumi.ResourceOptions(parent=self))

    def _machine(self) -> dict[str, Any]:
        cluster = self._settings.cluster
        return {
            **self._home,
            "priority": cluster.priority,
            "cpu": cluster.cpu,
            "memory": cluster.memory,
            "storage": cluster.storage,
        }

    def _group(self, declared: int, keys: pulumi.Output[dict[str, str]] | None) -> TrainingGroup:
        cluster = self._settings.cluster
        least, most = cluster_size(cluster, declared)
        props = {
            **self._machine(),
            "name": cluster.name,
            "image": self.images.worker if self.images else cluster.image,
            "gpu": cluster.gpu,
            "replicas": least if cluster.autoscale else min(most, self._surroundings.unfinished),
            "autoscale": cluster.autoscale,
            "variables": ", ".join(sorted(cluster.environment)),
            # Who reads it and knows the rest of the environment could try short passwords against it.
            "credentials": pulumi.Output.secret(self._surroundings.credentials),
            "keys": keys,
            "keysEnd": self._surroundings.keys_end or None,
            "owner": self._surroundings.owner,
            "adopt": self._settings.adopt,
        }
        return TrainingGroup("cluster", props, pulumi.ResourceOptions(parent=self))

    def _declared_runs(self, jobs: Sequence[DeclaredJob]) -> DeclaredRuns:
        props = {**self.place, "groupId": self.group.id, "runs": {job.name: job.run_id for job in jobs}}
        # After the bucket: a place that it refuses to leave must not have its jobs canceled.
        return DeclaredRuns("runs", props, pulumi.ResourceOptions(parent=self, depends_on=[self.bucket]))

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
        # None takes as much memory as a value while the job is registered.
        given = {name: value for name, value in props.items() if value is not None}
        return TrainingJob(job.name, given, pulumi.ResourceOptions(parent=self, depends_on=needs))

    def _rule(self, declared: int) -> ScalingRule:
        cluster = self._settings.cluster
        least, most = cluster_size(cluster, declared)
        props = {
            **self._home,
            "groupId": self.group.id,
            "groupName": cluster.name,
            "owner": self._surroundings.owner,
            "minReplicas": least,
            "maxReplicas": most,
            "idleThresholdSeconds": cluster.idle_threshold_seconds,
        }
        # After the jobs, so that it goes before them: a job canceled under a rule counts as active and would start a GPU.
        return ScalingRule(
            "scaling", props, pulumi.ResourceOptions(parent=self, depends_on=list(self.jobs.values()))
        )
