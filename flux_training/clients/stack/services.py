"""A stack's settings with its services."""

from dataclasses import dataclass
from functools import cached_property

from flux_training.clients.connection import Connection
from flux_training.clients.stack.owner import OwnerMark, read_mark
from flux_training.clients.storage import Storage
from flux_training.training.runs.node_rights import nodes_reach_records
from flux_training.training.runs.run import Layout
from flux_training.training.settings import StackSettings


@dataclass(frozen=True)
class StackServices:
    """For one preview, plan or update: `bucket_exists` and `mark` are asked once."""

    connection: Connection
    settings: StackSettings

    @cached_property
    def storage(self) -> Storage:
        return self.connection.storage(self.settings.storage.bucket)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.settings.storage.key_prefix)

    @cached_property
    def bucket_exists(self) -> bool:
        return self.storage.exists()

    @property
    def nodes_reach_records(self) -> bool:
        """Whether the nodes' keys are valid for the whole bucket."""
        connection = self.connection
        has_own_keys = connection.node_access_key_id is not None
        return nodes_reach_records(self.settings.storage, connection.cloud, has_own_keys)

    @cached_property
    def mark(self) -> OwnerMark | None:
        """Whose bucket it is; None without a mark or a bucket."""
        return read_mark(self.storage, self.layout) if self.bucket_exists else None

    @property
    def has_earlier_layout(self) -> bool:
        """Whether `up` has yet to move the bucket's records. False without a mark."""
        return self.mark is not None and not self.mark.is_current
