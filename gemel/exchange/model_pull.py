"""Getting an approved model over the bus: ask the coordinator by digest, pull what it offers, check the bytes."""

from __future__ import annotations

import asyncio

from gemel.errors import Refused
from gemel.exchange.post import Post
from gemel.exchange.transfers import Transfers
from gemel.wire import boxes
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Fetch, ModelOffer, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest, sha256

MODEL_BYTES = 1 << 30
ASK_AGAIN_S = 3.0


class ModelPull:
    """Pulls models for one party. Call `listen` once, then `pull` as often as needed."""

    def __init__(self, post: Post, transfers: Transfers, box_secret: bytes) -> None:
        self._post, self._transfers, self._box_secret = post, transfers, box_secret
        self._offers: dict[Digest, ModelOffer] = {}
        self._offered = asyncio.Event()

    async def listen(self) -> None:
        """Hear the coordinator's offers."""
        await self._post.hear(
            self._post.topics.model, Kind.MODEL, {self._post.trust.coordinator.address}, self._heard
        )

    async def _heard(self, message: Envelope) -> None:
        offer = decode(ModelOffer, message.body)
        self._offers = {offer.model: offer}  # only the latest can still be pulled
        self._offered.set()

    async def pull(self, model: Digest, *, deadline_s: float) -> bytes:
        """The model's bytes, their digest checked. Raises Refused: missing, not_addressed, digest_mismatch."""
        coordinator = self._post.trust.coordinator.address
        try:
            async with asyncio.timeout(deadline_s):
                offer = await self._offer_of(model)
        except TimeoutError:
            raise Refused(Reason.MISSING, f"nobody offered model {model[:12]} within {deadline_s:.0f} s") from None
        wrapped = await self._transfers.fetch(
            coordinator, offer.transfer, max_bytes=MODEL_BYTES, deadline_s=deadline_s
        )
        data = await asyncio.to_thread(boxes.unwrap, wrapped, self._box_secret)
        if await asyncio.to_thread(sha256, data) != model:
            raise Refused(Reason.DIGEST_MISMATCH, f"these bytes are not model {model[:12]}")
        return data

    async def _offer_of(self, model: Digest) -> ModelOffer:
        topic = self._post.topics.fetch(self._post.trust.coordinator.address, self._post.identity.address)
        while model not in self._offers:
            self._offered.clear()
            await self._post.say(topic, Kind.FETCH, encode(Fetch(model=model)), expiry_s=10)
            try:
                async with asyncio.timeout(ASK_AGAIN_S):
                    await self._offered.wait()
            except TimeoutError:
                continue
        return self._offers.pop(model)
