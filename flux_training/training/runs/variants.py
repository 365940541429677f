"""The jobs of a stack that train on the same images, such as those of a sweep, and the settings that differ between them. Pure."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.train_yml.diff import compared_settings


@dataclass(frozen=True)
class Variants:
    """Jobs that train on the images of the job folder `images_of`. `settings`: those that differ, each with its value in every job."""

    images_of: str
    jobs: tuple[str, ...]
    settings: Mapping[str, tuple[str, ...]]


def find_variants(jobs: Iterable[DeclaredJob], changed: Set[str]) -> tuple[Variants, ...]:
    """The groups of jobs that differ in a setting. At least one job of each is among `changed`."""
    groups: dict[str, list[DeclaredJob]] = {}
    for job in jobs:
        groups.setdefault(job.dataset_of, []).append(job)
    found = [_variants(group) for group in groups.values() if changed & {job.name for job in group}]
    return tuple(one for one in found if one.settings)


def _variants(group: list[DeclaredJob]) -> Variants:
    settings = compared_settings([job.folder.document for job in group])
    return Variants(
        images_folder_of(group[0]),
        tuple(job.name for job in group),
        {name: tuple(values) for name, values in settings.items()},
    )


def images_folder_of(job: DeclaredJob) -> str:
    """The name of the job folder that holds the job's images."""
    return job.image_set.folder.parent.name
