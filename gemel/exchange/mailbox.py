"""Messages of a round, kept until somebody is ready for them, across a restart too.

A service follows a round step by step, while messages come when they come. The mailbox stores the first message of
each (kind, round, sender) durably before it is acknowledged, and hands it to whoever waits. Who may send which kind
is for the subscription to say (`Post.hear`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gemel.ports import Records
from gemel.wire import envelope as wire
from gemel.wire.envelope import HEADER_BYTES, Envelope, Header, Kind


class Mailbox:
    """Durable, one envelope for each (kind, round, sender); later ones of the same are ignored."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._arrived = asyncio.Condition()

    async def put(self, envelope: Envelope) -> None:
        """Store an envelope that holds; a listener for Post.hear."""
        header = envelope.header
        key = f"{_round_key(header.round)}{header.sender}"
        if await self._records.put_once(_record_kind(header.kind), key, wire.pack(envelope)):
            async with self._arrived:
                self._arrived.notify_all()

    async def here(self, kind: Kind, round_: int) -> Sequence[Envelope]:
        """Every sender's envelope of this kind and round that has come, by sender."""
        stored = await self._records.items(_record_kind(kind))
        return [
            Envelope(Header.parse(data), data[HEADER_BYTES:])
            for key, data in stored
            if key.startswith(_round_key(round_))
        ]

    async def take(self, kind: Kind, round_: int, fits: Callable[[Envelope], bool] = lambda _: True) -> Envelope:
        """The first envelope of this kind and round that `fits`, now or as soon as it comes."""
        while True:
            async with self._arrived:
                for envelope in await self.here(kind, round_):
                    if fits(envelope):
                        return envelope
                await self._arrived.wait()

    async def clear_through(self, round_: int) -> None:
        """Forget everything of rounds up to `round_`."""
        for kind in map(_record_kind, Kind):
            for key, _ in await self._records.items(kind):
                if key < _round_key(round_ + 1):
                    await self._records.drop(kind, key)


def _record_kind(kind: Kind) -> str:
    return f"mail-{kind.name.lower()}"


def _round_key(round_: int) -> str:
    """What the keys of a round begin with; as text they sort as the rounds do."""
    return f"{round_:020d}/"
