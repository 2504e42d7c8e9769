"""The chain listener's log of what it told the fleet to run: numbered without a gap, never changed.

An entry is kept before its message goes out, so whatever was said stands in the log; a message that is said again,
after a restart, is the same entry. Roots over the log go on chain (gemel/wire/logs.py): who has entries can compare.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gemel.ports import Clock, Records
from gemel.wire.messages import Body, Deployment, decode, encode
from gemel.wire.types import Count, Digest, Millis, sha256

KIND = "deployment-log"  # among the listener's records; the key is the entry's number


class DeploymentEntry(Body, frozen=True):
    """One message to the fleet: a deployment, to canaries first or to all, or a model restored."""

    sequence: Count
    time_ms: Millis  # when it was kept, by the listener's clock
    task: str
    round: Count
    deployment: Count
    model: Digest
    restored: bool
    message: Digest  # SHA-256 of the Deployment's canonical JSON
    transaction: Digest  # that it follows from
    block: Count


class DeploymentLog:
    """Begin with `await DeploymentLog.load(...)`."""

    def __init__(self, task: str, entries: Sequence[bytes], anchored: int, records: Records, clock: Clock) -> None:
        self._task, self._records, self._clock = task, records, clock
        kept = [decode(DeploymentEntry, entry) for entry in entries]
        self._entries = [(entry.sequence, raw) for entry, raw in zip(kept, entries, strict=True)]
        self._said = {entry.message for entry in kept}
        self._told = {(entry.deployment, entry.model) for entry in kept}
        self.last = max(anchored, kept[-1].sequence if kept else 0)  # number of the newest entry
        self._turn = asyncio.Lock()

    @classmethod
    async def load(cls, task: str, records: Records, clock: Clock, *, anchored: int) -> DeploymentLog:
        """The log as it was left. Numbers go on above those that are `anchored`, also where the entries were lost."""
        return cls(task, await read_entries(records), anchored, records, clock)

    async def append(self, round_: int, body: Deployment) -> None:
        """Keep that this message goes out; one that is in the log changes nothing. Raises StoreUnavailable."""
        message = sha256(encode(body))
        async with self._turn:
            if message in self._said:
                return
            entry = DeploymentEntry(
                sequence=self.last + 1,
                time_ms=self._clock.now_ms(),
                task=self._task,
                round=round_,
                deployment=body.deployment,
                model=body.model,
                restored=body.restored is not None,
                message=message,
                transaction=body.transaction,
                block=body.block,
            )
            raw = encode(entry)
            await self._records.put(KIND, f"{entry.sequence:020d}", raw)
            self._entries.append((entry.sequence, raw))
            self._said.add(message)
            self._told.add((body.deployment, body.model))
            self.last = entry.sequence

    def has_told(self, deployment: Count, model: Digest) -> bool:
        """Whether any message was that the fleet, or its canaries, run this model under this number."""
        return (deployment, model) in self._told

    def after(self, number: int, limit: int) -> Sequence[bytes]:
        """At most `limit` entries above `number`, in order."""
        return [raw for sequence, raw in self._entries if sequence > number][:limit]


async def read_entries(records: Records) -> Sequence[bytes]:
    """All entries among a listener's records, in order: what it can be held to."""
    return [entry for _, entry in await records.items(KIND)]
