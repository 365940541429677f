"""Bucket, dataset and training job from creation to deletion: their providers in this process, with the services of a local cloud."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components import bucket, dataset, training_job
from components.bucket import BucketArgs, BucketProvider
from components.dataset import DatasetArgs, DatasetProvider
from components.prepared_runs import PreparedRun, write_prepared
from components.properties import from_props, to_props
from components.provider import FluxProvider, home
from components.training_job import TrainingJobArgs, TrainingJobProvider, TrainingJobState
from flux_training.clients.connection import Connection
from flux_training.clients.kelpie import Job, JobRequest, Kelpie
from flux_training.clients.pins import accept_weights
from flux_training.clients.queue import new_runs, posting
from flux_training.clients.queue.claims import ClaimFile
from flux_training.clients.queue.new_runs import NewRun
from flux_training.clients.results import inspect_run
from flux_training.clients.salad import GroupSpec
from flux_training.clients.stack.owner import new_mark
from flux_training.clients.stack.spending import Reservation, read_spending, today
from flux_training.training.cluster_settings import BudgetSettings
from flux_training.training.errors import FluxError
from flux_training.training.jobs.folder import read_images
from flux_training.training.runs.run import Layout, run_id
from flux_training.training.runs.run_state import RunState
from tests.components.groups import new_name
from tests.life.attacks import weights_file
from tests.life.nodes import STEPS, begin_job, leave_weights, report
from tests.training.job_folders import make_job, write_image

OWNER = "flux-training/dev"
RAW_CONFIG, MANIFEST = b"job: extension\n", b'{"images":{}}'


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The providers' messages."""
    messages: list[str] = []
    for module in (bucket, dataset, training_job):
        monkeypatch.setattr(module, "inform", messages.append)
    return messages


def connected(provider: FluxProvider[Any, Any], connection: Connection) -> Any:
    provider.connection = connection
    return provider


# ---- the bucket


@pytest.fixture
def buckets(connection: Connection) -> BucketProvider:
    made: BucketProvider = connected(BucketProvider(), connection)
    return made


def bucket_args(connection: Connection, **more: Any) -> BucketArgs:
    values = {
        "home": home(connection),
        "kind": "s3",
        "bucket": new_name(),
        "prefix": "p/",
        "owner": OWNER,
        "adopt": False,
        "results": "keep",
    }
    return BucketArgs(**(values | more))


def test_a_bucket_is_deleted_only_once_it_holds_no_results(
    buckets: BucketProvider, connection: Connection, told: list[str]
) -> None:
    args = bucket_args(connection)
    storage = connection.storage(args.bucket)
    props = to_props(args)
    assert buckets.create(props).id == args.bucket
    assert buckets.read(args.bucket, props).outs == props
    storage.put_bytes("p/runs/cat/r/model/cat.safetensors", b"x")
    buckets.delete(args.bucket, props)
    assert told == [f"bucket {args.bucket} is kept with its 1 objects; the results are in p/runs/"]
    storage.delete_many(["p/runs/cat/r/model/cat.safetensors"])
    buckets.delete(args.bucket, props)
    assert not storage.exists()
    buckets.delete(args.bucket, props)
    assert buckets.read(args.bucket, props).id == ""


def test_expiry_rules_of_others_stay_and_changes_by_hand_are_seen(
    buckets: BucketProvider, connection: Connection
) -> None:
    args = bucket_args(connection, retention={"p/datasets/": 5})
    storage = connection.storage(args.bucket)
    storage.ensure()
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    storage.put_lifecycle_rules([theirs])
    buckets.create_or_adopt(args)
    buckets.change("", args, args := replace(args, retention={"p/datasets/": 6}))
    assert theirs in storage.lifecycle_rules()
    assert buckets.find("", args) == args
    storage.put_lifecycle_rules([theirs])
    assert buckets.find("", args) == replace(args, retention={})
    buckets.change("", args, replace(args, retention=None))
    assert storage.lifecycle_rules() == [theirs]


def test_results_are_deleted_if_the_stack_says_so_and_never_by_a_changed_prefix(
    buckets: BucketProvider, connection: Connection
) -> None:
    args = bucket_args(connection, results="delete")
    storage = connection.storage(args.bucket)
    buckets.create_or_adopt(args)
    for name in ("output/run.json", "model/cat.safetensors"):
        storage.put_bytes(f"p/runs/cat/0123456789ab/{name}", b"x")
    moved = replace(args, prefix="q/")
    with pytest.raises(FluxError, match=r"because of `results: delete`, this change would delete them"):
        buckets.diff("", to_props(args), to_props(moved))
    buckets.remove("", args)
    assert not storage.exists()
    assert buckets.diff("", to_props(args), to_props(moved)).replaces == ["prefix"]


def test_a_bucket_of_others_is_neither_used_nor_deleted(
    buckets: BucketProvider, connection: Connection, told: list[str]
) -> None:
    args = bucket_args(connection)
    storage = connection.storage(args.bucket)
    storage.ensure()
    storage.put_bytes("p/theirs", b"x")
    with pytest.raises(FluxError, match="holds objects of other programs"):
        buckets.create_or_adopt(args)
    buckets.create_or_adopt(replace(args, adopt=True))
    storage.put_bytes(args.layout.owner, new_mark("x/y", made=False).to_json())
    with pytest.raises(FluxError, match="belongs to x/y"):
        buckets.create_or_adopt(args)
    assert buckets.find("", args) is None
    buckets.remove("", args)
    assert told == [f"bucket {args.bucket} is neither emptied nor deleted: x/y has adopted it"]


def test_an_r2_bucket_is_created_in_its_location_and_stays_there(
    buckets: BucketProvider, connection: Connection, told: list[str]
) -> None:
    args = bucket_args(connection, kind="r2", location="apac")
    buckets.create_or_adopt(args)
    made = connection.cloudflare().get_bucket(args.bucket)
    assert made is not None
    assert made.location == "APAC"
    buckets.create_or_adopt(args)
    buckets.change("", args, replace(args, location="weur"))
    assert "is not moved" in told[0]
    buckets.remove("", args)
    assert connection.cloudflare().get_bucket(args.bucket) is None


# ---- datasets and runs


class Declared:
    """A stack with a bucket, a container group and one job folder."""

    def __init__(self, folder: Path, connection: Connection) -> None:
        self.connection = connection
        args = bucket_args(connection)
        self.storage = connection.storage(args.bucket)
        connected(BucketProvider(), connection).create_or_adopt(args)
        self.datasets: DatasetProvider = connected(DatasetProvider(), connection)
        self.runs: TrainingJobProvider = connected(TrainingJobProvider(), connection)
        self.folder = make_job(folder, "cat", images=2)
        self.reservation: Reservation | None = None
        place = {"home": args.home, "bucket": args.bucket, "prefix": args.prefix}
        self.dataset = DatasetArgs(
            **place,
            name="cat",
            folder=str(self.folder / "dataset"),
            digest=read_images(self.folder).digest,
            images=2,
            owner=OWNER,
        )
        salad = connection.salad()
        spec = GroupSpec(
            name=new_name(),
            image="a/b:1",
            environment={},
            gpu_classes=[salad.gpu_class_id("RTX 5090")],
            cpu=2,
            autostart=False,
        )
        self.run = TrainingJobArgs(
            **place,
            job="cat",
            folder=str(self.folder),
            run_id="",
            steps=STEPS,
            group_id=salad.create_group(spec).id,
            group_name=spec.name,
            digest=self.dataset.digest,
            owner=OWNER,
        )

    def prepare(self, attempt: int = 1, **more: Any) -> TrainingJobArgs:
        """A run as the program leaves it for the provider."""
        name = run_id(MANIFEST, RAW_CONFIG, attempt, None)
        write_prepared(OWNER, [PreparedRun("cat", name, RAW_CONFIG, MANIFEST, 10, None, self.reservation)])
        return replace(self.run, run_id=name, attempt=attempt, **more)

    def queue(self, **more: Any) -> tuple[TrainingJobArgs, TrainingJobState]:
        args = self.prepare(**more)
        return args, from_props(TrainingJobState, self.runs.create(to_props(args)).outs)

    def read(self, state: TrainingJobState) -> TrainingJobState:
        read = self.runs.read(state.run_id, to_props(state))
        assert read.inputs is None
        return from_props(TrainingJobState, read.outs)

    def job_of(self, state: TrainingJobState) -> Any:
        return self.connection.kelpie().get_job(state.kelpie_id)


@pytest.fixture
def declared(tmp_path: Path, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Declared:
    monkeypatch.chdir(tmp_path)
    made = Declared(tmp_path / "jobs", connection)
    made.datasets.create_or_adopt(made.dataset)
    return made


def test_images_are_deleted_when_no_resource_and_no_unfinished_run_needs_them(
    declared: Declared, told: list[str]
) -> None:
    datasets, args, digest = declared.datasets, declared.dataset, declared.dataset.digest
    other = replace(args, name="dog")
    assert datasets.create(to_props(other)).id == digest
    state = from_props(datasets.state_class, datasets.read(digest, to_props(args)).outs)
    images = declared.storage.bucket, Layout("p/").dataset(digest)
    datasets.remove(digest, state)
    assert len(list(declared.storage.list(images[1]))) >= 2
    _, run = declared.queue()
    datasets.remove(digest, replace(state, name="dog"))
    assert told == [f"the images of dataset {digest[:12]} are kept: an unfinished run still trains on them"]
    declared.runs.delete(run.run_id, to_props(run))
    assert declared.job_of(run).status == "canceled"
    datasets.delete(digest, to_props(state))
    assert list(declared.storage.list(images[1])) == []
    assert datasets.read(digest, to_props(state)).id == ""
    datasets.remove(digest, replace(state, bucket=new_name()))


def test_changed_images_are_another_dataset(declared: Declared) -> None:
    datasets, args = declared.datasets, declared.dataset
    write_image(declared.folder / "dataset/00003.jpg", 77)
    (declared.folder / "dataset/00003.txt").write_text("tr1gger, new\n", encoding="utf-8")
    new = replace(args, digest=read_images(declared.folder).digest)
    with pytest.raises(FluxError, match="changed while the update was running"):
        datasets.create_or_adopt(replace(args, digest="0" * 64))
    state = to_props(from_props(datasets.state_class, to_props(args)))
    assert datasets.diff(args.digest, state, to_props(new)).replaces == ["digest"]
    assert datasets.create_or_adopt(new)[0] == new.digest


def test_a_run_that_finishes_is_recorded_and_adopted(declared: Declared, told: list[str]) -> None:
    runs = declared.runs
    args, state = declared.queue()
    assert state.status is RunState.PENDING
    assert declared.read(state) == state
    changed = runs.change(args.run_id, state, replace(args, max_hours=2))
    assert b'"max_hours": 2,' in (declared.storage.get_bytes(f"{args.keys.config}launch.json") or b"")
    leave_weights(declared.storage, args.keys)
    assert declared.read(state).status is RunState.PENDING  # no node has got it: somebody else put them there
    report(declared.connection, declared.job_of(state), "completed")
    ended = declared.read(changed)
    assert (ended.status, ended.reason) == (RunState.COMPLETED, "")

    adopted = runs.create_or_adopt(args)[1]
    assert told == [
        f"cat: run {args.run_id} is already finished; its results are adopted and nothing is trained"
    ]
    assert (adopted.status, adopted.kelpie_id) == (RunState.COMPLETED, state.kelpie_id)
    moved = replace(args, prefix="q/")
    with pytest.raises(
        FluxError, match=r"copy runs/ and .flux/runs/ there first, or set `attempt: 2` for the job"
    ):
        runs.diff(args.run_id, to_props(ended), to_props(moved))
    runs.remove(args.run_id, ended)
    assert declared.job_of(state).status == "completed"
    declared.storage.delete_many([args.keys.weights, args.keys.done])
    # They were verified once: reported as changed, and not paid for again.
    assert declared.read(ended).status is RunState.COMPLETED


def test_a_failed_run_is_not_queued_again_until_its_attempt_changes(
    declared: Declared, told: list[str]
) -> None:
    args, state = declared.queue()
    report(declared.connection, declared.job_of(state), "failed")
    failed = declared.read(state)
    assert failed.status is RunState.FAILED
    assert declared.runs.diff(args.run_id, to_props(failed), to_props(args)).replaces == []
    assert "set `attempt: 2` for the job" in told[0]
    again = declared.prepare(attempt=2)
    assert "runId" in declared.runs.diff(args.run_id, to_props(failed), to_props(again)).replaces
    assert declared.runs.create_or_adopt(again)[1].status is RunState.PENDING


def without_group(declared: Declared) -> None:
    declared.connection.salad().delete_group(declared.run.group_name)


def without_images(declared: Declared) -> None:
    declared.storage.delete_many([Layout("p/").dataset_index(declared.dataset.digest)])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [(without_group, "was deleted or replaced"), (without_images, "are missing in the bucket")],
)
def test_no_job_is_queued_that_could_not_run(
    declared: Declared, spoil: Callable[[Declared], None], problem: str
) -> None:
    spoil(declared)
    with pytest.raises(FluxError, match=problem):
        declared.queue()
    assert declared.connection.kelpie().list_jobs(declared.run.group_id) == []


def test_a_resumed_run_needs_a_checkpoint_of_its_parent(declared: Declared) -> None:
    with pytest.raises(
        FluxError,
        match="run 0123 has no valid checkpoint from before step 20 any more",
    ):
        training_job.check_parent(declared.storage, declared.prepare(parent="0123"), is_new=True)


# ---- a run that is queued for the first time


def plant(declared: Declared, args: TrainingJobArgs) -> list[str]:
    """What a node can write that the run's own node would continue from."""
    names = ("cat_000000010.safetensors", "cat.safetensors", "optimizer.pt", "progress.json")
    planted = [f"{args.keys.output}{name}" for name in names]
    for key in planted:
        declared.storage.put_bytes(key, b"planted")
    return planted


def is_there(declared: Declared, key: str) -> bool:
    return declared.storage.head(key) is not None


def test_only_what_a_node_would_continue_from_is_deleted(declared: Declared, told: list[str]) -> None:
    args = declared.prepare()
    planted = plant(declared, args)
    others = [f"{args.keys.output}samples/1.jpg", f"{args.keys.output}loss.csv", f"{args.keys.base}notes.txt"]
    for key in (*others, args.keys.record):
        declared.storage.put_bytes(key, b"x")
    declared.queue()
    assert not any(is_there(declared, key) for key in planted)
    assert all(is_there(declared, key) for key in others)
    assert declared.storage.get_bytes(args.keys.record) != b"x"
    assert told == [
        f"cat: 4 unexpected objects below {args.keys.output} deleted, written by someone else before the run was queued"
    ]


@pytest.mark.parametrize("record", ["posted", "results", "earlier", "requeue"])
def test_nothing_is_deleted_below_a_run_that_has_a_record(declared: Declared, record: str) -> None:
    args = declared.prepare()
    declared.storage.put_bytes(getattr(args.keys, record), b"{}")
    kept = plant(declared, args)
    declared.queue()
    assert all(is_there(declared, key) for key in kept)


class InterruptedUpdateError(Exception):
    """Raised in place of a refused budget, an HTTP 503 or Ctrl-C."""


def fail(*_args: object, **_more: object) -> None:
    raise InterruptedUpdateError


def test_nothing_is_deleted_below_a_run_whose_job_was_canceled(
    declared: Declared, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, state = declared.queue()
    declared.runs.remove(args.run_id, state)
    for record in (args.keys.claim, args.keys.posted, args.keys.requeue):
        declared.storage.delete_many([record])
    monkeypatch.setattr(posting, "_queues", {})  # as in another process
    kept = plant(declared, args)
    _, again = declared.queue()
    assert again.kelpie_id != state.kelpie_id
    assert all(is_there(declared, key) for key in kept)


def test_a_canceled_job_that_a_killed_update_could_not_record_counts_beside_the_next(
    declared: Declared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day's limit holds two jobs: without the first one's record, a third would be queued."""
    declared.reservation = Reservation(2.0, BudgetSettings(maxUsdPerDay=5.0))
    for count in (1, 2):
        monkeypatch.setattr(posting, "_queues", {})  # as in another process
        with monkeypatch.context() as killed:
            killed.setattr(ClaimFile, "record", fail)
            with pytest.raises(InterruptedUpdateError):
                declared.queue()
        monkeypatch.setattr(posting, "_queues", {})
        args, state = declared.queue()
        assert not is_there(declared, args.keys.posted)
        assert [entry.usd for entry in read_spending(declared.storage, today())] == [2.0] * count
        declared.runs.remove(args.run_id, state)
    with pytest.raises(FluxError, match="cat no longer fits in the budget"):
        declared.queue()


def test_finished_weights_without_a_record_are_set_aside_and_the_run_is_queued(
    declared: Declared, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node wrote them to keep the job from being trained, or somebody copied runs/ without `.flux/`."""
    args = declared.prepare()
    leave_weights(declared.storage, args.keys)
    weights = declared.storage.get_bytes(args.keys.weights)
    with monkeypatch.context() as once:
        once.setattr(training_job.NewRun, "clear", fail)
        with pytest.raises(InterruptedUpdateError):
            declared.runs.create_or_adopt(args)
    declared.storage.put_bytes(args.keys.weights, weights_file(tensor=b"evil"))
    declared.storage.put_bytes(args.keys.done, b"{}")
    _, state = declared.queue()
    assert state.status is RunState.PENDING
    assert not is_there(declared, args.keys.weights)
    assert not is_there(declared, args.keys.done)
    kept = [item.key for item in declared.storage.list(args.keys.set_aside)]
    assert [key.rpartition("/")[2] for key in kept] == ["cat.safetensors", "done.json"] * 2
    assert weights in [declared.storage.get_bytes(key) for key in kept]
    assert [f"they were moved to {args.keys.set_aside}" in text for text in told] == [True, True]


def test_weights_that_the_user_accepts_before_the_first_post_are_adopted(declared: Declared) -> None:
    args = declared.prepare()
    leave_weights(declared.storage, args.keys)
    weights = inspect_run(declared.storage, args.keys, STEPS).weights
    assert weights is not None
    accept_weights(declared.storage, args.keys, weights, STEPS, None)
    assert declared.runs.create_or_adopt(args)[1].status is RunState.COMPLETED


@pytest.mark.parametrize(
    "step", ["check_parent", "load_prepared", "send_configuration", "report_deleted_objects", "post"]
)
def test_what_is_planted_after_a_failed_update_is_deleted_by_the_next(
    declared: Declared, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(posting, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(posting, "CLAIM_POLL_SECONDS", 0.05)
    args = declared.prepare()
    with monkeypatch.context() as once:
        if step == "post":
            once.setattr(Kelpie, "post_job", fail)
        else:
            once.setattr(training_job, step, fail)
        with pytest.raises(InterruptedUpdateError):
            declared.runs.create_or_adopt(args)
    planted = plant(declared, args)
    declared.queue()
    assert not any(is_there(declared, key) for key in planted)


def test_what_is_planted_during_the_post_is_deleted_unless_a_node_may_have_written_it(
    declared: Declared, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    post = Kelpie.post_job

    def plant_and_post(self: Kelpie, request: JobRequest) -> Job:
        planted.extend(plant(declared, args))
        return post(self, request)

    planted: list[str] = []
    args = declared.prepare()
    # The same objects were also there before the update, which deletes them once.
    plant(declared, args)
    monkeypatch.setattr(Kelpie, "post_job", plant_and_post)
    _, state = declared.queue()
    assert planted
    assert not any(is_there(declared, key) for key in planted)
    assert (
        f"below {args.keys.output} deleted, written by someone else while the run was being queued"
        in told[-1]
    )

    new, job = NewRun(declared.storage, args.keys), declared.job_of(state)
    plant(declared, args)
    begin_job(declared.connection, args.group_id)
    assert new.clear_after_post(declared.connection.kelpie(), job) == 0
    assert all(is_there(declared, key) for key in planted)


def test_more_objects_than_can_be_deleted_under_a_claim_are_an_error(
    declared: Declared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_runs, "MAX_OUTPUTS", 1)
    args = declared.prepare()
    planted = plant(declared, args)
    with pytest.raises(FluxError, match=r"more than 1 objects are below .* give the job another `attempt`"):
        declared.runs.create_or_adopt(args)
    assert all(is_there(declared, key) for key in planted)


def test_an_update_that_fails_earlier_moves_no_weights(
    declared: Declared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the command that accepts them, which preview and plan print, would find none."""
    args = declared.prepare()
    leave_weights(declared.storage, args.keys)
    monkeypatch.setattr(training_job, "send_configuration", fail)
    with pytest.raises(InterruptedUpdateError):
        declared.runs.create_or_adopt(args)
    assert is_there(declared, args.keys.weights)


def test_an_update_that_was_suspended_moves_no_weights_of_a_run_that_another_has_queued(
    declared: Declared, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = declared.prepare()
    real = training_job.send_configuration

    def sleep_over_the_training(*given: Any, **more: Any) -> None:
        real(*given, **more)
        declared.storage.put_bytes(args.keys.claim, b"{}")
        leave_weights(declared.storage, args.keys)

    monkeypatch.setattr(training_job, "send_configuration", sleep_over_the_training)
    with pytest.raises(FluxError, match="was taken over by another update"):
        declared.runs.create_or_adopt(args)
    assert is_there(declared, args.keys.weights)
