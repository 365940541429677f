"""All resources of a stack: bucket, datasets, container group, jobs and scaling rule, in the order that costs least."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pulumi
from pulumi.dynamic import Resource

from components.aws import AwsArgs, AwsStorage
from components.bucket import Bucket, BucketArgs
from components.container_group import ContainerGroupArgs, TrainingGroup, fingerprint
from components.dataset import PIPELINE, Dataset, DatasetArgs
from components.declared_runs import DeclaredRuns, DeclaredRunsArgs
from components.dev_group import DevGroup, dev_environment, tunnel_name
from components.images import TrainerImages
from components.node_keys import NodeKeys, NodeKeysArgs
from components.properties import as_field
from components.scaling_rule import ScalingRule, ScalingRuleArgs
from components.training_job import TrainingJob, TrainingJobArgs
from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.runs.node_rights import node_prefixes
from flux_training.training.runs.run import Layout
from flux_training.training.settings import ClusterSettings, StackSettings


@dataclass(frozen=True)
class PipelineContext:
    """What the pipeline needs besides the settings.

    `owner` is `<project>/<stack>`; `home` is where its resources live. `credentials` is a fingerprint of the nodes' environment, so
    that a new key shows as a change. `unfinished` counts the declared runs without verified weights; it matters only without
    autoscaling. `keys_end` is when the nodes' temporary keys should end, empty if they have no end, and `parent` identifies the keys
    that they are derived from. `retention`: days by key prefix.
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
    """(min, max) replicas: never more than jobs, because one more could only idle."""
    largest = min(cluster.max_replicas, declared)
    return min(cluster.min_replicas, largest), largest


def total_cost(jobs: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """The jobs' costs and their totals, as far as they are known."""
    known = {name: dict(cost) for name, cost in jobs.items() if cost}
    totals = {
        key: round(sum(cost.get(key, 0.0) for cost in known.values()), 4)
        for key in ("estimateUsd", "actualUsd")
        if any(key in cost for cost in known.values())
    }
    return {**totals, "jobs": known}


class TrainingPipeline(pulumi.ComponentResource):
    """Its jobs are `summary()`, by name."""

    def __init__(
        self,
        name: str,
        settings: StackSettings,
        jobs: Sequence[DeclaredJob],
        context: PipelineContext,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(PIPELINE, name, None, opts)
        self._settings = settings
        self._context = context
        self._layout = Layout(settings.storage.key_prefix)
        self.bucket = self._bucket()
        datasets = {job.name: self._dataset(job) for job in jobs if job.dataset_of == job.name}
        self.images = self._images()
        cluster = self._group_args(len(jobs), self._node_keys())
        self.group = TrainingGroup("cluster", cluster, self._options())
        self.dev = self._dev(cluster)
        declared = self._declared_runs(jobs)
        self.jobs = {job.name: self._job(job, [datasets[job.dataset_of], declared]) for job in jobs}
        if settings.cluster.autoscale:
            self._rule(len(jobs))
        self.register_outputs({})

    def summary(self) -> dict[str, pulumi.Output[dict[str, Any]]]:
        """The stack output `jobs`: from the resources alone, because the folders may have changed since."""
        return {name: job.summary for name, job in self.jobs.items()}

    def cost(self) -> pulumi.Output[dict[str, Any]]:
        """The stack output `cost`, in dollars and hours: each job's estimate when it was queued, and its use so far."""
        return pulumi.Output.all(**{name: job.cost for name, job in self.jobs.items()}).apply(total_cost)

    def dev_summary(self) -> dict[str, Any] | None:
        """The stack output `dev`: where to open the dev container group in a browser, after signing in from its log."""
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
    def _owns_aws_bucket(self) -> bool:
        """Whether this stack manages the settings of the whole bucket on AWS."""
        storage = self._settings.storage
        return storage.kind == "aws" and not storage.key_prefix and not self._settings.adopt

    def _options(self, *needs: Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, depends_on=list(needs))

    def _bucket(self) -> Bucket:
        settings, context = self._settings, self._context
        args = BucketArgs(
            home=context.home,
            kind=settings.storage.kind,
            bucket=settings.storage.bucket,
            prefix=self._layout.prefix,
            location=settings.storage.location,
            owner=context.owner,
            adopt=settings.adopt,
            results=settings.results,
            retention=None if self._owns_aws_bucket else dict(context.retention) or None,
        )
        return Bucket("bucket", args, self._options())

    def _dataset(self, job: DeclaredJob) -> Dataset:
        args = DatasetArgs(
            home=self._context.home,
            bucket=self._settings.storage.bucket,
            prefix=self._layout.prefix,
            name=job.name,
            folder=str(job.image_set.folder),
            digest=job.image_set.digest,
            images=job.image_set.count,
            owner=self._context.owner,
        )
        return Dataset(job.name, args, self._options(self.bucket))

    def _images(self) -> TrainerImages | None:
        image, dev = self._settings.image, self._settings.dev
        if not image.build:
            return None
        return TrainerImages("images", image, dev.enabled and dev.image is None, opts=self._options())

    def _node_keys(self) -> pulumi.Output[dict[str, str]] | None:
        """Keys issued for the nodes; None if they get the given ones (storage.kind s3)."""
        storage, context = self._settings.storage, self._context
        if storage.kind == "aws":
            aws = AwsArgs(
                storage.bucket,
                self._layout,
                context.region,
                context.owner,
                context.retention,
                storage.rotate,
                self._owns_aws_bucket,
            )
            return AwsStorage("aws", aws, self.bucket, self._options()).keys
        if storage.kind != "r2":
            return None
        args = NodeKeysArgs(
            home=context.home,
            bucket=storage.bucket,
            prefixes=", ".join(node_prefixes(self._layout)),
            credentials=storage.credentials,
            end=context.keys_end,
            rotate=storage.rotate,
            parent=context.parent,
            owner=context.owner,
        )
        return NodeKeys("node-keys", args, self._options(self.bucket)).keys

    def _dev(self, cluster: ContainerGroupArgs) -> DevGroup | None:
        """On the machine of the cluster's replicas, but with an image, GPU and environment of its own."""
        dev = self._settings.dev
        if not dev.enabled:
            return None
        tunnel = tunnel_name(self._settings.dev_name, dev.tunnel)
        built = self.images.dev if self.images else None
        args = replace(
            cluster,
            name=self._settings.dev_name,
            image=dev.image or (as_field(built) if built else ""),
            gpu=dev.gpu or cluster.gpu,
            replicas=1,
            autoscale=False,
            variables="",
            credentials=fingerprint(dev_environment(tunnel)),
            keys=None,
            keys_end=None,
            tunnel=tunnel,
            adopt=False,
        )
        return DevGroup("dev", args, self._options())

    def _group_args(self, declared: int, keys: pulumi.Output[dict[str, str]] | None) -> ContainerGroupArgs:
        cluster, context = self._settings.cluster, self._context
        smallest, largest = cluster_size(cluster, declared)
        return ContainerGroupArgs(
            home=context.home,
            name=cluster.name,
            image=as_field(self.images.worker) if self.images else cluster.image,
            gpu=cluster.gpu,
            priority=cluster.priority,
            cpu=cluster.cpu,
            memory=cluster.memory,
            storage=cluster.storage,
            replicas=smallest if cluster.autoscale else min(largest, context.unfinished),
            autoscale=cluster.autoscale,
            variables=", ".join(sorted(cluster.environment)),
            # Secret: someone who knows the rest of the environment could test short passwords against it.
            credentials=as_field(pulumi.Output.secret(context.credentials)),
            keys=as_field(keys) if keys else None,
            keys_end=context.keys_end or None,
            owner=context.owner,
            adopt=self._settings.adopt,
        )

    def _declared_runs(self, jobs: Sequence[DeclaredJob]) -> DeclaredRuns:
        args = DeclaredRunsArgs(
            home=self._context.home,
            group_id=as_field(self.group.id),
            bucket=self._settings.storage.bucket,
            prefix=self._layout.prefix,
            runs={job.name: job.run_id for job in jobs},
        )
        # After the bucket: if that refuses to move, no job must be canceled.
        return DeclaredRuns("runs", args, self._options(self.bucket))

    def _job(self, job: DeclaredJob, needs: list[Resource]) -> TrainingJob:
        webhook = job.settings.webhook or self._settings.webhook
        args = TrainingJobArgs(
            home=self._context.home,
            job=job.name,
            folder=str(job.folder.path),
            dataset=job.settings.dataset,
            digest=job.image_set.digest,
            run_id=job.run_id,
            attempt=job.settings.attempt,
            parent=job.parent,
            steps=job.folder.steps,
            group_id=as_field(self.group.id),
            group_name=self._settings.cluster.name,
            bucket=self._settings.storage.bucket,
            prefix=self._layout.prefix,
            max_hours=job.settings.max_hours,
            stall_minutes=job.settings.stall_minutes,
            webhook=as_field(pulumi.Output.secret(webhook)) if webhook else None,
            owner=self._context.owner,
        )
        return TrainingJob(job.name, args, self._options(*needs))

    def _rule(self, declared: int) -> ScalingRule:
        cluster = self._settings.cluster
        smallest, largest = cluster_size(cluster, declared)
        args = ScalingRuleArgs(
            home=self._context.home,
            group_id=as_field(self.group.id),
            group_name=cluster.name,
            owner=self._context.owner,
            min_replicas=smallest,
            max_replicas=largest,
            idle_threshold_seconds=cluster.idle_threshold_seconds,
        )
        # After the jobs, so that it is deleted before them: a job canceled under a rule counts as active and would start a GPU.
        return ScalingRule("scaling", args, self._options(*self.jobs.values()))
