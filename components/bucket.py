"""The bucket: made if it is not there, marked with whose it is, kept while it holds results."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, UpdateResult

from clients.errors import Conflict
from clients.results import read_json
from clients.storage import Storage
from components.messages import inform
from components.provider import FluxProvider, Props, inputs_of, replace_on
from training.errors import FluxError
from training.manifest import canonical_json
from training.run import Layout

INPUTS = ("home", "kind", "bucket", "prefix", "owner", "adopt", "results")


class BucketProvider(FluxProvider):
    def diff(self, _id: str, olds: Props, news: Props) -> DiffResult:
        self.check_home(olds)
        return replace_on(("kind", "bucket", "prefix"), olds, news)

    def create(self, props: Props) -> CreateResult:
        storage = self.connection.storage(props["bucket"])
        made = storage.ensure()
        mark_as_ours(storage, Layout(props["prefix"]), props["owner"], adopt=bool(props["adopt"]), made=made)
        return CreateResult(props["bucket"], inputs_of(props, INPUTS))

    def read(self, id_: str, props: Props) -> ReadResult:
        self.check_home(props)
        storage = self.connection.storage(props["bucket"])
        if not storage.exists() or owner_of(storage, Layout(props["prefix"])) != props["owner"]:
            return ReadResult("", {})
        outputs = inputs_of(props, INPUTS)
        return ReadResult(id_, outputs, outputs)

    def update(self, _id: str, _olds: Props, news: Props) -> UpdateResult:
        storage = self.connection.storage(news["bucket"])
        mark_as_ours(storage, Layout(news["prefix"]), news["owner"], adopt=bool(news["adopt"]))
        return UpdateResult(inputs_of(news, INPUTS))

    def delete(self, _id: str, props: Props) -> None:
        storage = self.connection.storage(props["bucket"])
        layout = Layout(props["prefix"])
        self.check_home(props)
        if not storage.exists():
            return
        if props["results"] == "delete":
            storage.delete_many([item.key for item in storage.list(layout.runs)])
        kept = [
            item for item in storage.list(layout.prefix) if not item.key.startswith(f"{layout.prefix}.flux/")
        ]
        if kept:
            inform(
                f"bucket {props['bucket']} stays, with {len(kept)} objects; what runs left lies below {layout.runs}"
            )
            return
        made = bool((read_json(storage, layout.owner) or {}).get("made"))
        storage.delete_many([item.key for item in storage.list(f"{layout.prefix}.flux/")])
        if made and next(iter(storage.list("")), None) is None:
            storage.delete_bucket()


def mark_as_ours(storage: Storage, layout: Layout, owner: str, adopt: bool, made: bool = False) -> None:
    """Write `.flux/owner.json`, or find our own there. `made`: the bucket is ours to delete once it is empty.

    Raises FluxError when it names somebody else, unless `adopt`, or when there is no mark but objects of others.
    """
    present = owner_of(storage, layout)
    if present == owner:
        return
    mark = canonical_json({"version": 1, "owner": owner, "made": made})
    where = f"{storage.bucket}/{layout.prefix}"
    if present is None and not adopt and next(iter(storage.list(layout.prefix)), None) is not None:
        # Another update of this stack may have marked it between the two looks.
        if owner_of(storage, layout) == owner:
            return
        raise FluxError(
            f"bucket {where} holds objects that are not this project's",
            "it takes only an empty bucket or prefix, or its own",
            "choose another storage.bucket or storage.prefix, or set `adopt: true`",
        )
    if present is not None and not adopt:
        raise FluxError(
            f"bucket {where} belongs to {present}",
            f"{owner} must not write into another stack's bucket",
            "choose another storage.bucket or storage.prefix, or set `adopt: true`",
        )
    try:
        storage.put_bytes(layout.owner, mark, if_none_match=not adopt)
    except Conflict:
        mark_as_ours(storage, layout, owner, adopt, made)


def owner_of(storage: Storage, layout: Layout) -> str | None:
    mark = read_json(storage, layout.owner)
    return None if mark is None else str(mark.get("owner"))


class Bucket(Resource, module="flux", name="Bucket"):
    """R2 or any S3 bucket. `prefix` is empty or ends in a slash."""

    bucket: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(BucketProvider(), name, props, opts)
