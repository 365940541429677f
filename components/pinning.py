"""Records the verified weights of finished runs, so that later updates need not verify them again and notice if they are
replaced.
"""

from flux_training.clients.pins import pin_weights
from flux_training.clients.results import read_stored_results
from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.survey import Survey
from flux_training.clients.waiting import in_parallel
from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.runs.run_state import RunState


def pin_finished(stack: StackServices, survey: Survey) -> None:
    """Record the weights of finished declared runs that have no such record yet. Raises ServiceError."""
    storage, layout = stack.storage, stack.layout

    def pin(job: DeclaredJob) -> None:
        keys, steps = layout.run(job.name, job.run_id), job.folder.steps
        # The survey has already checked that the run's own node produced these weights.
        found = read_stored_results(storage, keys, steps)
        if found.pin is None and found.finished and found.weights is not None:
            pin_weights(storage, keys, found.weights, steps)

    new = [
        job
        for job in survey.jobs
        if survey.states[job.name] is RunState.COMPLETED
        and layout.run(job.name, job.run_id).results not in survey.pinned
    ]
    in_parallel(pin, new)
