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
from components.images import TrainerImages, images_resource_name
from components.node_keys import NodeKeys, NodeKeysArgs
from components.properties import output_as_field
from components.scaling_rule import ScalingRule, ScalingRuleArgs
from components.training_job import TrainingJob, TrainingJobArgs
from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.runs.node_rights import node_prefixes
from flux_training.training.runs.run import Layout
from flux_training.training.settings import StackSettings


@dataclass(frozen=True)
class PipelineContext:
    """What the pipeline needs besides the settings. `credentials` and `unfinished` are by cluster.

    `owner` is `<project>/<stack>`; `home` is where its resources live. `credentials` are fingerprints of the nodes' environment, so
    that a new key shows as a change. `unfinished` counts the declared runs without verified weights; it matters only without
    autoscaling. `keys_end` is when the nodes' temporary keys should end, empty if they have no end, and `parent` identifies the keys
    that they are derived from. `retention`: days by key prefix.
    """

    owner: str
    home: str
    credentials: Mapping[str, str]
    unfinished: Mapping[str, int]
    region: str = ""
    keys_end: str = ""
    parent: str = ""
    retention: Mapping[str, int] = field(default_factory=dict)


def cluster_size(cluster: ClusterSettings, declared: int) -> tuple[int, int]:
    """The (minimum, maximum) number of replicas. Never more than there are jobs, because an extra replica would only idle."""
    largest = min(cluster.max_replicas, declared)
    return min(cluster.min_replicas, largest), largest


def resource_name(name: str, cluster: str) -> str:
    """The Pulumi name of a cluster's resource.

    In a stack with a single cluster, it is the name that stacks used before they could have several.
    """
    return f"{name}-{cluster}" if cluster else name


def with_cluster_name(summary: pulumi.Output[dict[str, Any]], cluster: str) -> pulumi.Output[dict[str, Any]]:
    """A job's summary, with the name of its cluster if the cluster has a name."""
    return summary.apply(lambda found: {**found, "cluster": cluster}) if cluster else summary


def total_cost(jobs: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """The cost of each job and the totals, as far as they are known."""
    known = {name: dict(cost) for name, cost in jobs.items() if cost}
    totals = {
        key: round(sum(cost.get(key, 0.0) for cost in known.values()), 4)
        for key in ("estimateUsd", "actualUsd")
        if any(key in cost for cost in known.values())
    }
    return {**totals, "jobs": known}


@dataclass(frozen=True)
class Cluster:
    """One cluster of the stack. `declared` is the number of its jobs."""

    name: str
    settings: ClusterSettings
    declared: int
    group: TrainingGroup

    @property
    def summary(self) -> dict[str, Any]:
        smallest, largest = cluster_size(self.settings, self.declared)
        size = {"min": smallest, "max": largest, "autoscale": self.settings.autoscale}
        return {"id": self.group.id, "name": self.settings.name, "size": size}


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
        keys = self._node_keys()
        by_cluster = {name: [job for job in jobs if job.cluster == name] for name in settings.all_clusters}
        self.clusters = {name: self._cluster(name, len(own), keys) for name, own in by_cluster.items()}
        self.dev = self._dev(keys)
        runs = {name: self._declared_runs(name, own) for name, own in by_cluster.items()}
        self.jobs = {job.name: self._job(job, [datasets[job.dataset_of], runs[job.cluster]]) for job in jobs}
        for name, own in by_cluster.items():
            if settings.all_clusters[name].autoscale:
                self._rule(name, [self.jobs[job.name] for job in own])
        self._places = {job.name: job.cluster for job in jobs}
        self.register_outputs({})

    def summary(self) -> dict[str, pulumi.Output[dict[str, Any]]]:
        """The stack output `jobs`: from the resources alone, because the folders may have changed since."""
        return {name: with_cluster_name(job.summary, self._places[name]) for name, job in self.jobs.items()}

    def cost(self) -> pulumi.Output[dict[str, Any]]:
        """The stack output `cost`, in dollars and hours: each job's estimate when it was queued, and its use so far."""
        costs: dict[str, Any] = {name: job.cost for name, job in self.jobs.items()}
        return pulumi.Output.from_input(costs).apply(total_cost)

    def dev_summary(self) -> dict[str, Any] | None:
        """The stack output `dev`: the URL of the dev container group in a browser. The user first signs in with a code from its log."""
        if self.dev is None:
            return None
        tunnel = tunnel_name(self._settings.dev_group_name, self._settings.dev.tunnel)
        return {
            "id": self.dev.id,
            "name": self._settings.dev_group_name,
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

    def _images(self) -> dict[str, TrainerImages]:
        """The images to build, by the model that they hold."""
        image, dev_model = self._settings.image, self._settings.built_dev_model
        return {
            model: TrainerImages(
                images_resource_name(image, model), image, model, model == dev_model, opts=self._options()
            )
            for model in self._settings.built_models
        }

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

    def _cluster(self, name: str, declared: int, keys: pulumi.Output[dict[str, str]] | None) -> Cluster:
        args = self._group_args(name, declared, keys)
        group = TrainingGroup(resource_name("cluster", name), args, self._options())
        return Cluster(name, self._settings.all_clusters[name], declared, group)

    def _dev(self, keys: pulumi.Output[dict[str, str]] | None) -> DevGroup | None:
        """The dev container group: the same machine size as the cluster, but its own image, GPU and environment."""
        dev = self._settings.dev
        if not dev.enabled:
            return None
        cluster = self._group_args(self._settings.dev_cluster, 0, keys)
        tunnel = tunnel_name(self._settings.dev_group_name, dev.tunnel)
        model = self._settings.built_dev_model
        built = self.images[model].dev if model else None
        args = replace(
            cluster,
            name=self._settings.dev_group_name,
            image=dev.image or (output_as_field(built) if built else ""),
            gpu=dev.gpu or cluster.gpu,
            replicas=1,
            autoscale=False,
            variables="",
            credentials=fingerprint(dev_environment(tunnel)),
            keys=None,
            keys_end=None,
            tunnel=tunnel,
            cluster=None,
            adopt=False,
        )
        return DevGroup("dev", args, self._options())

    def _group_args(
        self, name: str, declared: int, keys: pulumi.Output[dict[str, str]] | None
    ) -> ContainerGroupArgs:
        cluster, context = self._settings.all_clusters[name], self._context
        smallest, largest = cluster_size(cluster, declared)
        model = self._settings.built_model(name) if self._settings.is_built(name) else None
        built = self.images[model].worker if model else None
        return ContainerGroupArgs(
            home=context.home,
            name=cluster.name,
            image=output_as_field(built) if built else cluster.image,
            gpu=cluster.gpu,
            priority=cluster.priority,
            cpu=cluster.cpu,
            memory=cluster.memory,
            storage=cluster.storage,
            replicas=smallest if cluster.autoscale else min(largest, context.unfinished[name]),
            autoscale=cluster.autoscale,
            variables=", ".join(sorted(cluster.environment)),
            # The fingerprint is secret: someone who knows the rest of the environment could use it to guess short passwords.
            credentials=output_as_field(pulumi.Output.secret(context.credentials[name])),
            keys=output_as_field(keys) if keys else None,
            keys_end=context.keys_end or None,
            cluster=name or None,
            owner=context.owner,
            adopt=self._settings.adopt,
        )

    def _declared_runs(self, cluster: str, jobs: Sequence[DeclaredJob]) -> DeclaredRuns:
        args = DeclaredRunsArgs(
            home=self._context.home,
            group_id=output_as_field(self.clusters[cluster].group.id),
            bucket=self._settings.storage.bucket,
            prefix=self._layout.prefix,
            runs={job.name: job.run_id for job in jobs},
        )
        # The declared runs depend on the bucket: if the bucket refuses a change of its location, no job must have been
        # canceled.
        return DeclaredRuns(resource_name("runs", cluster), args, self._options(self.bucket))

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
            group_id=output_as_field(self.clusters[job.cluster].group.id),
            group_name=self.clusters[job.cluster].settings.name,
            bucket=self._settings.storage.bucket,
            prefix=self._layout.prefix,
            max_hours=job.settings.max_hours,
            stall_minutes=job.settings.stall_minutes,
            webhook=output_as_field(pulumi.Output.secret(webhook)) if webhook else None,
            owner=self._context.owner,
        )
        return TrainingJob(job.name, args, self._options(*needs))

    def _rule(self, name: str, jobs: Sequence[TrainingJob]) -> ScalingRule:
        cluster = self._settings.all_clusters[name]
        smallest, largest = cluster_size(cluster, len(jobs))
        args = ScalingRuleArgs(
            home=self._context.home,
            group_id=output_as_field(self.clusters[name].group.id),
            group_name=cluster.name,
            owner=self._context.owner,
            min_replicas=smallest,
            max_replicas=largest,
            idle_threshold_seconds=cluster.idle_threshold_seconds,
        )
        # The rule depends on the jobs, so it is deleted first: with a rule, a job canceled later would count as active and
        # start a GPU.
        return ScalingRule(resource_name("scaling", name), args, self._options(*jobs))
