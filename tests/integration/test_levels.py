"""Levels on ciphertexts, in a fleet of two owners by exception: what the coordinator applies, validators recompute.

Custodian, validators and the first round's coordinator are real; agents are the test's, later the coordinator, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import pytest_asyncio
from msgspec.structs import replace

from gemel.adapters.evm_chain import EvmChain
from gemel.exchange import admission
from gemel.exchange.round_folder import RoundFolder
from gemel.ports import RoundState
from gemel.sealing.summer import Summer
from gemel.wire import tensors
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import HEADER_BYTES, Header, Kind
from gemel.wire.messages import Aggregate, Context, Entry, Receipt, Roster, decode, encode
from gemel.wire.tensors import Vector
from gemel.wire.types import NO_DIGEST, Digest
from tests.support.fleet import WAIT_S, Fleet, OpenRound, Player, fleet, in_one_task
from tests.support.tiny_task import task

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWNERS = {"trusted": "bonn", "half": "bonn", "doubted": "lyon", "banned": "lyon"}
TRUST = {"half": 500_000, "doubted": 250_000, "banned": 0}
LEVELS = {"trusted": 4, "half": 2, "doubted": 1}
SAMPLES = {"trusted": 10, "half": 30, "doubted": 100, "banned": 100}
ALLOWED = "the operator of this test, because it is one"


@dataclass(slots=True)
class Plant:
    """The fleet, the agents that the test plays, and the coordinator, whom it plays after the first round."""

    fleet: Fleet
    agents: dict[str, Player]
    coordinator: Player
    chain: EvmChain  # with the coordinator's key
    listener: EvmChain

    @property
    def task(self) -> str:
        return self.fleet.trust.task

    def vector(self, name: str) -> Vector:
        return np.full(task.manifest.size, 0.02 * (1 + list(OWNERS).index(name)), np.float32)

    async def commit(self, round_: OpenRound) -> None:
        """Every agent's honest update."""
        for name, player in self.agents.items():
            weight = SAMPLES[name]
            update = player.update(round_, player.sealed(round_, self.vector(name), weight=weight), weight=weight)
            await player.commit(round_, update, player.wrapped(update))

    async def model(self, digest: Digest) -> Vector:
        """A model's bytes as the coordinator keeps them, flat."""
        path = self.fleet.state("coordinator") / "blobs" / digest[:2] / digest
        return tensors.flatten(tensors.from_bytes(path.read_bytes(), task.manifest))

    # --- the test as coordinator ---

    async def open_round(self) -> OpenRound:
        record = await self.chain.task(self.task)
        number, policy = record.last_round + 1, self.fleet.plan.policy
        await self.chain.open_round(self.task, number, base=record.model, policy=policy.digest)
        topic = self.fleet.topics.context(self.fleet.address("custodian"))
        heard = await self.fleet.heard(topic, where=lambda payload: Header.parse(payload).round == number)
        transfer, custodian = decode(Context, heard.body).context, self.fleet.address("custodian")
        context = await self.fleet.wait(
            self.coordinator.transfers.fetch(custodian, transfer, max_bytes=1 << 24, deadline_s=WAIT_S)
        )
        return OpenRound(number, record.model, policy, context, None)  # type: ignore[arg-type]  # nobody is invited

    async def propose(self, round_: OpenRound, levels: dict[str, int], added: dict[str, int]) -> None:
        """List these agents, claim `levels`, and offer the sum of their updates at the levels `added`."""
        summer = Summer(round_.context, round_.policy.sealing, task.manifest.size)
        entries: list[Entry] = []
        for name in sorted(levels, key=lambda name: self.agents[name].address):
            player, weight = self.agents[name], SAMPLES[name]
            body = player.sealed(round_, self.vector(name), weight=weight)
            summer.add(body, added[name])
            update = player.update(round_, body, weight=weight)
            transfer = await player.transfers.offer(player.wrapped(update))
            entry = Entry(player.address, update.header.body_digest, weight, transfer)
            entries.append(replace(entry, level=levels[name]))
        await self._say(round_, entries, await self.coordinator.transfers.offer(summer.sum()))

    async def _say(self, round_: OpenRound, entries: Sequence[Entry], total: Transfer) -> None:
        listed = tuple(map(admission.listed, entries))
        roster_root, root = admission.root_of(listed), admission.root_of(entries)
        weight = admission.weight_of(entries)
        await self.chain.close_list(self.task, round_.number, root=roster_root)
        await self.chain.propose_sum(
            self.task, round_.number, updates_root=root, sum_digest=total.digest, owners=2, weight=weight
        )
        facts = {"round_": round_.number, "base": round_.base, "policy": round_.policy.digest}
        roster, aggregate = Roster(listed, roster_root), Aggregate(tuple(entries), root, total, weight)
        await self.coordinator.post.say(self.fleet.topics.roster, Kind.ROSTER, encode(roster), **facts)
        await self.coordinator.post.say(self.fleet.topics.aggregate, Kind.AGGREGATE, encode(aggregate), **facts)

    async def expect_no_vote(self, number: int, why: str) -> None:
        """Both validators have looked at the sum, and neither confirmed it."""
        for validator in self.fleet.plan.validator_names:

            async def refused(validator: str = validator) -> bool:
                log = self.fleet.log(validator)
                return any(why in line and f"number={number}" in line for line in log.splitlines())

            await self.fleet.until(refused)
        record = await self.chain.round(self.task, number)
        assert (record.state, record.opened) == (RoundState.AGGREGATED, NO_DIGEST)
        await self.chain.abort(self.task, number, reason="the test is over")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    """Round 1 is open under a real coordinator."""
    options = {"levels": 4, "trust": TRUST, "minimum_owners": 2, "two_owners_exception": ALLOWED}
    async with in_one_task(fleet(tmp_path_factory.mktemp("levels"), OWNERS, **options)) as founded:
        await founded.start("custodian", "validator-1", "validator-2")
        await founded.start("coordinator", rounds=1, keep_frames=False)
        listener = await founded.chain_of("listener")
        await founded.reached(listener, 0, RoundState.APPROVED)
        await listener.record_deployed(founded.trust.task, 0, agents=1)
        agents = {name: await founded.play(name) for name in OWNERS}
        chain = await founded.chain_of("coordinator")
        yield Plant(founded, agents, await founded.play("coordinator"), chain, listener)


async def test_real_round_weighs_ciphertexts_by_trust_and_leaves_out_who_has_none(plant: Plant) -> None:
    round_ = await plant.fleet.invitation(plant.agents["trusted"], 1)
    await plant.commit(round_)
    record = await plant.fleet.reached(plant.listener, 1, RoundState.APPROVED, RoundState.REJECTED)
    aggregate = decode(Aggregate, (await plant.fleet.heard(plant.fleet.topics.aggregate)).body)
    levels = {entry.device: entry.level for entry in aggregate.entries}
    assert levels == {plant.agents[name].address: level for name, level in LEVELS.items()}
    weights = {name: LEVELS[name] * SAMPLES[name] for name in LEVELS}
    assert record.weight == aggregate.weight == sum(weights.values()) == 40 + 60 + 100
    assert record.owners == 2

    base, candidate = await plant.model(record.base), await plant.model(record.model)
    mean = sum(weight * plant.vector(name) for name, weight in weights.items()) / record.weight
    step = 0.1 / 127
    assert np.abs(candidate - base - mean).max() <= 0.5 * step * sum(LEVELS.values()) * 100 / record.weight


async def test_spools_stay_until_the_round_is_final_and_then_they_go(plant: Plant) -> None:
    """The round is approved by now, and not yet deployed."""
    coordinator = plant.fleet.state("coordinator")
    folder, offered = RoundFolder(coordinator, 1), coordinator / "transfers" / "out"
    frames = {path.name for path in folder.frames.iterdir()}
    assert frames == {player.address for player in plant.agents.values()}  # of the one without weight, too
    assert all((folder.path / part).exists() for part in ("sum", "opened", "context"))
    assert len(list(offered.iterdir())) >= len(frames) + 1
    await plant.listener.record_deployed(plant.task, 1, agents=4)
    spools = [
        folder.frames,
        *(RoundFolder(plant.fleet.state(name), 1).frames for name in ("validator-1", "validator-2")),
    ]

    async def gone() -> bool:
        parts = [folder.path / part for part in ("sum", "opened", "context")]
        left = [path for path in (*spools, *parts) if path.exists()]
        m0 = 1  # wrapped for validators that come late
        return not left and len(list(offered.iterdir())) <= m0

    await plant.fleet.until(gone)
    assert (folder.path / "aggregate").exists()  # signed messages stay


async def test_device_without_weight_hears_why(plant: Plant) -> None:
    topic = plant.fleet.topics.receipt(plant.agents["banned"].address)

    def refused(payload: bytes) -> bool:
        return decode(Receipt, payload[HEADER_BYTES:]).outcome == "refused"

    receipt = decode(Receipt, (await plant.fleet.heard(topic, where=refused)).body)
    assert receipt.reason == "no_weight"
    assert receipt.transfer != NO_DIGEST


async def test_budget_and_exception_are_kept_with_the_round(plant: Plant) -> None:
    kept = (RoundFolder(plant.fleet.state("coordinator"), 1).path / "budget.md").read_text()
    assert f"| bfv-packed | 8 | 8 | 4 | {task.manifest.size} |" in kept
    assert "4 of at most 4 levels" in kept
    assert "EXCEPTION: sums of two owners are opened" in kept
    assert ALLOWED in kept
    assert ALLOWED in plant.fleet.log("coordinator")


async def test_coordinator_that_favours_an_agent_gets_no_confirmation(plant: Plant) -> None:
    """List, root, weight and sum on chain all fit each other: only the policy says that they are wrong."""
    round_ = await plant.open_round()
    favoured = LEVELS | {"doubted": 4}
    await plant.propose(round_, favoured, added=favoured)
    await plant.expect_no_vote(round_.number, "not weighed as the policy says")


async def test_coordinator_that_takes_in_a_banned_device_gets_no_confirmation(plant: Plant) -> None:
    round_ = await plant.open_round()
    taken_in = LEVELS | {"banned": 1}
    await plant.propose(round_, taken_in, added=taken_in)
    await plant.expect_no_vote(round_.number, "not weighed as the policy says")


async def test_sum_at_other_levels_than_it_claims_gets_no_confirmation(plant: Plant) -> None:
    round_ = await plant.open_round()
    await plant.propose(round_, LEVELS, added=LEVELS | {"doubted": 4})
    await plant.expect_no_vote(round_.number, "not the sum of these frames")


async def test_two_owners_sum_at_the_policys_levels_is_confirmed_and_opened(plant: Plant) -> None:
    round_ = await plant.open_round()
    await plant.propose(round_, LEVELS, added=LEVELS)
    record = await plant.fleet.reached(plant.chain, round_.number, RoundState.OPENED)
    assert record.owners == 2
    await plant.chain.abort(plant.task, round_.number, reason="the test is over")
