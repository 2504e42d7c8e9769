"""What the agent says about itself: availability (with a will) and status, both retained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from msgspec.structs import asdict

from edge_agent.learning.examples import Examples
from edge_agent.learning.model_in_use import ModelInUse
from gemel.errors import BusUnavailable
from gemel.ports import Bus, Clock, Will
from gemel.twin.agent import OFFLINE, ONLINE, SCHEMA, AgentStatus, EvidenceStatus, Participation, status_to_json
from gemel.wire import topics

LOOK_S = 0.5  # how soon a change, or a new link, is noticed
FAREWELL_S = 2.0
_log = structlog.get_logger("gemel.agent.status")


def will(site: str, agent: str) -> Will:
    """What the broker says when this agent vanishes."""
    return Will(topics.agent(site, agent, "availability"), OFFLINE)


class StatusBoard:
    """Says what this agent runs, and what it refused last."""

    def __init__(
        self,
        site: str,
        agent: str,
        asset: str,
        *,
        bus: Bus,
        clock: Clock,
        examples: Examples,
        model_in_use: ModelInUse,
    ) -> None:
        self._site, self._agent, self._asset = site, agent, asset
        self._bus, self._clock = bus, clock
        self._examples, self._model_in_use = examples, model_in_use
        self._refusal, self._deploying = "", ""
        self._learning: Participation | None = None
        self.further: Callable[[], Sequence[str]] = tuple  # the other machines whose twins the agent keeps
        self.evidence: Callable[[], EvidenceStatus | None] = lambda: None  # what it knows of the chain

    def note(self, *, refusal: str | None = None, deploying: str | None = None, **learning: Any) -> None:
        """Say why a deployment was refused ("" when one is installed), what it waits for, fields of `Participation`.

        A `round` begins them anew when it is another one; otherwise what is not given stays.
        """
        if refusal is not None:
            self._refusal = refusal
        if deploying is not None:
            self._deploying = deploying
        if learning:
            same = self._learning is not None and learning.get("round", self._learning.round) == self._learning.round
            known = asdict(self._learning) if self._learning is not None and same else {"participation": ""}
            self._learning = Participation(**(known | learning))

    async def run(self) -> None:
        """Publish for ever; what was said is said again on each new link. Says goodbye when cancelled."""
        said: AgentStatus | None = None
        linked_since_ms = 0
        try:
            while True:
                try:
                    if self._bus.connected:
                        if linked_since_ms == 0:
                            linked_since_ms = self._clock.now_ms()
                            await self._say("availability", ONLINE)
                        status = await self._status(linked_since_ms)
                        if status != said:
                            await self._say("status", status_to_json(status), "application/json")
                            said = status
                    else:
                        linked_since_ms = 0
                except BusUnavailable:
                    linked_since_ms = 0
                await self._clock.sleep(LOOK_S)
        finally:
            await self._say_goodbye()

    async def _status(self, linked_since_ms: int) -> AgentStatus:
        current = self._model_in_use.current()
        return AgentStatus(
            SCHEMA,
            self._site,
            self._agent,
            self._asset,
            current.running if current else None,
            self._refusal,
            self._learning,
            await self._examples.count(),
            linked_since_ms,
            tuple(self.further()),
            self.evidence(),
            self._deploying,
        )

    async def _say(self, leaf: str, payload: bytes, content_type: str = "text/plain") -> None:
        topic = topics.agent(self._site, self._agent, leaf)
        await self._bus.publish(topic, payload, retain=True, content_type=content_type)

    async def _say_goodbye(self) -> None:
        """A clean disconnect sends no will, so this must come first; without a link there is nobody to tell."""
        if not self._bus.connected:
            return
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._say("availability", OFFLINE)
        except (TimeoutError, BusUnavailable):
            _log.warning("left without a goodbye")
