"""Messages of a round, kept until somebody is ready for them, across a restart too.

A service follows a round step by step, while messages come when they come. The mailbox stores the first message of
each (kind, round) durably before it is acknowledged, and hands it to whoever waits.
"""

from __future__ import annotations

import asyncio

from gemel.ports import Records
from gemel.wire import envelope as wire
from gemel.wire.envelope import HEADER_BYTES, Envelope, Header, Kind

_KIND = "mail"


class Mailbox:
    """Durable, one envelope for each (kind, round); later ones of the same are ignored."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._arrived = asyncio.Condition()

    async def put(self, envelope: Envelope) -> None:
        """Store an envelope that holds; a listener for Post.hear."""
        if await self._records.put_once(
            _KIND, _key(envelope.header.kind, envelope.header.round), wire.pack(envelope)
        ):
            async with self._arrived:
                self._arrived.notify_all()

    async def take(self, kind: Kind, round_: int) -> Envelope:
        """The envelope of this kind and round, now or as soon as it comes."""
        while True:
            async with self._arrived:
                stored = await self._records.get(_KIND, _key(kind, round_))
                if stored is not None:
                    return Envelope(Header.parse(stored), stored[HEADER_BYTES:])
                await self._arrived.wait()

    async def clear_through(self, round_: int) -> None:
        """Forget everything of rounds up to `round_`."""
        for key, _ in await self._records.items(_KIND):
            if int(key.split("/", 1)[0]) <= round_:
                await self._records.drop(_KIND, key)


def _key(kind: Kind, round_: int) -> str:
    return f"{round_:08d}/{kind.name.lower()}"
