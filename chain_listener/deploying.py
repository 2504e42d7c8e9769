"""What the chain approved goes out in stages, and back where it does harm (staging.py has the table).

Whatever happens is in the records before anybody hears of it, and each step may be done again: after kill -9 at any
point it goes on from there, and the chain and the agents see nothing twice that matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import structlog

from chain_listener import staging
from chain_listener.signatures import Signatures
from chain_listener.staging import Rollout, Stage, StagingPolicy
from gemel.errors import ChainReverted, Unavailable
from gemel.exchange.chain_watch import RETRY_S, Parties
from gemel.exchange.deployment_log import DeploymentLog
from gemel.exchange.post import Post
from gemel.exchange.standings import Standings
from gemel.ports import Chain, ChainEvent, Records, RoundState
from gemel.wire import envelope
from gemel.wire.canary_report import REPORT_BYTES, CanaryReport
from gemel.wire.eip712 import task_id
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import ConfirmedSum, Deployment, Installed, Restored, decode, encode
from gemel.wire.standing import Facts

LOOK_S = 1.0  # how often patience is looked at
_CURRENT = ("rollout", "current")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Deploying:
    """Follows the contracts' events and the agents' reports; `run` moves what is on its way."""

    post: Post
    chain: Chain
    agents: Parties
    records: Records
    standings: Standings
    policy: StagingPolicy
    entries: DeploymentLog  # what goes out stands in it before
    _signatures: Signatures = field(init=False)
    _said: tuple[int, Deployment] | None = None  # what the bus was told last, by its round
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # one change of the rollout at a time
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._signatures = Signatures(self.records)

    async def listen(self) -> None:
        """Hear what agents report."""
        topic = self.post.topics.installed()
        await self.post.hear(topic, Kind.INSTALLED, self.agents, self.on_installed, max_body_bytes=REPORT_BYTES)

    # --- what the chain says ---

    async def on_event(self, event: ChainEvent) -> None:
        """One contract event of our task. When this returns it is durable, and `run` announces it."""
        if event.values.get("task") != task_id(self.post.trust.task):
            return
        await self._signatures.on_event(event)
        if event.name not in ("RoundApproved", "RolledBack"):
            return
        if event.retracted:
            log.error("what was announced already was reorganised away", event=event.name, event_id=event.id)
            return
        async with self._turn:
            current, number = await self._current(), int(str(event.values["deployment"]))
            if current is None or current.body.deployment < number:  # else it comes again after a crash
                begin = self._approved if event.name == "RoundApproved" else self._rolled_back
                await self._keep(await begin(event))
                if current is not None:
                    await self._forget_words(current.body.deployment)
        await self._signatures.drop(int(str(event.values["round"])))

    async def _approved(self, event: ChainEvent) -> Rollout:
        v = event.values
        round_ = int(str(v["round"]))
        body = Deployment(
            deployment=int(str(v["deployment"])),
            parent=str(v["parent"]),
            model=str(v["model"]),
            epoch=(await self.chain.round(self.post.trust.task, round_)).epoch,
            votes=await self._signatures.approvals(round_),
            accuracy=int(str(v["accuracy"])),
            transaction=event.transaction,
            block=event.block,
            confirmed=await self._confirmed(round_),
        )
        return staging.approved(round_, body, self.agents.records.keys(), self.policy, self._now_ms)

    async def _confirmed(self, round_: int) -> ConfirmedSum | None:
        """How the sum of this round was confirmed; None for M0, which is no sum's."""
        if round_ == 0:
            return None
        record = await self.chain.round(self.post.trust.task, round_)
        confirmations = await self._signatures.confirmations(round_)
        return ConfirmedSum(record.updates_root, record.sum_digest, record.owners, record.weight, confirmations)

    async def _rolled_back(self, event: ChainEvent) -> Rollout:
        """What was in use before, under a number of its own: its accuracy is what it was approved with."""
        v, task = event.values, self.post.trust.task
        model = str(v["model"])
        approved_in = (await self.chain.lineage(task, model)).round
        body = Deployment(
            deployment=int(str(v["deployment"])),
            parent=str(v["failed"]),
            model=model,
            epoch=0,  # until a quorum has said that it stands
            votes=(),
            accuracy=(await self.chain.round(task, approved_in)).accuracy,
            transaction=event.transaction,
            block=event.block,
        )
        log.warning("the chain went back", failed=body.parent[:12], deployment=body.deployment, model=model[:12])
        return staging.rolled_back(int(str(v["round"])), body, self._now_ms)

    # --- what agents say ---

    async def on_installed(self, message: Envelope) -> None:
        """An agent runs a deployment, or says why not; a canary says how it does."""
        report = decode(Installed, message.body)
        device = message.header.sender
        if report.outcome == "refused" and not self.entries.has_told(report.deployment, report.model):
            # agents answer what our key has signed, and nothing else: somebody else has it, or our log is lost
            number, model, why = report.deployment, report.model, report.reason
            log.error("an agent was sent what we never sent", device=device, number=number, model=model, why=why)
        elif report.outcome in ("refused", "unhealthy"):
            number, why = report.deployment, report.reason
            log.warning("an agent would rather not", device=device, number=number, outcome=report.outcome, why=why)
        async with self._turn:
            current = await self._current()
            if current is None or message.header.round != current.round:
                return
            if (report.deployment, report.model) != (current.body.deployment, current.body.model):
                return
            if device in current.canaries and device not in current.unhealthy:
                await self.records.put(_words(report.deployment), device, envelope.pack(message))
            if (changed := staging.heard(current, device, report)) != current:
                await self._keep(changed)

    # --- what follows ---

    async def run(self) -> None:
        """Announce what stands, again after each restart, and take it through its stages, for ever."""
        while True:
            self._moved.clear()
            current = await self._current()
            try:
                if current is not None:
                    await self._announce(current)
                    await self._advance(current)
            except Unavailable as error:
                log.warning("once more", why=str(error), retry_s=RETRY_S)
                await self.post.clock.sleep(RETRY_S)
                continue
            idle = current is None or current.stage is Stage.STANDS
            with suppress(TimeoutError):
                async with asyncio.timeout(None if idle else LOOK_S):
                    await self._moved.wait()

    async def _advance(self, seen: Rollout) -> None:
        """One step, where one is due."""
        if seen.stage is Stage.STANDS:
            return
        if seen.stage is Stage.RESTORING:
            await self._restore(seen)
            return
        state = (await self.chain.round(self.post.trust.task, seen.round)).state
        if state == RoundState.APPROVED:
            await self._stage(seen)
        elif state == RoundState.DEPLOYED:
            await self._replace(seen, lambda now: staging.deployed(now, self._now_ms))
        # else it is rolled back, and the event that says so is on its way

    async def _stage(self, seen: Rollout) -> None:
        if seen.stage is Stage.CANARIES:
            await self._replace(seen, lambda now: staging.judged(now, self.policy, self._now_ms))
        elif seen.stage is Stage.GOING_BACK:
            await self._go_back(seen)
        elif staging.is_out(seen, self.agents.records.keys(), self.policy, self._now_ms):
            await self._record_deployed(seen)

    async def _record_deployed(self, rollout: Rollout) -> None:
        try:
            await self.chain.record_deployed(self.post.trust.task, rollout.round, agents=len(rollout.installed))
        except ChainReverted as error:
            log.warning("deployment not recorded", round=rollout.round, why=str(error))

    async def _go_back(self, rollout: Rollout) -> None:
        report = await self._report(rollout)
        log.error("rolling back", deployment=rollout.body.deployment, model=rollout.body.model[:12], why=report.why)
        agents = len(rollout.installed)
        try:
            await self.chain.roll_back(self.post.trust.task, rollout.round, agents=agents, report=report.digest)
        except ChainReverted as error:
            log.warning("rollback not recorded", round=rollout.round, why=str(error))

    async def _report(self, rollout: Rollout) -> CanaryReport:
        """Kept for ever, since its digest is on chain: the first one, however often we come back here."""
        body = rollout.body
        words = await self.records.items(_words(body.deployment))
        report = CanaryReport(
            task=self.post.trust.task,
            round=rollout.round,
            deployment=body.deployment,
            model=body.model,
            canaries=body.canaries or (),
            reports=tuple(packed for _, packed in words),
            why=staging.why_back(rollout),
        )
        kind, key = "canary-report", f"{body.deployment:020d}"
        await self.records.put_once(kind, key, encode(report))
        kept = await self.records.get(kind, key)
        assert kept is not None
        return decode(CanaryReport, kept)

    async def _restore(self, seen: Rollout) -> None:
        """Wait until a quorum says what the chain went back to, unless the chain goes on meanwhile."""

        def says_so(facts: Facts) -> bool:
            epoch = self.post.trust.electorate.epoch  # whoever signed must be of the epoch that the message names
            return (facts.deployment, facts.model, facts.epoch) == (seen.body.deployment, seen.body.model, epoch)

        number = seen.body.deployment
        quorum = asyncio.create_task(self.standings.quorum(says_so), name=f"standings of deployment {number}")
        moved = asyncio.create_task(self._moved.wait(), name="moved")
        try:
            await asyncio.wait({quorum, moved}, return_when=asyncio.FIRST_COMPLETED)
            if quorum.done():
                restored = Restored(*quorum.result())
                await self._replace(seen, lambda now: staging.confirmed(now, restored, self._now_ms))
        finally:
            quorum.cancel()
            moved.cancel()
            await asyncio.gather(quorum, moved, return_exceptions=True)

    # --- the records, and the bus ---

    @property
    def _now_ms(self) -> int:
        return self.post.clock.now_ms()

    async def _current(self) -> Rollout | None:
        raw = await self.records.get(*_CURRENT)
        return None if raw is None else msgspec.json.decode(raw, type=Rollout)

    async def _replace(self, seen: Rollout, change: Callable[[Rollout], Rollout]) -> None:
        """Change what stands, unless that is another deployment by now."""
        async with self._turn:
            now = await self._current()
            assert now is not None
            if now.body.deployment == seen.body.deployment and (changed := change(now)) != now:
                await self._keep(changed)

    async def _keep(self, rollout: Rollout) -> None:
        await self.records.put(*_CURRENT, msgspec.json.encode(rollout))
        self._moved.set()

    async def _forget_words(self, deployment: int) -> None:
        """What canaries said of one that is history; the report of a rollback carries them on."""
        for device, _ in await self.records.items(_words(deployment)):
            await self.records.drop(_words(deployment), device)

    async def _announce(self, rollout: Rollout) -> None:
        """Retained: it is the state that the fleet is to be in, and late agents must find it."""
        body, topic = rollout.body, self.post.topics.deployment
        if rollout.stage is Stage.RESTORING or self._said == (rollout.round, body):
            return  # nobody would believe it yet, or it is there
        await self.entries.append(rollout.round, body)
        await self.post.say(topic, Kind.DEPLOYMENT, encode(body), round_=rollout.round, retain=True)
        self._said = rollout.round, body
        log.info(
            "deployment announced",
            deployment=body.deployment,
            round=rollout.round,
            model=body.model[:12],
            stage=rollout.stage.value,
            transaction=body.transaction,
            canaries=body.canaries,
        )


def _words(deployment: int) -> str:
    """The kind under which canaries' last words of a deployment are kept, by device."""
    return f"canary/{deployment}"
