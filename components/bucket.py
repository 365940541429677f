"""The bucket: created if it does not exist, marked with its owner, and kept while it holds results."""

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from components.messages import inform, make_command_for
from components.properties import Properties
from components.provider import FluxProvider, FluxResource
from flux_training.clients.conditions import ignored_conditions
from flux_training.clients.errors import Conflict, UncertainOutcome
from flux_training.clients.queue.recorded_runs import recorded_runs, run_folders
from flux_training.clients.records import listed
from flux_training.clients.stack.owner import new_mark, read_mark
from flux_training.clients.stack.spending import keep_entries_of_deleted_runs
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.training.budget.entries import SPENDING_FOLDER, is_spending_entry
from flux_training.training.errors import FluxError
from flux_training.training.runs.retention import own_rules, replace_own_rules
from flux_training.training.runs.run import Layout
from flux_training.training.words import describe_adopt_setting, describe_rename_back

R2 = "r2"


@dataclass(frozen=True, kw_only=True)
class BucketArgs(Properties):
    """`prefix` is empty or ends in a slash. `retention`: days by key prefix. `results` is `keep` or `delete`."""

    kind: str
    bucket: str
    prefix: str
    location: str | None = None
    owner: str
    adopt: bool
    results: str
    retention: Mapping[str, int] | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.prefix)


class BucketProvider(FluxProvider[BucketArgs, BucketArgs]):
    args_class = state_class = BucketArgs
    # A change of `kind` does not replace the bucket: it only says how the bucket is reached, not which bucket it is.
    replaced_by = ("bucket", "prefix")

    def check_change(self, old: BucketArgs, _new: BucketArgs, replaces: list[str]) -> None:
        """Refuse to delete results because a setting changed: a replaced bucket is deleted like a destroyed one."""
        storage, layout = self._storage(old), old.layout
        if not replaces or old.results != "delete" or not storage.exists():
            return
        runs = known_runs(storage, layout) if owner_of(storage, layout) == old.owner else ()
        if any(objects_of(storage, layout, runs)):
            raise FluxError(
                f"the setting storage.bucket or storage.prefix has changed, and this stack's results are in s3://{old.bucket}/{layout.runs}",
                "because of `results: delete`, this change would delete them",
                f"restore both settings, set `results: keep` and run {make_command_for(old.owner, 'up')}; then change them again, or use another stack for the new bucket or prefix",
            )

    def create_or_adopt(self, args: BucketArgs) -> tuple[str, BucketArgs]:
        storage = self._storage(args)
        made = self._ensure(storage, args)
        write_owner_mark(storage, args.layout, args.owner, adopt=args.adopt, made=made)
        refuse_without_conditions(storage, args.layout)
        if args.retention:
            set_retention(storage, args.owner, args.retention)
        return args.bucket, args

    def find(self, _id: str, state: BucketArgs) -> BucketArgs | None:
        storage = self._storage(state)
        if not storage.exists() or owner_of(storage, state.layout) != state.owner:
            return None
        if state.retention:
            return replace(state, retention=own_rules(storage.lifecycle_rules(), state.owner))
        return state

    def change(self, _id: str, old: BucketArgs, new: BucketArgs) -> BucketArgs:
        storage = self._storage(new)
        if old.location != new.location:
            inform(f"bucket {new.bucket} is not moved: R2 uses the location only when it creates a bucket")
        write_owner_mark(storage, new.layout, new.owner, adopt=new.adopt)
        if old.retention or new.retention:
            set_retention(storage, new.owner, new.retention or {})
        return new

    def remove(self, _id: str, state: BucketArgs) -> None:
        storage, layout = self._storage(state), state.layout
        if not storage.exists():
            return
        owner = owner_of(storage, layout)
        if owner != state.owner:
            why = f"{owner} has adopted it" if owner else "its owner mark no longer names this stack"
            inform(f"bucket {state.bucket} is neither emptied nor deleted: {why}")
            return
        if state.results == "delete":
            delete_results(storage, layout)
        kept = sum(not item.key.startswith(layout.own) for item in storage.list(layout.prefix))
        if kept:
            inform(f"bucket {state.bucket} is kept with its {kept} objects; the results are in {layout.runs}")
            return
        mark = read_mark(storage, layout)
        keep_entries_of_deleted_runs(storage, layout)
        records = [item.key for item in storage.list(layout.own) if not is_spending_entry(item.key)]
        storage.delete_many(records)
        if mark and mark.made and all(is_spending_entry(item.key) for item in storage.list("")):
            storage.delete_below(SPENDING_FOLDER)
            self._delete_bucket(storage, state)

    def _storage(self, args: BucketArgs) -> Storage:
        return self.connection.storage(args.bucket)

    def _ensure(self, storage: Storage, args: BucketArgs) -> bool:
        """Create the bucket unless it exists; whether it was created."""
        if args.kind != R2:
            return storage.ensure()
        if storage.exists():
            return False
        try:
            self.connection.cloudflare().create_bucket(args.bucket, args.location)
        except (Conflict, UncertainOutcome):
            # Creation failed: either another update created the bucket first, or the answer was lost. Check what exists now.
            if not storage.exists():
                raise
            return False
        return True

    def _delete_bucket(self, storage: Storage, state: BucketArgs) -> None:
        if state.kind == R2:
            self.connection.cloudflare().delete_bucket(state.bucket)
        else:
            storage.delete_bucket()


def set_retention(storage: Storage, owner: str, retention: Mapping[str, int]) -> None:
    """Make the bucket delete objects of these prefixes after so many days; other stacks' rules stay."""
    present = storage.lifecycle_rules()
    if own_rules(present, owner) != dict(retention):
        storage.put_lifecycle_rules(replace_own_rules(present, owner, retention))


def write_owner_mark(storage: Storage, layout: Layout, owner: str, adopt: bool, made: bool = False) -> None:
    """Write the owner mark `.flux/owner.json`, unless it already names this stack.

    `made`: this stack created the bucket, and deletes it once it is empty. Raises FluxError if the mark names another owner, or
    if the bucket or prefix contains foreign objects, unless `adopt` is set.
    """
    present = owner_of(storage, layout)
    if present == owner:
        return
    mark = new_mark(owner, made).to_json()
    if not adopt:
        refusal = foreign_bucket_error(storage, layout, owner)
        if refusal is not None:
            raise refusal
    try:
        storage.put_bytes(layout.owner, mark, if_none_match=not adopt)
    except Conflict:
        write_owner_mark(storage, layout, owner, adopt, made)


def refuse_without_conditions(storage: Storage, layout: Layout) -> None:
    """Raise FluxError for a storage without conditional writes, because two updates could then both post the same job."""
    unheeded = ignored_conditions(storage, layout.own)
    if unheeded:
        raise FluxError(
            f"the storage of bucket {storage.bucket} ignores {' and '.join(unheeded)}",
            "two updates at the same time would queue and pay for a job twice",
            "use R2, AWS, or another storage with conditional writes",
        )


def foreign_bucket_error(storage: Storage, layout: Layout, owner: str) -> FluxError | None:
    """The error that explains why a bucket must not be used; None if it has our mark or nothing is below the prefix."""
    present = owner_of(storage, layout)
    where = f"{storage.bucket}/{layout.prefix}"
    if present not in (None, owner):
        return FluxError(
            f"bucket {where} belongs to {present}",
            f"{owner} must not write into another stack's bucket",
            f"choose another storage.bucket or storage.prefix, or set {describe_adopt_setting(owner)}{describe_rename_back(owner, present)}",
        )
    is_empty = all(is_spending_entry(item.key) for item in storage.list(layout.prefix))
    # Another update of this stack may have written the mark and objects since the mark was read.
    if is_empty or owner_of(storage, layout) == owner:
        return None
    return FluxError(
        f"bucket {where} holds objects of other programs",
        "a stack may use only an empty bucket or prefix, or one that it created",
        f"choose another storage.bucket or storage.prefix, or set {describe_adopt_setting(owner)}",
    )


def delete_results(storage: Storage, layout: Layout) -> None:
    """The objects of the runs, and what is recorded about them. An interrupted deletion continues the next time."""
    keep_entries_of_deleted_runs(storage, layout)
    runs = known_runs(storage, layout)
    # Delete the records of verified weights first, so that no run counts as finished once its results are gone. Keep the claims
    # until last: they show which runs the stack has had.
    records = (item.key for item in storage.list(layout.run_records))
    storage.delete_each(key for key in records if not key.endswith("/claim.json"))
    storage.delete_each(objects_of(storage, layout, runs))
    storage.delete_below(layout.run_records)


def known_runs(storage: Storage, layout: Layout) -> frozenset[tuple[str, str]]:
    """(job, run id) of the runs that have a record, or only a run.json (nodes can delete run.json)."""
    recorded = recorded_runs(storage, layout)
    others = set(run_folders(storage, layout)) - set(recorded)
    return frozenset([*recorded, *(one for one in others if listed(storage, layout.run(*one).record))])


def objects_of(storage: Storage, layout: Layout, runs: Collection[tuple[str, str]]) -> Iterator[str]:
    """The keys in the folders of these runs, each run's run.json last. An adopted bucket may contain other objects too."""

    def place(item: ObjectInfo) -> tuple[str, str]:
        job, run, *_ = (*item.key.removeprefix(layout.runs).split("/"), "")
        return job, run

    for run, items in itertools.groupby(storage.list(layout.runs), place):
        if run in runs:
            record = layout.run(*run).record
            yield from (item.key for item in items if item.key != record)
            yield record


def owner_of(storage: Storage, layout: Layout) -> str | None:
    """The stack that owns the bucket or prefix; None if it has no mark. Raises FluxError if a newer version of this tool uses it."""
    mark = read_mark(storage, layout)
    return mark.owner if mark else None


class Bucket(FluxResource[BucketArgs], module="flux", name="Bucket"):
    """An R2 bucket or any S3 bucket."""

    provider_class = BucketProvider
