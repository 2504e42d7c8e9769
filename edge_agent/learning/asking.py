"""Asks the coordinator for a round when the machine has drifted beyond its policy."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from edge_agent.inferring.drift_watch import DriftWatch
from edge_agent.learning.examples import Examples
from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.metrics import AgentMetrics
from gemel.errors import BusUnavailable
from gemel.exchange.post import Post
from gemel.wire import envelope
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import RoundAnswer, RoundRequest, decode, encode

LOOK_S = 1.0
EXPIRY_S = 3600

log = structlog.get_logger("gemel.agent.drift")


@dataclass(frozen=True, slots=True)
class RoundAsker:
    """An agent's requests for rounds, one at a time, never sooner after the last than its policy's cool-down."""

    post: Post
    watch: DriftWatch
    examples: Examples
    model_in_use: ModelInUse
    metrics: AgentMetrics

    async def listen(self) -> None:
        """Hear the coordinator's answers; call once."""
        own = self.post.topics.round_answer(self.post.identity.address)
        await self.post.hear(own, Kind.ROUND_ANSWER, {self.post.trust.coordinator.address}, self._on_answer)

    async def run(self) -> None:
        """Ask whenever the policy says so, for ever."""
        while True:
            request = await self._due()
            if request is not None:
                await self._ask(request)
            await self.post.clock.sleep(LOOK_S)

    async def _due(self) -> RoundRequest | None:
        """A request, where there is cause and a link: one that waits in a queue would speak of times gone by."""
        since_ms = self.watch.since_ms
        if since_ms is None or not self.post.bus.connected or self.model_in_use.current() is None:
            return None
        return self.watch.request(await self.examples.count(since_ms), self.post.clock.now_ms())

    async def _ask(self, request: RoundRequest) -> None:
        current = self.model_in_use.current()
        assert current is not None
        message = self.post.sign(Kind.ROUND_REQUEST, encode(request), base=current.digest)
        await self.watch.asked(message.header.issued_at_ms)
        self.metrics.round_request("asked")
        log.info("asking for a round", reason=request.reason, streams=[e.stream for e in request.evidence])
        topic = self.post.topics.round_request(self.post.identity.address)
        try:
            await self.post.bus.publish(topic, envelope.pack(message), expiry_s=EXPIRY_S)
        except BusUnavailable as error:  # asked again after the cool-down
            log.warning("round not asked for", why=str(error))

    async def _on_answer(self, message: Envelope) -> None:
        answer = decode(RoundAnswer, message.body)
        text = " ".join(part for part in (answer.outcome, answer.reason, answer.detail) if part)
        log.info("answer to our request for a round", answer=text)
        self.metrics.round_request(answer.outcome)
        self.watch.answered(answer.issued_at_ms, text)
