"""A stack's settings with its services."""

from dataclasses import dataclass
from functools import cached_property

from flux_training.clients.connection import Connection
from flux_training.clients.stack.owner import OwnerMark, read_mark
from flux_training.clients.storage import Storage
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

    @cached_property
    def mark(self) -> OwnerMark | None:
        """Whose bucket it is; None without a mark or a bucket."""
        return read_mark(self.storage, self.layout) if self.bucket_exists else None
