"""The jobs that a stack declares, from its configuration and the job folders."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flux_training.training.cluster_settings import PUBLIC_IMAGE
from flux_training.training.errors import BadInput
from flux_training.training.finding import Finding, Problem
from flux_training.training.jobs.cap import cap_steps
from flux_training.training.jobs.examine import Examiner, JobExamination, JobPlace
from flux_training.training.jobs.folder import ImageSet, JobFolder
from flux_training.training.lint.rules.stack import stack_rule
from flux_training.training.models.choice import ModelPolicy, choose_model, is_in_image, model_with_weights
from flux_training.training.models.table import DEFAULT_MODEL, MODELS, TrainableModel
from flux_training.training.runs.run import ATTEMPT_VARIABLE, JOB_VARIABLE, RUN_ID_VARIABLE, run_id
from flux_training.training.settings import SINGLE_CLUSTER, JobSettings, StackSettings
from flux_training.training.train_yml.trainer_config import read_trainer_file
from flux_training.training.train_yml.trainer_version import NEWEST, PINNED, PUBLIC_IMAGE_DATE
from flux_training.training.words import nearest

GLOB_CHARACTERS = frozenset("*?[")
# The `place` of a finding that concerns the stack's list of jobs and not one file.
JOBS_SETTING = "jobs"
# The environment variables that train.yml may refer to. The node also has the bucket's access keys, which
# train.yml must not use.
NODE_VARIABLES = frozenset([RUN_ID_VARIABLE, ATTEMPT_VARIABLE, JOB_VARIABLE])


@dataclass(frozen=True)
class DeclaredJob:
    """A job folder with its settings. `dataset_of` is the first declared job with the same images, `parent` the run to continue.

    `cluster`: the name of the cluster that trains it.
    """

    folder: JobFolder
    image_set: ImageSet
    settings: JobSettings
    dataset_of: str
    parent: str | None = None
    cluster: str = SINGLE_CLUSTER

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def run_id(self) -> str:
        return run_id(self.image_set.manifest, self.folder.raw_config, self.settings.attempt, self.parent)

    @property
    def with_own_line_endings(self) -> "DeclaredJob | None":
        """The job with the bytes of its files, as earlier versions hashed them; None if the files are normalized."""
        folder = replace(self.folder, raw_config=self.folder.own_config)
        images = replace(self.image_set, manifest=self.image_set.own_manifest)
        return (
            None
            if (folder, images) == (self.folder, self.image_set)
            else replace(self, folder=folder, image_set=images)
        )


@dataclass(frozen=True)
class ChosenJobs:
    """The settings and clusters of the selected jobs by name, findings about the list itself, and the examined job folders."""

    settings: dict[str, JobSettings] = field(default_factory=dict)
    clusters: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    jobs: list[JobExamination] = field(default_factory=list)


def declare_jobs(
    settings: StackSettings, root: Path = Path(), examiner: Examiner | None = None
) -> list[DeclaredJob]:
    """The declared jobs, sorted by name; raises BadInput with the findings of all of them."""
    chosen = gather_jobs(settings, root, examiner or Examiner())
    findings = chosen.findings + [finding for job in chosen.jobs for finding in job.needed]
    if findings:
        raise BadInput(list(dict.fromkeys(str(finding) for finding in findings)))
    jobs: list[DeclaredJob] = []
    for job in chosen.jobs:
        assert job.made is not None  # noqa: S101 - without findings, every job was made
        folder, images = cap_steps(job.made[0], settings.max_steps), job.made[1]
        cluster = chosen.clusters[job.name]
        jobs.append(DeclaredJob(folder, images, chosen.settings[job.name], job.name, cluster=cluster))
    return link_shared_datasets(jobs)


def link_shared_datasets(jobs: Iterable[DeclaredJob]) -> list[DeclaredJob]:
    """The jobs, with `dataset_of` set to the first of them that has the same images."""
    first_with: dict[str, str] = {}
    return [
        replace(job, dataset_of=first_with.setdefault(job.image_set.digest, job.folder.name)) for job in jobs
    ]


def gather_jobs(
    settings: StackSettings,
    root: Path,
    examiner: Examiner,
    names: Iterable[str] = (),
    declared: bool = True,
) -> ChosenJobs:
    """The declared jobs and the job folders `names`; without `declared` only the latter, and no findings about the list of jobs."""
    jobs_folder = root / settings.jobs_folder
    folders = job_folder_names(jobs_folder)
    chosen, findings = choose_jobs(settings.jobs, folders, str(jobs_folder))
    named = {name: chosen.get(name, JobSettings()) for name in names}
    clusters, misplaced = assign_clusters(
        chosen | named, settings, lambda name: read_trainer_file(jobs_folder / name).section("model")
    )
    findings += [finding for finding in misplaced if finding.job in chosen]
    chosen, findings = (chosen | named, findings) if declared else (named, [])
    datasets = {name: jobs_folder / (entry.dataset or name) for name, entry in sorted(chosen.items())}
    for name, folder in datasets.items():
        other = chosen[name].dataset
        if other and not folder.is_dir():
            message = (
                f"job `{name}`: dataset `{other}` is not a folder in {jobs_folder}{nearest(other, folders)}"
            )
            findings.append(_finding("dataset-unknown", message, name))
    places = [
        _place_on_cluster(
            JobPlace(
                name,
                jobs_folder / name,
                folder if folder.is_dir() or not chosen[name].dataset else None,
                policy=ModelPolicy(unchecked=chosen[name].model.unchecked, commercial=settings.commercial),
            ),
            settings,
            clusters.get(name),
        )
        for name, folder in datasets.items()
    ]
    return ChosenJobs(chosen, clusters, findings, examiner.examine(places))


def assign_clusters(
    jobs: Mapping[str, JobSettings],
    settings: StackSettings,
    section_of: Callable[[str], Mapping[str, Any]],
) -> tuple[dict[str, str], list[Finding]]:
    """The cluster of each job, and findings about the jobs that have none. `section_of` returns the `model` section of a job's train.yml.

    A job that names none is trained by the only cluster, or by the one whose image holds its model.
    """
    found, findings = dict[str, str](), list[Finding]()
    clusters = settings.all_clusters
    names, has_names = ", ".join(clusters), SINGLE_CLUSTER not in clusters
    for job, entry in jobs.items():
        wanted = entry.cluster
        if wanted is None:
            section = section_of(job) if len(clusters) > 1 else {}
            fitting = clusters_with_model(section, settings) if section else list(clusters)
            if len(fitting) == 1:
                found[job] = fitting[0]
            else:
                message = f"job `{job}` names none of the clusters: {names}{_describe_fitting_clusters(section, fitting)}"
                findings.append(_finding("cluster-missing", message, job))
        elif has_names and wanted in clusters:
            found[job] = wanted
        else:
            there = f"there are: {names}" if has_names else "this stack has a single `cluster` without a name"
            message = f"job `{job}`: `{wanted}` is not a cluster{nearest(wanted, clusters)}; {there}"
            findings.append(_finding("cluster-unknown", message, job))
    return found, findings


def clusters_with_model(section: Mapping[str, Any], settings: StackSettings) -> list[str]:
    """The clusters whose image holds the model of a `model` section."""

    def holds(cluster: str) -> bool:
        weights = weights_in_image(settings, cluster)
        choice, held = choose_model(section, weights), model_with_weights(weights)
        if not is_in_image(str(section.get("name_or_path"))):
            return held is not None and held is choice.owner
        return held is not None and choice.arch in held.archs

    return [cluster for cluster in settings.all_clusters if holds(cluster)]


def _describe_fitting_clusters(section: Mapping[str, Any], fitting: Sequence[str]) -> str:
    if not section:
        return ""
    if fitting:
        return f"; the images of {' and '.join(fitting)} hold its model"
    return "; no image of theirs is known to hold its model"


def _place_on_cluster(place: JobPlace, settings: StackSettings, name: str | None) -> JobPlace:
    """The place with what its cluster says. A folder without a cluster can be linted as well."""
    if name is None:
        return replace(place, variables=NODE_VARIABLES)
    cluster = settings.all_clusters[name]
    variables = frozenset(cluster.environment) | NODE_VARIABLES
    return replace(
        place,
        gpu=cluster.gpu,
        variables=variables,
        trainer_date=trainer_date(settings, name),
        policy=replace(
            place.policy, weights_in_image=weights_in_image(settings, name), storage=cluster.storage
        ),
    )


def trainer_date(settings: StackSettings, cluster: str) -> str:
    """The day of ai-toolkit's commit in the cluster's image; the newest that lint knows if nothing says otherwise."""
    found = settings.all_clusters[cluster]
    if found.trainer_date:
        return found.trainer_date
    if settings.is_built(cluster):
        return PINNED.date
    uses_public_image = settings.cloud == "salad" and found.image == PUBLIC_IMAGE
    return PUBLIC_IMAGE_DATE if uses_public_image else NEWEST.date


def weights_in_image(settings: StackSettings, cluster: str) -> str:
    """The id on Hugging Face of the weights in the image's `/model`; empty for an image whose content is not known."""
    if settings.is_built(cluster):
        return settings.built_model(cluster)
    if own := settings.all_clusters[cluster].model:
        return own
    return MODELS[DEFAULT_MODEL].weights if settings.all_clusters[cluster].image == PUBLIC_IMAGE else ""


def is_model_in_an_image(settings: StackSettings, model: TrainableModel) -> bool:
    """Whether the image of one of the stack's clusters holds the model's weights."""
    return any(model.has_weights(weights_in_image(settings, cluster)) for cluster in settings.all_clusters)


def job_folder_names(jobs_folder: Path) -> list[str]:
    if not jobs_folder.is_dir():
        return []
    return sorted(
        entry.name for entry in jobs_folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def choose_jobs(
    declared: dict[str, JobSettings], folders: list[str], where: str
) -> tuple[dict[str, JobSettings], list[Finding]]:
    """The job folders that names and patterns select, and findings about them.

    A name takes precedence over a pattern, and a later pattern over an earlier one. Entries with `skip` select nothing.
    """
    chosen: dict[str, JobSettings] = {}
    findings: list[Finding] = []
    globs = {pattern: entry for pattern, entry in declared.items() if GLOB_CHARACTERS & set(pattern)}
    for pattern, entry in globs.items():
        matches = fnmatch.filter(folders, pattern)
        if not matches:
            findings.append(_finding("glob-empty", f"`{pattern}` matches no folder in {where}"))
        chosen |= dict.fromkeys(matches, entry)
    for name, entry in declared.items():
        if name in globs:
            continue
        if name not in folders:
            message = f"`{name}` is not a folder in {where}{nearest(name, folders)}"
            findings.append(_finding("job-unknown", message))
        else:
            chosen[name] = entry
    return {name: entry for name, entry in chosen.items() if not entry.skip}, findings


def _finding(code: str, message: str, job: str = "") -> Finding:
    return stack_rule(code).finding(Problem(JOBS_SETTING, message), job)
