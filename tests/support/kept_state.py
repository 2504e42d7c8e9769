"""A small kept state without services: real keys, sealing, signatures, contracts and files, played through in order.

Rounds: 0 (M0), 1 deployed, 2 refused by the gate, 3 deployed with its ciphertexts dropped and rolled back, 4 aborted.
Then a report on the first gateway, an order that it opens, and the listener's log of two deployments, one anchored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.clock import SystemClock
from gemel.adapters.contract_abi import ELECTION, MAINTENANCE, TRUST
from gemel.adapters.evm_anchors import EvmAnchors
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_trust import EvmTrust
from gemel.adapters.evm_upkeep import EvmUpkeep
from gemel.adapters.file_blobs import FileBlobs
from gemel.adapters.key_files import Keys
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.console import founding
from gemel.console.exporting import write_export
from gemel.console.fleet_files import read_place
from gemel.console.founding import AgentPlan, FleetPlan, create_keys, found
from gemel.exchange import admission
from gemel.exchange.deployment_log import DeploymentLog
from gemel.exchange.round_folder import RoundFolder, write_whole
from gemel.ports import Sent
from gemel.sealing.candidate import candidate_model
from gemel.sealing.opener import create_key, open_sum
from gemel.sealing.work import seal_update, sum_frames
from gemel.wire import envelope, tensors
from gemel.wire.attestations import Confirmation, ModelAttestation, SumAttestation, Vote, attest, seal_vote
from gemel.wire.chunks import Transfer
from gemel.wire.eip712 import task_id
from gemel.wire.envelope import Kind
from gemel.wire.logs import DEPLOYMENT_LOG, root_of
from gemel.wire.messages import (
    Aggregate,
    Body,
    Deployment,
    DeviceResult,
    Entry,
    Invitation,
    Opened,
    Policy,
    Roster,
    encode,
)
from gemel.wire.trust import Trust
from gemel.wire.trust_report import sign_report
from gemel.wire.types import NO_DIGEST, Address, Digest, Ppm, sha256
from gemel.wire.upkeep import OrderState, Step, order_of, sign_alert, sign_step
from tests.support.chains import running_chain
from tests.support.plans import OWNERS, plan_of, policy_of

M0: tensors.Model = {
    "bias": np.zeros(3, np.float32),
    "weight": np.linspace(-0.5, 0.5, 12, dtype=np.float32).reshape(3, 4),
}
PARAMETERS = 15
WEIGHTS = (120, 300, 450, 80)
NOW_MS = 1_700_000_000_000
SITE, ASSET = "north", "press-1"
ROLLBACK_REPORT = sha256(b"what the operator has seen")
DOUBT = 400_000  # how far the first gateway is trusted: two of four levels

Weigh = Callable[[Iterable[Entry], Policy, Mapping[Address, Ppm]], tuple[Entry, ...]]


async def build(directory: Path, weigh: Weigh = admission.weighed) -> None:
    """Found a fleet in `directory`, let it learn for four rounds, and keep everything.

    With another `weigh` coordinator and validators are of one mind to weigh updates so, and not as the policy says.
    """
    agents = (AgentPlan("gateway-1", OWNERS[0], DOUBT, assets=(f"{SITE}/{ASSET}",)), *plan_of().agents[1:])
    changes: dict[str, Any] = {"agents": agents, "policy": policy_of(levels=4)}
    keys = create_keys(directory, plan_of(**changes))
    changes["technicians"] = (keys["operator"].identity.address,)
    async with running_chain(directory, [key.identity.address for key in keys.values()]) as node:
        plan = plan_of(rpc_url=node.url, **changes)
        trust = await found(directory, plan, keys)
        plan = replace(plan, policy=founding.policy_of(plan, keys))
        place = read_place(directory)
        parties = ("coordinator", "custodian", "listener", "operator")
        chains = {name: EvmChain(place, keys[name].identity) for name in parties}
        async with chains["coordinator"], chains["custodian"], chains["listener"], chains["operator"]:
            fleet = Fleet(directory, plan, trust, place, keys, chains, weigh)
            m0 = await fleet.genesis()
            m1 = await fleet.round(1, m0, deployment=2, accuracies=(610_000, 590_000, 600_000))
            await fleet.round(2, m1, deployment=3, accuracies=(400_000, 410_000, 420_000))
            await fleet.round(3, m1, deployment=3, accuracies=(640_000, 650_000, 200_000))
            await RoundFolder(directory / "coordinator", 3).drop_spool()
            await chains["coordinator"].open_round(plan.task, 4, base=await fleet.in_use(), policy=plan.policy.digest)
            await chains["coordinator"].abort(plan.task, 4, reason="no sealing context")
            await fleet.report_on("gateway-1", round_=3)
            await fleet.maintain("gateway-1")
            await fleet.anchor_log()
            await fleet.slash(m0)
            await chains["operator"].roll_back(plan.task, 3, agents=3, report=ROLLBACK_REPORT)
        await write_export(directory)
    (directory / "chain.db").unlink()


@dataclass(frozen=True, slots=True)
class Fleet:
    """All parties in one hand."""

    directory: Path
    plan: FleetPlan
    trust: Trust
    place: ChainPlace
    keys: Mapping[str, Keys]
    chains: Mapping[str, EvmChain]
    weigh: Weigh
    deployments: list[Deployment] = field(default_factory=list)  # as the listener would have told of them

    @property
    def coordinator(self) -> EvmChain:
        """The coordinator's view of the chain."""
        return self.chains["coordinator"]

    @property
    def blobs(self) -> FileBlobs:
        """The coordinator's models."""
        return FileBlobs(self.directory / "coordinator" / "blobs")

    async def in_use(self) -> Digest:
        """The model in use."""
        return (await self.coordinator.task(self.plan.task)).model

    async def genesis(self) -> Digest:
        """M0, approved and deployed."""
        m0 = await self.blobs.put(tensors.to_bytes(M0))
        await self.coordinator.propose_genesis(self.plan.task, model=m0, policy=self.plan.policy.digest)
        verdict = await self._vote(0, 1, NO_DIGEST, m0, accuracies=(250_000, 240_000, 260_000), baselines=(0, 0, 0))
        await self._deploy(0, NO_DIGEST, m0, verdict)
        return m0

    async def round(self, number: int, base: Digest, *, deployment: int, accuracies: Sequence[int]) -> Digest:
        """A whole round; the candidate's digest. Validators approve at 500,000 ppm."""
        task, policy, chain = self.plan.task, self.plan.policy, self.coordinator
        folder = RoundFolder(self.directory / "coordinator", number)
        await chain.open_round(task, number, base=base, policy=policy.digest)
        key = create_key(policy.sealing, PARAMETERS)
        await folder.write("context", key.public_context)
        context = Transfer(sha256(key.public_context), len(key.public_context))
        invitation = Invitation(policy, context, NOW_MS, 7, NOW_MS + 1000, NOW_MS + 2000)
        await self._say(folder, "invitation", Kind.INVITATION, invitation, number, base)

        entries = await self._frames(folder, number, base, key.public_context)
        root = admission.root_of(entries)
        await chain.close_list(task, number, root=root)
        await self._say(folder, "roster", Kind.ROSTER, Roster(entries, root), number, base)

        included = self.weigh(entries[:-1], policy, {})  # the last one never revealed
        (folder.frames / entries[-1].device).unlink()
        frames = [(folder.frames / entry.device, entry.level) for entry in included]
        total = sum_frames(key.public_context, policy.sealing, PARAMETERS, frames)
        await folder.write("sum", total)
        updates_root, weight = admission.root_of(included), admission.weight_of(included)
        sums = {"updates_root": updates_root, "sum_digest": sha256(total), "owners": 3, "weight": weight}
        await chain.propose_sum(task, number, **sums)
        aggregate = Aggregate(included, updates_root, Transfer(sha256(total), len(total)), weight)
        await self._say(folder, "aggregate", Kind.AGGREGATE, aggregate, number, base)
        await self._confirm(SumAttestation(task, number, **sums))

        opened = open_sum(key.secret, total, sum(entry.level for entry in included))
        await folder.write("opened", opened)
        await self.chains["custodian"].record_opening(task, number, opened=sha256(opened))
        opening = Opened(sha256(opened), Transfer(sha256(b"wrapped"), 7))
        await self._say(folder, "opening", Kind.OPENED, opening, number, base, by="custodian")

        candidate = candidate_model(await self.blobs.get(base), opened, policy.sealing, weight)
        model = await self.blobs.put(candidate)
        explanation = b'{"lime": [0.25, 0.5]}'
        await folder.write("explanation.json", explanation)
        await chain.propose_candidate(
            task, number, model=model, explanation=sha256(explanation), accuracy=accuracies[0]
        )
        verdict = await self._vote(number, deployment, base, model, accuracies=accuracies, baselines=(550_000,) * 3)
        if (await chain.task(task)).model == model:
            await self._deploy(number, base, model, verdict)
        return model

    async def report_on(self, name: str, round_: int) -> None:
        """All validators: its update was middling, and it gets half of the round's reward, which its owner claims."""
        device, trust = self.keys[name].identity.address, EvmTrust(self.coordinator.calls)
        results = (DeviceResult(device, outcome=500_000, share=500_000),)
        validators = (self.keys[each].identity for each in self.plan.validator_names)
        domain = self.place.domain(TRUST)
        signed = [sign_report(results, self.plan.task, round_, domain, each) for each in validators]
        await trust.report(self.plan.task, round_, results, signed)
        await trust.claim((await self.coordinator.party(device)).owner)

    async def slash(self, m0: Digest) -> None:
        """The third validator signed two votes on M0, and somebody shows both."""
        validator = self.keys[self.plan.validator_names[2]].identity
        shown: list[object] = []
        for accuracy in (260_000, 270_000):
            said = ModelAttestation(self.plan.task, 0, 1, NO_DIGEST, m0, accuracy, 0, approved=True)
            values = (task_id(said.task), 0, 1, NO_DIGEST, m0, accuracy, 0, True)
            shown += [values, attest(said, self.trust.domain, validator).hex()]
        await self.coordinator.calls.send(ELECTION, "slashContradictingVotes", *shown)

    async def maintain(self, name: str) -> None:
        """An alert opens an order, which the operator acknowledges."""
        domain, upkeep = self.place.domain(MAINTENANCE), EvmUpkeep(self.coordinator.calls)
        agent, technician = self.keys[name].identity, self.keys["operator"].identity
        what: dict[str, Any] = {"site": SITE, "asset": ASSET, "alert": "hot@5", "time_s": 5, "report": sha256(b"hot")}
        alert = sign_alert(agent, domain, **what)
        await upkeep.open_order(alert, agent.address)
        order, step = order_of(alert), Step(technician.address, 6, NO_DIGEST)
        await upkeep.acknowledge(order, step, sign_step(technician, domain, order, OrderState.ACKNOWLEDGED, step))

    async def anchor_log(self) -> None:
        """The listener's log of what it told the fleet, a root over it, and one entry above that."""
        state = self.directory / "listener"
        state.mkdir()
        async with SqliteRecords(state / "records.sqlite") as records:
            log = await DeploymentLog.load(self.plan.task, records, SystemClock(), anchored=0)
            for number, body in enumerate(self.deployments[:-1]):
                await log.append(number, body)
            entries, anchors = log.after(0, 10), EvmAnchors(self.chains["listener"].calls)
            await anchors.anchor(DEPLOYMENT_LOG, first=1, last=len(entries), root=root_of(entries))
            await log.append(3, self.deployments[-1])

    async def _frames(self, folder: RoundFolder, number: int, base: Digest, context: bytes) -> tuple[Entry, ...]:
        """Every agent's sealed update on disk; the list of them, by device."""
        rng = np.random.default_rng(number)
        entries = []
        for agent, weight in zip(self.plan.agents, WEIGHTS, strict=True):
            update = rng.normal(0, 0.02, PARAMETERS).astype(np.float32)
            residual = np.zeros(PARAMETERS, np.float32)
            body = seal_update(context, self.plan.policy.sealing, update, weight, residual).body
            identity = self.keys[agent.name].identity
            signed = envelope.sign(
                identity,
                self.trust.domain,
                self.plan.task,
                Kind.UPDATE,
                body,
                issued_at_ms=NOW_MS,
                round=number,
                base=base,
                policy=self.plan.policy.digest,
                weight=weight,
            )
            frame = envelope.pack(signed)
            write_whole(folder.frames / identity.address, frame)
            entries.append(Entry(identity.address, sha256(body), weight, Transfer(sha256(frame), len(frame))))
        return (*sorted(entries[:-1], key=lambda entry: entry.device), entries[-1])

    async def _say(
        self,
        folder: RoundFolder,
        part: str,
        kind: Kind,
        body: Body,
        number: int,
        base: Digest,
        by: str = "coordinator",
    ) -> None:
        message = envelope.sign(
            self.keys[by].identity,
            self.trust.domain,
            self.plan.task,
            kind,
            encode(body),
            issued_at_ms=NOW_MS,
            round=number,
            base=base,
            policy=self.plan.policy.digest,
        )
        await folder.write(part, envelope.pack(message))

    async def _confirm(self, attestation: SumAttestation) -> None:
        signed = []
        for name in self.plan.validator_names[:2]:
            identity = self.keys[name].identity
            signature = attest(attestation, self.trust.domain, identity).hex()
            signed.append(Confirmation(identity.address, signature))
        await self.coordinator.attest_sums(self.plan.task, attestation.round, signed)

    async def _vote(
        self,
        number: int,
        deployment: int,
        parent: Digest,
        model: Digest,
        *,
        accuracies: Sequence[int],
        baselines: Sequence[int],
    ) -> Sent:
        """Returns the transaction of the verdict."""
        votes, sealed = [], []
        for name, accuracy, baseline in zip(self.plan.validator_names, accuracies, baselines, strict=True):
            approved = number == 0 or accuracy >= 500_000
            said = ModelAttestation(
                self.plan.task, number, deployment, parent, model, accuracy, baseline, approved=approved
            )
            identity = self.keys[name].identity
            signature = attest(said, self.trust.domain, identity).hex()
            votes.append(Vote(identity.address, accuracy, baseline, approved, signature))
            sealed.append(seal_vote(votes[-1], self.plan.task, number, self.place.votes, identity))
        await self.coordinator.commit_votes(self.plan.task, number, sealed)
        await self.coordinator.reveal_votes(self.plan.task, number, votes)
        return await self.coordinator.finalise(self.plan.task, number)

    async def _deploy(self, number: int, parent: Digest, model: Digest, verdict: Sent) -> None:
        """Agents run it, validators know it; one of each keeps it."""
        record = await self.coordinator.round(self.plan.task, number)
        about = (record.deployment, parent, model, record.epoch, (), record.accuracy)
        self.deployments.append(Deployment(*about, verdict.transaction, verdict.block))
        await self.chains["listener"].record_deployed(self.plan.task, number, agents=4)
        folder = self.directory / "agents" / "gateway-1" / "models"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{model}.safetensors").write_bytes(await self.blobs.get(model))
        await FileBlobs(self.directory / "validator-1" / "blobs").put(await self.blobs.get(model))
