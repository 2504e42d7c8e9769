"""Hands approved models to whoever is registered: wrapped, because two models in a row would reveal an opened sum."""

from __future__ import annotations

import asyncio

import structlog

from coordinator.office import Office
from gemel.wire import boxes
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Kind
from gemel.wire.messages import ModelOffer, encode
from gemel.wire.types import Digest

ANNOUNCE_EVERY_S = 1.0  # however many agents ask, one announcement a second serves them all

log = structlog.get_logger(__name__)


class ModelDesk:
    """Answers «offer me this model» for the model that the chain holds in use, and for no other."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._offer: tuple[Digest, frozenset[str], Transfer] | None = None
        self._asked = asyncio.Event()

    async def requested(self, model: Digest) -> None:
        """A registered party asks for a model; a listener for Transfers.serve."""
        if model == (await self._office.chain.task(self._office.name)).model:
            self._asked.set()
        else:
            log.info("model asked for is not in use", model=model)

    async def run(self) -> None:
        """Announce, at most once a second, where the model in use can be pulled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            model = (await self._office.chain.task(self._office.name)).model
            if await self._office.blobs.has(model):
                offer = ModelOffer(model, await self._wrapped(model))
                topic = self._office.post.topics.model
                await self._office.post.say(topic, Kind.MODEL, encode(offer), expiry_s=60)
            await self._office.post.clock.sleep(ANNOUNCE_EVERY_S)

    async def _wrapped(self, model: Digest) -> Transfer:
        parties = (*self._office.agents.records.values(), *self._office.validators.records.values())
        readers = frozenset(party.box for party in parties)
        if self._offer is not None and self._offer[:2] == (model, readers):
            return self._offer[2]
        data = await self._office.blobs.get(model)
        wrapped = await asyncio.to_thread(boxes.wrap, data, readers)
        transfer = await self._office.transfers.offer(wrapped)
        if self._offer is not None:
            await self._office.transfers.withdraw(self._offer[2])
        self._offer = (model, readers, transfer)
        return transfer
