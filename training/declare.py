"""From the stack's configuration and the job folders to the jobs it declares. Every finding of every folder at once."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path

from training.errors import BadInput
from training.folder import ImageSet, JobFolder, read_config, read_images
from training.run import run_id
from training.settings import JobSettings, StackSettings, nearest

GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True)
class DeclaredJob:
    """A job folder with its settings. `dataset_of` is the first declared job with the same images.

    `parent` is the run that a resumed one goes on from.
    """

    folder: JobFolder
    image_set: ImageSet
    settings: JobSettings
    dataset_of: str
    parent: str | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def run_id(self) -> str:
        return run_id(self.image_set.manifest, self.folder.raw_config, self.settings.attempt, self.parent)


def declare_jobs(settings: StackSettings, root: Path = Path()) -> list[DeclaredJob]:
    """The declared jobs in the order of their names; raises BadInput with the findings of all of them."""
    jobs_folder = root / settings.jobs_folder
    chosen, findings = choose(settings.jobs, folder_names(jobs_folder), str(jobs_folder))
    jobs: list[DeclaredJob] = []
    first_with: dict[str, str] = {}
    for name, job_settings in sorted(chosen.items()):
        try:
            folder, image_set = read_job(jobs_folder, name, job_settings.dataset)
        except BadInput as bad:
            findings += [finding for finding in bad.findings if finding not in findings]
            continue
        dataset_of = first_with.setdefault(image_set.digest, name)
        jobs.append(DeclaredJob(folder, image_set, job_settings, dataset_of))
    if findings:
        raise BadInput(findings)
    return jobs


def read_job(jobs_folder: Path, name: str, dataset: str | None) -> tuple[JobFolder, ImageSet]:
    """One job's train.yml and images; raises BadInput with the findings of both."""
    findings: list[str] = []
    folder = image_set = None
    try:
        folder = read_config(jobs_folder / name)
    except BadInput as bad:
        findings += bad.findings
    if dataset is not None and not (jobs_folder / dataset).is_dir():
        names = folder_names(jobs_folder)
        findings.append(
            f"job `{name}`: dataset `{dataset}` is no folder under {jobs_folder}{nearest(dataset, names)}"
        )
    else:
        try:
            image_set = read_images(jobs_folder / (dataset or name))
        except BadInput as bad:
            findings += bad.findings
    if folder is None or image_set is None or findings:
        raise BadInput(findings)
    return folder, image_set


def folder_names(jobs_folder: Path) -> list[str]:
    if not jobs_folder.is_dir():
        return []
    return sorted(
        entry.name for entry in jobs_folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def choose(
    declared: dict[str, JobSettings], folders: list[str], where: str
) -> tuple[dict[str, JobSettings], list[str]]:
    """Which folders the names and globs mean, and what is wrong with them.

    A name's own entry wins over a glob's; of two globs the one written later wins. One that says `skip` means none.
    """
    chosen: dict[str, JobSettings] = {}
    findings: list[str] = []
    globs = {pattern: entry for pattern, entry in declared.items() if GLOB_CHARACTERS & set(pattern)}
    for pattern, entry in globs.items():
        matches = fnmatch.filter(folders, pattern)
        if not matches:
            findings.append(
                f"jobs: `{pattern}` matches no folder under {where}; mend the pattern or add the folder"
            )
        chosen |= dict.fromkeys(matches, entry)
    for name, entry in declared.items():
        if name in globs:
            continue
        if name not in folders:
            findings.append(
                f"jobs: `{name}` is no folder under {where}{nearest(name, folders)}; add it or take it out of `jobs`"
            )
        else:
            chosen[name] = entry
    return {name: entry for name, entry in chosen.items() if not entry.skip}, findings
