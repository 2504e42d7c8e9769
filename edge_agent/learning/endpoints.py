"""The chain itself, asked over several endpoints that nobody of the fleet runs, where the agent has any.

One alone could lie, so all that answer must say the same. An endpoint that is silent, or talks nonsense, is named and
does not count. Where none answers the quorum's signatures are all there is, as for an agent without endpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from aiohttp import ClientSession

from gemel.adapters.chain_endpoints import Named, ask
from gemel.errors import ChainUnavailable, Refused
from gemel.ports import Clock
from gemel.wire.eip712 import Domain
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest

CATCH_UP_S = 15.0  # for an endpoint that is a few blocks behind
ASK_AGAIN_S = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answers:
    """What each endpoint said, or why it does not count."""

    said: Mapping[str, Named] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)

    def remarks(self, deployment: int) -> list[str]:
        """What is worth telling somebody whose agent runs `deployment`."""
        found = list(self.silent.values())
        if len(set(self.said.values())) > 1:
            found.append("chain endpoints contradict each other: " + _listed(self.said))
        elif ahead := {url: named for url, named in self.said.items() if named.deployment > deployment}:
            found.append(f"the chain is ahead of deployment {deployment}: {_listed(ahead)}")
        if self.silent and not self.said:
            found.append("no chain endpoint counts, signatures of validators are all there is")
        return found


@dataclass(slots=True)
class Endpoints:
    """None of them, or some. `latest` is what they said last, to whoever asked."""

    urls: Sequence[str]
    domain: Domain
    task: str
    clock: Clock
    interval_s: float
    latest: Answers = field(default_factory=Answers)

    async def ask(self) -> Answers:
        """All of them, at the same time."""
        async with ClientSession() as session:
            found = await asyncio.gather(*(self._ask_one(session, url) for url in self.urls))
        answers = dict(zip(self.urls, found, strict=True))
        self.latest = Answers(
            said={url: answer for url, answer in answers.items() if isinstance(answer, Named)},
            silent={url: answer for url, answer in answers.items() if isinstance(answer, str)},
        )
        return self.latest

    async def _ask_one(self, session: ClientSession, url: str) -> Named | str:
        try:
            return await ask(session, url, self.domain, self.task)
        except ChainUnavailable as error:
            return str(error)

    async def confirm(self, deployment: int, model: Digest) -> None:
        """Raises Refused(contradicted) naming an endpoint that says otherwise; who is behind gets some time."""
        wanted = Named(deployment, model)
        give_up_s = self.clock.monotonic_s() + CATCH_UP_S
        while self.urls:
            said = (await self.ask()).said
            others = {url: named for url, named in said.items() if named != wanted}
            if not others:
                log.info("deployment confirmed by endpoints", deployment=deployment, endpoints=len(said))
                return
            behind = all(named.deployment < deployment for named in others.values())
            if not behind or self.clock.monotonic_s() >= give_up_s:
                raise Refused(Reason.CONTRADICTED, f"{_listed(others)}; not {_one(wanted)}")
            await self.clock.sleep(ASK_AGAIN_S)

    async def watch(self) -> None:
        """Ask for ever, each `interval_s`; where there are none, at once done."""
        while self.urls:
            await self.ask()
            await self.clock.sleep(self.interval_s)


def _listed(said: Mapping[str, Named]) -> str:
    return ", ".join(f"{url} says {_one(named)}" for url, named in said.items())


def _one(named: Named) -> str:
    return f"deployment {named.deployment} of {named.model[:12]}"
