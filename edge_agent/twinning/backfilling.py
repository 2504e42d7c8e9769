"""Sends what waits in the outbox once the link is back, slowly enough that live state is not held up.

A batch is forgotten when a registry says that it has committed it. The broker's word is not enough: it may have had
nobody to hand the batch to, or forget it before it could.
"""

from __future__ import annotations

import asyncio

import structlog

from edge_agent.twinning.outbox import Batch, Outbox
from gemel.errors import BusRefused, BusUnavailable, Malformed
from gemel.ports import Bus, BusMessage, Clock
from gemel.twin import backfill
from gemel.twin.backfill import MAX_REVISIONS, SCHEMA, Answer, Backfill
from gemel.wire import topics
from gemel.wire.types import sha256

LOOK_S = 1.0  # how soon a new link, or a first revision, is noticed
SETTLE_S = 2.0  # after a new link: first the live state
PAUSE_S = 0.1  # between two batches
REFUSED_S = 60.0  # an asset that broker or registry refuse rests so long; others go on
ANSWER_S, LONGEST_ANSWER_S = (
    5.0,
    60.0,
)  # for a registry's answer, before a batch is sent again: at first, and in the end
BATCH_BYTES = 128 * 1024

_log = structlog.get_logger("gemel.agent.outbox")


class Backfilling:
    """Sends one outbox, of one site's twins."""

    def __init__(self, outbox: Outbox, site: str, *, bus: Bus, clock: Clock) -> None:
        self._outbox, self._site, self._bus, self._clock = outbox, site, bus, clock
        self._listens: set[str] = set()  # assets whose answers are heard
        self._sent = ""  # digest of the batch that waits for its answer
        self._answer: asyncio.Future[Answer] | None = None
        self._answer_s = ANSWER_S
        self._rests_until_s: dict[str, float] = {}  # assets that were refused

    async def run(self) -> None:
        """Batch after batch, oldest first, for ever."""
        linked = False
        while True:
            self._outbox.attended_s = self._clock.monotonic_s()
            if not self._bus.connected:
                linked = False
            elif not linked:
                linked, self._answer_s = True, ANSWER_S
                await self._clock.sleep(SETTLE_S)
                if self._bus.connected and self._outbox.depth:
                    _log.info("sending what was kept", revisions=self._outbox.depth, dropped=self._outbox.dropped)
                continue
            elif (batch := await self._next()) is not None:
                await self._clock.sleep(await self._send(batch))
                continue
            await self._clock.sleep(LOOK_S)

    async def _next(self) -> Batch | None:
        now_s = self._clock.monotonic_s()
        self._rests_until_s = {asset: until_s for asset, until_s in self._rests_until_s.items() if until_s > now_s}
        return await self._outbox.oldest(MAX_REVISIONS, BATCH_BYTES, self._rests_until_s)

    async def _send(self, batch: Batch) -> float:
        """Send it, and forget it once a registry has it; returns how long to wait then."""
        try:
            answer = await self._ask(batch)
        except BusUnavailable as error:
            _log.warning("not sent yet", why=str(error))
            return LOOK_S
        except BusRefused as error:  # a broker with rights from before there was a backfill
            return self._rest(batch.asset, str(error))
        if answer is None:
            self._answer_s = min(2 * self._answer_s, LONGEST_ANSWER_S)
            _log.info("no registry has taken it yet", asset=batch.asset, revisions=self._outbox.depth)
            return PAUSE_S
        if answer.refusal:
            return self._rest(batch.asset, answer.refusal)
        self._answer_s = ANSWER_S
        await self._outbox.forget(batch.numbers)
        if not self._outbox.depth:
            _log.info("the registry has everything that was kept")
        return PAUSE_S

    def _rest(self, asset: str, why: str) -> float:
        _log.error("a backfill is refused", asset=asset, why=why, retry_s=REFUSED_S)
        self._rests_until_s[asset] = self._clock.monotonic_s() + REFUSED_S
        return PAUSE_S

    async def _ask(self, batch: Batch) -> Answer | None:
        """A registry's answer to a batch; None if none came in time."""
        if batch.asset not in self._listens:
            await self._bus.subscribe(topics.backfill_answer(self._site, batch.asset), self._hear)
            self._listens.add(batch.asset)
        document = backfill.to_json(Backfill(SCHEMA, self._site, batch.asset, self._outbox.dropped, batch.revisions))
        self._sent, self._answer = sha256(document), asyncio.get_running_loop().create_future()
        await self._bus.publish(
            topics.twin_backfill(self._site, batch.asset),
            document,
            content_type="application/json",
            expiry_s=round(self._answer_s),  # by then it is sent again: a broker need not pile it up for a registry
        )
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._answer
        except TimeoutError:
            return None

    async def _hear(self, message: BusMessage) -> None:
        """An answer; one to something else is not for us."""
        try:
            answer = backfill.answer_from_json(message.payload)
        except Malformed as error:
            _log.warning("no answer to a backfill", error=str(error))
            return
        if self._answer is not None and not self._answer.done() and answer.digest == self._sent:
            self._answer.set_result(answer)
