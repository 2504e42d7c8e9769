"""Hears the agents' requests for rounds, answers each, and says when a round is due. What was accepted is on disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec
import structlog

from coordinator.office import Office
from coordinator.requests import Requests, admit, is_repetition, used
from gemel.errors import BusUnavailable, Malformed, PeerError, Refused
from gemel.exchange.post import detail_of, reason_of
from gemel.ports import Records
from gemel.wire.envelope import Envelope, Header, Kind
from gemel.wire.messages import RoundAnswer, RoundRequest, decode, encode
from gemel.wire.types import Digest

ANSWER_EXPIRY_S = 3600
_KIND, _KEY = "requests", "round"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RequestDesk:
    """The requests for one task's rounds. The service says when it takes them, and for which model.

    Until it has said so for the first time, requests wait: right after a start nobody knows yet whether a round is
    under way, and what came while the coordinator was away must not be refused for that.
    """

    office: Office
    records: Records
    _model_in_use: Digest | None = None  # None: a round is under way, or nothing is known yet
    _known: asyncio.Event = field(default_factory=asyncio.Event)
    _requests: Requests = field(default_factory=Requests)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        """Take up what was accepted before, and hear the agents; call once."""
        saved = await self.records.get(_KIND, _KEY)
        if saved is not None:
            self._requests = msgspec.json.decode(saved, type=Requests)
        post = self.office.post
        await post.hear(post.topics.round_request(), Kind.ROUND_REQUEST, self.office.agents, self._on_request)

    def open(self, model_in_use: Digest) -> None:
        """Between two rounds: from now on requests count that speak of this model."""
        self._model_in_use = model_in_use
        self._known.set()

    def close(self) -> None:
        """A round is under way: requests are refused."""
        self._model_in_use = None
        self._known.set()

    async def enough(self) -> None:
        """Wait until as many agents as the plan wants have asked."""
        clock, plan = self.office.post.clock, self.office.plan
        while not self._requests.enough(clock.now_ms(), plan):
            self._more.clear()
            await self._more.wait()
        agents = self._requests.counting(clock.now_ms(), plan)
        log.info("a round was asked for", agents=len(agents), of=plan.request_agents)

    async def begun(self) -> None:
        """A round begins: it answers what was asked."""
        self.close()
        await self._keep(used(self._requests))

    async def _on_request(self, message: Envelope) -> None:
        header = message.header
        await self._known.wait()
        if is_repetition(self._requests, header):
            return
        try:
            request = decode(RoundRequest, message.body)
            requests = admit(
                self._requests,
                header,
                request,
                model_in_use=self._model_in_use,
                now_ms=self.office.post.clock.now_ms(),
                plan=self.office.plan,
            )
        except (Refused, Malformed) as error:
            await self._answer(header, error)
            raise
        await self._keep(requests)
        self._more.set()
        log.info("request for a round", agent=header.sender, reason=request.reason, examples=request.examples)
        await self._answer(header, None)

    async def _keep(self, requests: Requests) -> None:
        await self.records.put(_KIND, _KEY, msgspec.json.encode(requests))
        self._requests = requests

    async def _answer(self, header: Header, error: PeerError | None) -> None:
        refusal = () if error is None else (reason_of(error), detail_of(error))
        answer = RoundAnswer(header.issued_at_ms, "accepted" if error is None else "refused", *refusal)
        topic = self.office.post.topics.round_answer(header.sender)
        try:
            await self.office.post.say(topic, Kind.ROUND_ANSWER, encode(answer), expiry_s=ANSWER_EXPIRY_S)
        except BusUnavailable as unsaid:  # a courtesy: the agent asks again after its cool-down
            log.warning("answer not sent", agent=header.sender, why=str(unsaid))
