"""Uploads images again that were replaced or deleted in the bucket, before a job that needs them is queued or handed out again."""

from collections.abc import Iterator

from components.dataset import upload_again_message, upload_images
from flux_training.clients.datasets import changed_or_missing_images, list_stored_images, read_dataset
from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.survey import Survey
from flux_training.clients.waiting import in_parallel
from flux_training.training.jobs.declare import DeclaredJob


def repair_datasets(stack: StackServices, survey: Survey, dry_run: bool) -> list[str]:
    """Upload missing or changed images again; with `dry_run` only find them. Returns a sentence for each dataset concerned.

    Sends two requests for each dataset of a job that is to be queued or whose node has failed, none for others. Raises
    BadInput, ServiceError.
    """
    if not survey.bucket_exists:
        return []
    storage, layout = stack.storage, stack.layout

    def repair(job: DeclaredJob) -> str:
        record = read_dataset(storage, layout, job.image_set.digest)
        if record is None:
            return ""  # A dataset without a record is uploaded by its own resource.
        names = changed_or_missing_images(
            record, list_stored_images(storage, layout, job.image_set.digest, record)
        )
        has_etags = all(one.etag for one in record.values())
        if not dry_run and (names or not has_etags):
            names = upload_images(storage, layout, job.image_set, lambda _text: None)
        return upload_again_message(job.dataset_of, names)

    return [found for found in in_parallel(repair, list(_jobs_about_to_download(survey))) if found]


def _jobs_about_to_download(survey: Survey) -> Iterator[DeclaredJob]:
    """One job for each dataset that a node is about to download."""
    seen = set[str]()
    for job in survey.jobs:
        state, digest = survey.states[job.name], job.image_set.digest
        waits_for_node = state.needs_gpu and (not state.is_queued or job.run_id in survey.failing)
        if waits_for_node and digest not in seen:
            seen.add(digest)
            yield job
