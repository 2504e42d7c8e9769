"""What an agent knows of the chain: who votes, what stands, how old that is; from signatures alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.learning import evidence as evidence_module
from edge_agent.learning.evidence import MOST_WAITING, Evidence
from edge_agent.learning.model_in_use import ModelInUse
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import Refused
from gemel.exchange.electorates import Electorates
from gemel.exchange.post import Post
from gemel.wire.electorate import Electorate
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import Handover, Restored, encode
from gemel.wire.types import sha256
from tests.support.evidence import evidence_of
from tests.support.parties import AGENTS, LISTENER, TRUST, VALIDATORS
from tests.support.seats import (
    MODEL,
    MORE,
    NOW_MS,
    PINNED,
    POLICY,
    Air,
    electorate,
    facts_of,
    handover,
    said_by,
    standing,
)

A, B, C = VALIDATORS
BASE = f"gemel/v1/{TRUST.fleet}/learning/{TRUST.task}"
SECOND = electorate(2, (A, B, MORE[0]))
THIRD = electorate(3, (B, MORE[0], MORE[1]))
FOURTH = electorate(4, MORE)
CHAIN = (handover(SECOND, (A, B)), handover(THIRD, (B, MORE[0])), handover(FOURTH, (B, MORE[0], MORE[1])))


@dataclass
class Agent:
    """An agent that hears only what a test says."""

    air: Air
    evidence: Evidence
    electorates: Electorates
    model: ModelInUse
    clock: FakeClock
    refusals: list[str]

    async def hear(self, *messages: Envelope) -> None:
        for message in messages:
            await self.air.hand_out(f"{BASE}/standing/{message.header.sender}", message)
        await self.settle()

    async def hand_over(self, *handovers: Handover, by: Identity = LISTENER) -> None:
        for each in handovers:
            topic = f"{BASE}/electorate/{each.electorate.epoch}"
            await self.air.hand_out(topic, said_by(by, Kind.HANDOVER, encode(each)))
        await self.settle()

    async def settle(self) -> None:
        """Let it weigh what came: its records are written by a thread."""
        heard = self.evidence._heard
        assert isinstance(heard, Heard)
        async with asyncio.timeout(30):
            while heard.is_set() or not heard.waited_for:  # noqa: ASYNC110  what another task does
                await asyncio.sleep(0.001)


class Heard(asyncio.Event):
    """Shows whether the agent has nothing left to weigh."""

    waited_for = False

    async def wait(self) -> Literal[True]:
        self.waited_for = True
        await super().wait()
        self.waited_for = False
        return True


@asynccontextmanager
async def running(folder: Path, clock: FakeClock | None = None) -> AsyncIterator[Agent]:
    """An agent; the same again when called again with its folder."""
    async with SqliteRecords(folder / "records.sqlite", synchronous="NORMAL") as records:
        electorates = await Electorates.load(records, TRUST)
        air, clock, refusals = Air(), clock or FakeClock(NOW_MS), list[str]()
        post = Post(
            air,  # type: ignore[arg-type]  # all that it hears
            TRUST,
            AGENTS[0],
            clock,
            lambda _kind, reason: refusals.append(reason),
            in_force=lambda: electorates.trust,
        )
        model = await ModelInUse.load(records, folder / "models")
        evidence = await evidence_of(post, records, folder, electorates=electorates, model=model)
        evidence._heard = Heard()
        evidence._standings.on_heard = evidence._heard.set
        await evidence.listen()
        run = asyncio.create_task(evidence.run())
        await asyncio.sleep(0)
        yield Agent(air, evidence, electorates, model, clock, refusals)
        assert not run.done(), "evidence ended by itself"
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


@pytest_asyncio.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    async with running(tmp_path) as opened:
        yield opened


# --- what stands ----------------------------------------------------------------------------------


async def test_age_grows_while_messages_are_kept_back_and_repeating_old_ones_does_not_help(agent: Agent) -> None:
    assert agent.evidence.age_s == float("inf")
    words = [standing(each, PINNED, NOW_MS) for each in VALIDATORS]
    await agent.hear(*words)
    assert (agent.evidence.age_s, agent.evidence.deployment_on_chain) == (0.0, 1)
    await agent.clock.advance(301)
    await agent.hear(*words)  # a broker that has nothing newer to say
    await agent.hear(standing(A, PINNED, agent.clock.now_ms()))  # one validator is no quorum
    assert agent.evidence.age_s == 301
    assert "no quorum of validators heard for 5 min" in agent.evidence.status.remark
    await agent.hear(standing(B, PINNED, agent.clock.now_ms()))
    assert agent.evidence.age_s == 0
    assert "heard" not in agent.evidence.status.remark


async def test_agent_that_never_heard_a_quorum_says_so_in_time(agent: Agent) -> None:
    assert agent.evidence.status.remark == ""
    await agent.clock.advance(299)
    assert agent.evidence.status.remark == ""
    await agent.clock.advance(2)
    assert "no quorum of validators heard for 5 min" in agent.evidence.status.remark
    assert (agent.evidence.status.as_of_ms, agent.evidence.status.deployment_on_chain) == (None, None)


async def test_agent_that_is_kept_on_an_older_model_says_which_one_stands(agent: Agent) -> None:
    await agent.hear(*(standing(each, PINNED, NOW_MS) for each in VALIDATORS))
    assert "deployment 1 stands, this agent runs no model" in agent.evidence.status.remark
    await agent.model.install(1, sha256(b"m"), b"m")
    assert agent.evidence.status.remark == ""
    await agent.hear(*(standing(v, PINNED, NOW_MS + 1, facts=facts_of(PINNED, deployment=2)) for v in (A, B)))
    assert agent.evidence.status.remark == "validators say that deployment 2 stands, this agent runs deployment 1"


async def test_evidence_outlives_a_restart_and_older_words_never_replace_it(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await agent.hear(*(standing(v, PINNED, NOW_MS, facts=facts_of(PINNED, deployment=2)) for v in (A, B)))
    async with running(tmp_path) as agent:
        assert agent.evidence.deployment_on_chain == 2
        await agent.hear(*(standing(v, PINNED, NOW_MS - 1) for v in VALIDATORS))
        assert agent.evidence.deployment_on_chain == 2


# --- the policy -----------------------------------------------------------------------------------


async def test_policy_that_a_quorum_does_not_name_is_refused_once_one_has_spoken(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    await agent.evidence.require_policy("ee" * 32)  # nobody has said anything yet
    await agent.hear(standing(A, PINNED, NOW_MS), standing(B, PINNED, NOW_MS))
    await agent.evidence.require_policy(POLICY)
    monkeypatch.setattr(evidence_module, "POLICY_S", 0.01)
    with pytest.raises(Refused, match="wrong_policy"):
        await agent.evidence.require_policy("ee" * 32)


async def test_policy_that_the_chain_has_just_taken_is_waited_for(agent: Agent) -> None:
    await agent.hear(standing(A, PINNED, NOW_MS), standing(B, PINNED, NOW_MS))
    waiting = asyncio.create_task(agent.evidence.require_policy("ee" * 32))
    await agent.hear(standing(A, PINNED, NOW_MS + 1, facts=facts_of(PINNED, policy="ee" * 32)))
    assert not waiting.done()
    await agent.hear(standing(B, PINNED, NOW_MS + 1, facts=facts_of(PINNED, policy="ee" * 32)))
    await waiting


# --- who votes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_handovers_after_an_absence_are_followed_in_whatever_order_they_come(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    async with running(tmp_path) as agent:
        await agent.hand_over(*(CHAIN[number] for number in order))
        assert agent.electorates.current == FOURTH
        assert [agent.evidence.electorate_of(epoch) for epoch in (1, 2, 3, 4)] == [PINNED, SECOND, THIRD, FOURTH]
        assert agent.refusals == []
        assert agent.evidence.status.epoch == 4


async def test_forged_handovers_are_refused_and_do_not_stand_in_the_way_of_the_true_ones(agent: Agent) -> None:
    forged = handover(electorate(2, MORE), MORE)
    later = handover(electorate(3, MORE[2:]), MORE)
    await agent.hand_over(later, forged)  # the listener lies: one is kept until the epoch before it is known
    assert agent.electorates.current == PINNED
    assert agent.refusals == ["no_quorum"]
    await agent.hand_over(CHAIN[0], by=AGENTS[1])
    assert agent.refusals == ["no_quorum", "unregistered"]
    await agent.hand_over(*CHAIN)
    assert agent.electorates.current == FOURTH
    with pytest.raises(Refused, match="unknown_epoch"):
        agent.evidence.electorate_of(5)


async def test_listener_that_invents_epochs_without_end_fills_no_memory(agent: Agent) -> None:
    await agent.hand_over(*(handover(electorate(10 + n, MORE), MORE[:1]) for n in range(MOST_WAITING + 5)))
    assert len(agent.evidence._waiting) == MOST_WAITING
    assert min(agent.evidence._waiting) == 10  # the nearest are needed first
    await agent.hand_over(*CHAIN)
    assert agent.electorates.current == FOURTH


async def test_handovers_from_before_the_agents_founding_are_no_complaint(agent: Agent) -> None:
    await agent.hand_over(handover(electorate(0, MORE), MORE))
    assert agent.refusals == []


async def test_validators_words_alone_lead_to_the_next_electorate_where_the_listener_is_silent(agent: Agent) -> None:
    await agent.hear(standing(A, SECOND, NOW_MS), standing(MORE[0], SECOND, NOW_MS))
    assert agent.electorates.current == PINNED
    await agent.hear(standing(B, SECOND, NOW_MS))
    assert agent.electorates.current == SECOND
    await agent.hear(standing(B, THIRD, NOW_MS + 1), standing(MORE[0], THIRD, NOW_MS + 1))
    assert agent.electorates.current == THIRD


async def test_next_electorate_with_another_quorum_ends_nothing_and_is_not_taken(agent: Agent) -> None:
    await agent.hear(*(standing(v, electorate(2, MORE, quorum_part=500_001), NOW_MS) for v in VALIDATORS))
    assert agent.electorates.current == PINNED


async def test_restored_model_needs_a_quorum_of_the_epoch_that_it_names(agent: Agent) -> None:
    def restored(of: Electorate, *signers: Identity) -> Restored:
        signed = handover(of, signers, facts=facts_of(of, deployment=3, model=MODEL))
        return Restored(signed.facts, signed.signatures)

    agent.evidence.check_standing(restored(PINNED, A, C))
    for bad, why in (
        (restored(PINNED, A), "no_quorum"),
        (restored(PINNED, *MORE), "no_quorum"),
        (restored(SECOND, A, B), "unknown_epoch"),
        (restored(electorate(1, MORE), *MORE), "digest_mismatch"),
    ):
        with pytest.raises(Refused, match=why):
            agent.evidence.check_standing(bad)


candidates = st.lists(st.sampled_from((*VALIDATORS, *MORE)), min_size=1, max_size=4, unique=True)


@settings(max_examples=15, deadline=None)
@given(st.lists(candidates, min_size=2, max_size=4), st.data())
async def test_any_order_with_any_forgeries_in_between_ends_at_the_last_true_electorate(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[list[Identity]], data: st.DataObject
) -> None:
    """Forgeries are signed by no quorum of any set so far; the true ones come again, as retained messages do.

    A quorum of a set that sat once is believed about what came after it, by an agent that has been away since.
    """
    chain = [PINNED, *(electorate(epoch, members) for epoch, members in enumerate(drawn, start=2))]
    keys = {each.address: each for each in (*VALIDATORS, *MORE)}
    true, forged = list[Handover](), list[Handover]()
    for before, following in itertools.pairwise(chain):
        signers = [keys[address] for address in sorted(before.addresses)]
        true.append(handover(following, signers))
        liars = data.draw(st.lists(st.sampled_from(list(keys.values())), unique=True))
        addresses = [each.address for each in liars]
        if not any(sat.weight_of(addresses) >= sat.quorum_weight for sat in chain[: following.epoch - 1]):
            forged.append(handover(electorate(following.epoch, MORE[:3]), liars))
    said = data.draw(st.permutations(true + forged))
    async with running(tmp_path_factory.mktemp("agent")) as agent:
        await agent.hand_over(*said)
        assert agent.electorates.current in chain
        await agent.hand_over(*true)
        assert agent.electorates.current == chain[-1]
