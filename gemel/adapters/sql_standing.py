"""What stands in a table, by key, in memory: answers without the database, and plans before their commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from gemel.adapters.sql import Batch
from gemel.errors import Refused
from gemel.wire.reasons import Reason

K = TypeVar("K")
V = TypeVar("V")


class Standing(Generic[K, V]):
    """Readers see what is committed; plans see, above that, what is planned in the batch that is being made.

    `committed` is in the order of the latest change.
    """

    def __init__(self) -> None:
        self.committed: dict[K, V] = {}
        self._planned: dict[K, V] = {}

    def __len__(self) -> int:
        """How many keys there are, planned ones included."""
        return len(self.committed) + sum(key not in self.committed for key in self._planned)

    def load(self, values: Mapping[K, V]) -> None:
        """What the table holds, in order."""
        self.committed = dict(values)

    def get(self, key: K) -> V | None:
        """For plans."""
        return self._planned.get(key, self.committed.get(key))

    def make_room(self, most: int) -> None:
        """For one more key. Raises Refused(too_large) where `most` stand."""
        if len(self) >= most:
            raise Refused(Reason.TOO_LARGE, f"{len(self)} are kept already, and no more than {most}: max_machines")

    def plan(self, batch: Batch, key: K, value: V) -> None:
        """`value` stands once the batch is committed."""
        if not self._planned:
            batch.when_ended(self._end)
        self._planned[key] = value

    def _end(self, committed: bool) -> None:  # noqa: FBT001  it is the answer to one question
        planned, self._planned = self._planned, {}
        if not committed:
            return
        for key, value in planned.items():
            self.committed.pop(key, None)
            self.committed[key] = value
