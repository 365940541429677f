"""What is checked before any resource is registered, with the services of a local cloud."""

from pathlib import Path
from typing import Any

import pytest

from components.bucket import write_owner_mark
from components.pinning import pin_finished
from components.preparation import check_existing, parent_key_fingerprint, prepared_run
from flux_training.clients.connection import Connection
from flux_training.clients.salad import GroupSpec
from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.spending import reserve
from flux_training.clients.stack.survey import Survey, survey_stack
from flux_training.training.budget.entries import SPENDING_FOLDER
from flux_training.training.errors import BadInput
from flux_training.training.finding import LintReport
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import StackSettings
from tests.components.groups import OWNER, new_name
from tests.life.nodes import leave_weights
from tests.training.job_folders import make_job

SECRET = "canary-theirs-3c10"


class Prepared:
    """A stack with one declared job, whose bucket exists."""

    def __init__(self, folder: Path, connection: Connection, state: RunState, **settings: Any) -> None:
        make_job(folder / "jobs", "cat", images=2)
        name = new_name()
        values: dict[str, Any] = {
            "cloud": "local",
            "storage": {"kind": "r2", "bucket": name, "prefix": "p"},
            "cluster": {"name": name},
            "jobs": {"cat": {"maxHours": 300}},
        }
        self.settings = StackSettings.model_validate(values | settings)
        self.stack = StackServices(connection, self.settings)
        self.stack.storage.ensure()
        jobs = declare_jobs(self.settings, folder)
        self.survey = Survey(LintReport((), ()), jobs, {"cat": state}, bucket_exists=True)
        self.keys = self.stack.layout.run("cat", jobs[0].run_id)

    def check(self) -> Any:
        return check_existing(self.stack, self.survey, OWNER)

    def make_theirs(self) -> None:
        """Somebody else's group, and an object."""
        salad = self.stack.connection.salad()
        salad.create_group(
            GroupSpec(
                name=self.settings.cluster.name,
                image="somebody/thing:1",
                environment={"THEIRS": SECRET},
                gpu_classes=[salad.gpu_class_id("RTX 5090")],
                cpu=2,
                autostart=False,
            )
        )
        self.stack.storage.put_bytes("p/theirs", b"x")


def test_a_foreign_group_and_bucket_are_refused_together(tmp_path: Path, connection: Connection) -> None:
    prepared = Prepared(tmp_path, connection, RunState.NEW)
    prepared.make_theirs()
    with pytest.raises(BadInput) as refused:
        prepared.check()
    group, bucket = refused.value.findings
    assert "exists already and was not created by this project" in group
    assert "holds objects of other programs" in bucket


def test_what_an_adoption_changes_is_announced_without_secrets(
    tmp_path: Path, connection: Connection
) -> None:
    prepared = Prepared(tmp_path, connection, RunState.NEW, adopt=True)
    prepared.make_theirs()
    group, bucket = prepared.check().notes
    assert "image: somebody/thing:1 -> saladtechnologies/ai-toolkit" in group
    assert "cpu: 2 -> 4" in group
    assert "environment: THEIRS removed or replaced" in group
    assert SECRET not in group
    assert "because of `adopt: true`, this stack takes it over; `destroy` will keep its objects" in bucket


@pytest.mark.parametrize("fitting", range(4))
def test_the_jobs_that_fit_can_all_be_queued(tmp_path: Path, connection: Connection, fitting: int) -> None:
    """With one replica, a job's share of its hour of idle time is larger in the update, which has fewer jobs than the stack."""
    names = ("cat", "dog", "owl")
    for seed, name in enumerate(names):
        make_job(tmp_path / "jobs", name, images=1, steps=20, seed=seed)
    name = new_name()
    values = {
        "cloud": "local",
        "storage": {"bucket": name},
        "cluster": {"name": name, "maxReplicas": 1, "idleThresholdSeconds": 3600},
        "jobs": {job: {} for job in names},
    }
    unlimited = StackSettings.model_validate(values)
    stack = StackServices(connection, unlimited)
    stack.storage.ensure()
    stack.storage.delete_many([item.key for item in stack.storage.list(SPENDING_FOLDER)])
    jobs = declare_jobs(unlimited, tmp_path)
    _, whole = survey_stack(stack, jobs, LintReport([], []), with_changes=False)
    totals = [sum(whole.without(names[count:]).known_charges.values()) for count in range(4)]
    limit = (totals[fitting] + [*totals, totals[-1] + 1.0][fitting + 1]) / 2

    settings = StackSettings.model_validate(values | {"budget": {"maxUsdPerDay": limit}})
    stack = StackServices(connection, settings)
    survey, bill = survey_stack(stack, jobs, LintReport([], []), with_changes=False)
    assert (len(survey.jobs), len(survey.waiting)) == (fitting, len(names) - fitting)
    for job in survey.jobs:
        reservation = prepared_run(job, bill, settings).reservation
        assert reservation is not None
        reserve(stack.storage, "", stack.layout.run(job.name, job.run_id), reservation, "`make up`")


def test_temporary_keys_that_end_before_the_runs_cause_a_warning(
    tmp_path: Path, connection: Connection
) -> None:
    prepared = Prepared(tmp_path, connection, RunState.PENDING)
    write_owner_mark(prepared.stack.storage, prepared.stack.layout, OWNER, adopt=False)
    existing = prepared.check()
    assert existing.keys_end
    assert "the unfinished runs need about 300 h" in existing.warnings[0]
    assert existing.retention == {}
    assert len(parent_key_fingerprint(connection)) == 12


def test_checkpoints_of_all_runs_expire(tmp_path: Path, connection: Connection) -> None:
    prepared = Prepared(tmp_path, connection, RunState.COMPLETED, keep={"checkpointsDays": 14})
    write_owner_mark(prepared.stack.storage, prepared.stack.layout, OWNER, adopt=False)
    prepared.stack.storage.put_bytes(prepared.stack.layout.run("dog", "0123456789ab").claim, b"{}")
    days = prepared.check().retention
    assert set(days.values()) == {14}
    for run in (prepared.keys.output, "p/runs/dog/0123456789ab/output/"):
        assert any(prefix.startswith(run) for prefix in days)


def test_the_weights_of_finished_runs_are_recorded_once(tmp_path: Path, connection: Connection) -> None:
    prepared = Prepared(tmp_path, connection, RunState.COMPLETED)
    leave_weights(prepared.stack.storage, prepared.keys)
    prepared.stack.storage.put_bytes(prepared.keys.done, b'{"sha256": "%s"}' % (b"a" * 64))
    before = {item.key for item in prepared.stack.storage.list("p/")}
    pin_finished(prepared.stack, prepared.survey)
    written = {item.key for item in prepared.stack.storage.list("p/")} - before
    assert len(written) == 1
    pin_finished(prepared.stack, prepared.survey)
    assert {item.key for item in prepared.stack.storage.list("p/")} - before == written
