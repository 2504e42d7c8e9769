"""The one count of all that a registry stores (`sequence` in ports), and the wait for what comes next."""

from __future__ import annotations

import asyncio

from gemel.adapters.sql import Batch


class Numbering:
    """Numbers are given while a batch is planned, and heard of once it is committed."""

    def __init__(self) -> None:
        self.committed = 0  # the last number whose batch is committed
        self._given = 0
        self._changed = asyncio.Event()  # set, once, by the next commit that gave a number
        self._batch: Batch | None = None

    def load(self, last: int) -> None:
        """The last number in the tables."""
        self._given = self.committed = last

    def next(self, batch: Batch) -> int:
        """The next number."""
        if batch is not self._batch:
            batch.when_ended(self._tell)
            self._batch = batch
        self._given += 1
        return self._given

    async def passes(self, number: int) -> None:
        """Wait until a larger one is committed."""
        while self.committed <= number:
            await self._changed.wait()

    def _tell(self, committed: bool) -> None:  # noqa: FBT001  it is the answer to one question
        if committed:
            self.committed = self._given
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
