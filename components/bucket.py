"""The bucket: made if it is not there, marked with whose it is, kept while it holds results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, UpdateResult

from components.messages import inform
from components.provider import FluxProvider, Props, inputs_of, replace_on
from flux_training.clients.conditions import unheeded_conditions
from flux_training.clients.errors import Conflict, UncertainOutcome
from flux_training.clients.results import read_json
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.runs.retention import our_rules, with_our_rules
from flux_training.training.runs.run import Layout

INPUTS = ("home", "kind", "bucket", "prefix", "location", "owner", "adopt", "results", "retention")
R2 = "r2"


class BucketProvider(FluxProvider):
    def diff(self, _id: str, olds: Props, news: Props) -> DiffResult:
        self.check_home(olds)
        # `kind` is how the bucket is reached; the same one by another way stays, with all that lies in it.
        found = replace_on(("bucket", "prefix"), olds, news)
        if found.replaces:
            self._refuse_to_delete_results(olds)
        return found

    def create(self, props: Props) -> CreateResult:
        storage = self.connection.storage(props["bucket"])
        made = self._ensure(storage, props)
        layout = Layout(props["prefix"])
        mark_as_ours(storage, layout, props["owner"], adopt=bool(props["adopt"]), made=made)
        refuse_without_conditions(storage, layout)
        if props.get("retention"):
            keep_only(storage, props["owner"], props["retention"])
        return CreateResult(props["bucket"], inputs_of(props, INPUTS))

    def read(self, id_: str, props: Props) -> ReadResult:
        self.check_home(props)
        storage = self.connection.storage(props["bucket"])
        if not storage.exists() or owner_of(storage, Layout(props["prefix"])) != props["owner"]:
            return ReadResult("", {})
        outputs = inputs_of(props, INPUTS)
        if props.get("retention"):
            outputs["retention"] = our_rules(storage.lifecycle_rules(), props["owner"])
        return ReadResult(id_, outputs, outputs)

    def update(self, _id: str, olds: Props, news: Props) -> UpdateResult:
        storage = self.connection.storage(news["bucket"])
        if olds.get("location") != news.get("location"):
            inform(
                f"bucket {news['bucket']} stays where it is: a location counts only when R2 makes a bucket"
            )
        mark_as_ours(storage, Layout(news["prefix"]), news["owner"], adopt=bool(news["adopt"]))
        if olds.get("retention") or news.get("retention"):
            keep_only(storage, news["owner"], news.get("retention") or {})
        return UpdateResult(inputs_of(news, INPUTS))

    def delete(self, _id: str, props: Props) -> None:
        storage = self.connection.storage(props["bucket"])
        layout = Layout(props["prefix"])
        self.check_home(props)
        if not storage.exists():
            return
        owner = owner_of(storage, layout)
        if owner != props["owner"]:
            why = f"{owner} has adopted it" if owner else "it does not carry this stack's mark any more"
            inform(f"bucket {props['bucket']} stays as it is: {why}")
            return
        if props["results"] == "delete":
            storage.delete_many(results_in(storage, layout))
        kept = [item for item in storage.list(layout.prefix) if not item.key.startswith(layout.own)]
        if kept:
            inform(
                f"bucket {props['bucket']} stays, with {len(kept)} objects; what runs left lies below {layout.runs}"
            )
            return
        made = bool((read_json(storage, layout.owner) or {}).get("made"))
        storage.delete_many([item.key for item in storage.list(layout.own)])
        if made and next(iter(storage.list("")), None) is None:
            self._remove(storage, props)

    def _refuse_to_delete_results(self, olds: Props) -> None:
        """A replaced bucket is taken down like a destroyed one, and nobody who changes a setting has asked for that."""
        storage, layout = self.connection.storage(olds["bucket"]), Layout(olds["prefix"])
        if olds["results"] != "delete" or not storage.exists() or owner_of(storage, layout) != olds["owner"]:
            return
        if results_in(storage, layout):
            raise FluxError(
                f"this stack's results lie in s3://{olds['bucket']}/{layout.runs}",
                "with `results: delete` a change of storage.bucket or storage.prefix would delete them",
                "put these two back and run `make up` with `results: keep`; then change them, or use another stack for the new place",
            )

    def _ensure(self, storage: Storage, props: Props) -> bool:
        """Make the bucket unless it is there; whether it was made."""
        if props["kind"] != R2:
            return storage.ensure()
        if storage.exists():
            return False
        try:
            self.connection.cloudflare().create_bucket(props["bucket"], props.get("location"))
        except (Conflict, UncertainOutcome):
            # Another update was faster, or the answer got lost: what is there now decides.
            if not storage.exists():
                raise
            return False
        return True

    def _remove(self, storage: Storage, props: Props) -> None:
        if props["kind"] == R2:
            self.connection.cloudflare().delete_bucket(props["bucket"])
        else:
            storage.delete_bucket()


def keep_only(storage: Storage, owner: str, retention: Mapping[str, float]) -> None:
    """Make the bucket delete by itself what has outlived its days (how keys begin → days), and nothing else of ours."""
    wanted = {prefix: int(days) for prefix, days in retention.items()}
    present = storage.lifecycle_rules()
    if our_rules(present, owner) != wanted:
        storage.put_lifecycle_rules(with_our_rules(present, owner, wanted))


def mark_as_ours(storage: Storage, layout: Layout, owner: str, adopt: bool, made: bool = False) -> None:
    """Write `.flux/owner.json`, or find our own there. `made`: the bucket is ours to delete once it is empty.

    Raises FluxError when it names somebody else, unless `adopt`, or when there is no mark but objects of others.
    """
    present = owner_of(storage, layout)
    if present == owner:
        return
    mark = canonical_json({"version": 1, "owner": owner, "made": made})
    if not adopt:
        refusal = foreign_bucket(storage, layout, owner)
        # Another update of this stack may have marked it between the two looks.
        if refusal is not None and owner_of(storage, layout) == owner:
            return
        if refusal is not None:
            raise refusal
    try:
        storage.put_bytes(layout.owner, mark, if_none_match=not adopt)
    except Conflict:
        mark_as_ours(storage, layout, owner, adopt, made)


def refuse_without_conditions(storage: Storage, layout: Layout) -> None:
    """Raises FluxError for a storage in which two updates can both believe that they alone may post a job."""
    unheeded = unheeded_conditions(storage, layout.own)
    if unheeded:
        raise FluxError(
            f"the storage of bucket {storage.bucket} overwrites what {' and '.join(unheeded)} should keep",
            "two updates at the same time would queue a job twice, and both are paid for",
            "use R2, AWS, or a storage with conditional writes",
        )


def foreign_bucket(storage: Storage, layout: Layout, owner: str) -> FluxError | None:
    """Why a bucket without our mark must not be used; None when nothing lies below the prefix."""
    present = owner_of(storage, layout)
    where = f"{storage.bucket}/{layout.prefix}"
    if present is not None:
        return FluxError(
            f"bucket {where} belongs to {present}",
            f"{owner} must not write into another stack's bucket",
            "choose another storage.bucket or storage.prefix, or set `adopt: true`",
        )
    if next(iter(storage.list(layout.prefix)), None) is None:
        return None
    return FluxError(
        f"bucket {where} holds objects that are not this project's",
        "it takes only an empty bucket or prefix, or its own",
        "choose another storage.bucket or storage.prefix, or set `adopt: true`",
    )


def results_in(storage: Storage, layout: Layout) -> list[str]:
    """Every key that `results: delete` deletes."""
    return keys_of_runs(layout, [item.key for item in storage.list(layout.runs)])


def keys_of_runs(layout: Layout, keys: Sequence[str]) -> list[str]:
    """Those of `keys` (all below runs/) that lie in the folder of a run: an adopted bucket may hold other things there.

    What tells a run's folder, its run.json, comes last: a deletion that is broken off goes on the next time.
    """
    of_run: dict[tuple[str, ...], list[str]] = {}
    records = []
    for key in keys:
        job, _, rest = key.removeprefix(layout.runs).partition("/")
        run, _, _ = rest.partition("/")
        of_run.setdefault((job, run), []).append(key)
        if key == layout.run(job, run).record:
            records.append((job, run))
    last = {layout.run(job, run).record for job, run in records}
    found = [key for run in records for key in of_run[run]]
    return sorted(found, key=lambda key: (key in last, key))


def owner_of(storage: Storage, layout: Layout) -> str | None:
    mark = read_json(storage, layout.owner)
    return None if mark is None else str(mark.get("owner"))


class Bucket(Resource, module="flux", name="Bucket"):
    """R2 or any S3 bucket. `prefix` is empty or ends in a slash."""

    bucket: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(BucketProvider(), name, props, opts)
