"""The agent as a party of a fleet: participant and installer, on the agent's own bus and records."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass

from edge_agent.inferring.drift_watch import DriftWatch
from edge_agent.inferring.inference import Recent
from edge_agent.learning.encrypted_training import EncryptedTraining
from edge_agent.learning.endpoints import Endpoints
from edge_agent.learning.evidence import Evidence
from edge_agent.learning.examples import Examples
from edge_agent.learning.health import CanaryWatch, HealthPolicy, Trial, try_out
from edge_agent.learning.installer import Installer
from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.learning.participant import Participant
from edge_agent.settings import AgentSettings
from edge_agent.status import StatusBoard
from gemel.exchange.chain_watch import AnyOf
from gemel.exchange.model_pull import ModelPull
from gemel.exchange.transfers import Transfers
from gemel.host.party import Party, assemble, read_identity
from gemel.host.service import Host
from gemel.host.workers import Workers
from gemel.learning.linear_head import LinearHead
from gemel.learning.task import Floats, Task, Windows
from gemel.ports import Bus, Records


@dataclass(frozen=True, slots=True)
class Learning:
    """What the agent does as a member of its fleet."""

    party: Party
    participant: Participant
    installer: Installer
    evidence: Evidence

    async def listen(self) -> None:
        """Subscribe; call once."""
        collectors = AnyOf({self.party.trust.coordinator.address}, self.party.electorates)
        await self.party.transfers.listen(collectors)
        await self.evidence.listen()
        await self.participant.listen()
        await self.installer.listen()

    async def run(self) -> None:
        """Take part, install, and hand out frames, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.party.transfers.serve(), name="transfers")
            if self.participant.encrypted is not None:
                tasks.create_task(self.participant.encrypted.requests.serve(), name="training transfers")
            tasks.create_task(self.evidence.run(), name="evidence")
            tasks.create_task(self.participant.run(), name="participant")
            tasks.create_task(self.installer.run(), name="installer")


async def join(
    host: Host[AgentSettings],
    records: Records,
    bus: Bus,
    examples: Examples,
    model_in_use: ModelInUse,
    workers: Workers,
    task: Task,
    board: StatusBoard,
    recent: Recent,
    watch: DriftWatch | None,
) -> Learning:
    """Wire an agent that has trust and key files. Raises ConfigError for files that are wrong."""
    settings = host.settings
    assert settings.trust_file is not None
    assert settings.key_file is not None
    trust, keys = read_identity(settings.trust_file, settings.key_file)
    party = await assemble(host, trust, keys, records, bus)
    section = settings.evidence
    evidence = await Evidence.load(
        party.post,
        party.electorates,
        records,
        model_in_use,
        Endpoints(section.rpc_urls, trust.domain, trust.task, host.clock, section.interval_s),
        warning_s=section.warning_s,
    )
    board.evidence = lambda: evidence.status
    host.metrics.watch_evidence(lambda: evidence.age_s, lambda: evidence.deployment_on_chain)
    participant = Participant(
        post=party.post,
        transfers=party.transfers,
        mailbox=party.mailbox,
        records=records,
        examples=examples,
        model_in_use=model_in_use,
        workers=workers,
        task_path=settings.task,
        state_dir=settings.state_dir,
        note=board.note,
        evidence=evidence,
        encrypted=_encrypted_training(host, party, workers) if isinstance(task, LinearHead) else None,
    )
    installer = Installer(
        post=party.post,
        models=ModelPull(party.post, party.transfers, keys.box_secret),
        records=records,
        model_in_use=model_in_use,
        task=task,
        evidence=evidence,
        participation=participant,
        health=_canary_watch(host, task, model_in_use, examples, workers, recent, watch).health,
        note=board.note,
    )
    return Learning(party, participant, installer, evidence)


def _canary_watch(
    host: Host[AgentSettings],
    task: Task,
    model_in_use: ModelInUse,
    examples: Examples,
    workers: Workers,
    recent: Recent,
    watch: DriftWatch | None,
) -> CanaryWatch:
    settings = host.settings

    async def try_out_in_worker(model: str, before: str | None, inspected: Windows, latest: Floats) -> Trial:
        return await workers.run(try_out, settings.task, model, before, inspected, latest)

    return CanaryWatch(
        task=task,
        model_in_use=model_in_use,
        examples=examples,
        recent=recent,
        drifted=lambda: watch is not None and watch.has_drifted,
        try_out=try_out_in_worker,
        clock=host.clock,
        policy=HealthPolicy(watch_s=settings.health_watch_s),
    )


def _encrypted_training(host: Host[AgentSettings], party: Party, workers: Workers) -> EncryptedTraining:
    settings, topics = host.settings, party.post.topics.training()
    requests = settings.state_dir / "training-transfers"
    shutil.rmtree(requests, ignore_errors=True)  # of a training that a crash ended: it is not taken up again
    held = Transfers(party.post.among(topics), requests, max_spool_bytes=settings.spool_bytes)
    return EncryptedTraining(party.post, party.transfers, held, workers)
