"""Turns the chain's approvals into deployment messages, and reports back when the agents run them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec
import structlog

from gemel.errors import ChainReverted, Unavailable
from gemel.exchange.chain_watch import RETRY_S, Parties
from gemel.exchange.post import Post
from gemel.ports import Chain, ChainEvent, Records, RoundState
from gemel.wire.attestations import Confirmation, Vote
from gemel.wire.eip712 import task_id
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import ConfirmedSum, Deployment, Installed, decode, encode
from gemel.wire.types import Address

_CURRENT = ("deployment", "current")

log = structlog.get_logger(__name__)


class Announced(msgspec.Struct, frozen=True):
    """The deployment that stands on the bus, and who runs it."""

    round: int
    body: Deployment
    installed: frozenset[Address] = frozenset()


@dataclass(slots=True)
class ChainListener:
    """Follows the contract's events. Each is finished (stored, published) before the checkpoint passes it."""

    post: Post
    chain: Chain
    agents: Parties
    records: Records
    patience_s: float  # how long the fleet may take before a deployment counts with those that have it
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        """Hear what agents report."""
        await self.post.hear(self.post.topics.installed(), Kind.INSTALLED, self.agents, self.on_installed)

    async def on_event(self, event: ChainEvent) -> None:
        """One contract event of our task."""
        if event.values.get("task") != task_id(self.post.trust.task):
            return
        if event.name == "SumAttested":
            await self._keep_confirmation(event)
        elif event.name == "ModelAttested":
            await self._keep_vote(event)
        elif event.name == "RoundApproved":
            await self._announce(event)

    async def _keep_confirmation(self, event: ChainEvent) -> None:
        v = event.values
        kind, key = f"confirmation/{v['round']}", str(v["validator"])
        if event.retracted:
            await self.records.drop(kind, key)
            return
        await self.records.put(kind, key, msgspec.json.encode(Confirmation(key, str(v["signature"]))))

    async def _confirmed(self, round_: int) -> ConfirmedSum | None:
        """How the sum of this round was confirmed; None for M0, which is no sum's."""
        if round_ == 0:
            return None
        record = await self.chain.round(self.post.trust.task, round_)
        kept = await self.records.items(f"confirmation/{round_}")
        confirmations = tuple(msgspec.json.decode(raw, type=Confirmation) for _, raw in kept)
        return ConfirmedSum(record.updates_root, record.sum_digest, record.owners, record.weight, confirmations)

    async def _keep_vote(self, event: ChainEvent) -> None:
        v = event.values
        kind, key = f"vote/{v['round']}", str(v["validator"])
        if event.retracted:
            await self.records.drop(kind, key)
            return
        vote = Vote(key, int(str(v["accuracy"])), int(str(v["baseline"])), bool(v["approved"]), str(v["signature"]))
        await self.records.put(kind, key, msgspec.json.encode(vote))

    async def _announce(self, event: ChainEvent) -> None:
        if event.retracted:
            log.error("an approval was reorganised away after it was announced", event_id=event.id)
            return
        v = event.values
        round_ = int(str(v["round"]))
        votes = [msgspec.json.decode(raw, type=Vote) for _, raw in await self.records.items(f"vote/{round_}")]
        body = Deployment(
            deployment=int(str(v["deployment"])),
            parent=str(v["parent"]),
            model=str(v["model"]),
            votes=tuple(vote for vote in votes if vote.approved),
            accuracy=int(str(v["accuracy"])),
            transaction=event.transaction,
            block=event.block,
            confirmed=await self._confirmed(round_),
        )
        current = await self._current()
        if current is None or current.body.deployment < body.deployment:
            current = Announced(round_, body)
            await self.records.put(*_CURRENT, msgspec.json.encode(current))
        elif current.body.deployment > body.deployment:
            return  # an event may come again after a crash; this one is history
        await self._publish(current.round, current.body)
        for kind in (f"vote/{round_}", f"confirmation/{round_}"):
            for key, _ in await self.records.items(kind):
                await self.records.drop(kind, key)
        self._moved.set()

    async def _publish(self, round_: int, body: Deployment) -> None:
        """Retained: it is the state that the fleet is to be in, and late agents must find it."""
        topic = self.post.topics.deployment
        await self.post.say(topic, Kind.DEPLOYMENT, encode(body), round_=round_, retain=True)
        log.info("deployment announced", deployment=body.deployment, round=round_, model=body.model[:12])

    async def _current(self) -> Announced | None:
        raw = await self.records.get(*_CURRENT)
        return None if raw is None else msgspec.json.decode(raw, type=Announced)

    async def on_installed(self, message: Envelope) -> None:
        """An agent runs a deployment, or says why not."""
        report = decode(Installed, message.body)
        device = message.header.sender
        if report.outcome == "refused":
            log.warning("agent refuses deployment", device=device, number=report.deployment, why=report.reason)
            return
        current = await self._current()
        if current is None or (report.deployment, report.model) != (current.body.deployment, current.body.model):
            return
        current = msgspec.structs.replace(current, installed=current.installed | {device})
        await self.records.put(*_CURRENT, msgspec.json.encode(current))
        self._moved.set()

    async def run(self) -> None:
        """Announce again what stands after a restart, then record each deployment when the fleet has it."""
        current = await self._current()
        if current is not None:
            await self._publish(current.round, current.body)
        while True:
            self._moved.clear()
            current = await self._current()
            try:
                if current is not None and await self._deploying(current):
                    await self._gather()
                    continue
            except Unavailable as error:
                log.warning("once more", why=str(error), retry_s=RETRY_S)
                await self.post.clock.sleep(RETRY_S)
                continue
            await self._moved.wait()

    async def _deploying(self, current: Announced) -> bool:
        record = await self.chain.round(self.post.trust.task, current.round)
        return record.state == RoundState.APPROVED

    async def _gather(self) -> None:
        """Wait until every active agent runs it; after `patience_s` those that do are enough, if there are any."""
        give_up = self.post.clock.monotonic_s() + self.patience_s
        while True:
            self._moved.clear()
            latest = await self._current()
            assert latest is not None
            everybody = self.agents.records.keys() <= latest.installed
            late = self.post.clock.monotonic_s() >= give_up
            if latest.installed and (everybody or late):
                break
            try:
                async with asyncio.timeout(1.0):
                    await self._moved.wait()
            except TimeoutError:
                continue
        try:
            await self.chain.record_deployed(self.post.trust.task, latest.round, agents=len(latest.installed))
        except ChainReverted as error:
            log.warning("deployment not recorded", round=latest.round, why=str(error))
