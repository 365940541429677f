"""Rules about what git leaves in files: Git LFS pointers and merge conflicts."""

from collections.abc import Iterator

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject, faults_of_rule
from flux_training.training.text_files import BINARY_FIX, CONFLICT_FIX, LFS_FIX

AREA = Area("git")

AREA.fault(
    "git-conflict", "a git merge stopped at a conflict and left both versions in the file", CONFLICT_FIX
)


@AREA.error(
    "git-lfs",
    "Git LFS or git-annex has not downloaded the file's content (in a GitHub workflow, use actions/checkout with `lfs: true`)",
    LFS_FIX,
    needed=True,
)
def files_that_git_lfs_has_not_downloaded(job: Subject) -> Iterator[Problem]:
    yield from faults_of_rule(job, "git-lfs")
    for image in job.all_images.values():
        if image.lfs_pointer:
            yield job.dataset_problem(image.name, f"is {image.damage}")


@AREA.error(
    "git-binary",
    "git, FTP in text mode or an editor took the image for a text, and changed bytes that look like line endings",
    BINARY_FIX,
    needed=True,
)
def images_with_changed_line_endings(job: Subject) -> Iterator[Problem]:
    for image in job.all_images.values():
        if image.has_changed_line_endings:
            yield job.dataset_problem(image.name, f"cannot be read as an image: {image.damage}")
