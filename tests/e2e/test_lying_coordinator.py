"""A coordinator that lies in every round that it holds, against contracts, validators, custodian, agents and audit.

Real broker, real chain, real processes; the coordinator is the real one, but for its lies (lying_coordinator.py). The
gate asks for more than one round can learn, so that it has a reason to. Whatever it does, M0 stays what runs.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from gemel.adapters.contract_abi import decode_event
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_deploy import NetworkTerms
from gemel.console.auditor.verify import AuditReport, audit
from gemel.console.exporting import write_export
from gemel.console.founding import GatePlan
from gemel.errors import ChainReverted
from gemel.ports import RoundRecord, RoundState, Sent, TaskRecord, Verdict
from gemel.twin.agent import AgentStatus, status_from_json
from gemel.wire import envelope, topics
from gemel.wire.attestations import Confirmation, ModelAttestation, SumAttestation, Vote, attest
from gemel.wire.envelope import HEADER_BYTES, Header, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import (
    Deployment,
    Installed,
    Restored,
    SignedSeal,
    SignedVote,
    decode,
    decode_ballot,
    encode,
)
from gemel.wire.standing import Facts, sign_standing
from gemel.wire.types import NO_DIGEST, Address, Digest, sha256
from tests.support.crew import Crew, crew
from tests.support.fleet import SITE, TASK, Player, in_one_task
from tests.support.lying_coordinator import (
    ANOTHER_SUM,
    CLAIMS,
    INVENTS,
    LEAVES_OUT,
    PERFECT,
    ROUNDS,
    SWAPS,
    WEIGHS,
    WITHHOLDS,
    victim,
)

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

AGENTS = {name: f"owner of {name}" for name in ("gateway-a", "gateway-b", "gateway-c")}
VALIDATORS = ("validator-1", "validator-2", "validator-3")
HONEST = ("custodian", "listener", *VALIDATORS, *AGENTS)
GATE = GatePlan(threshold=990_000, max_regression=0)  # no model of one round gets there
PATIENT = NetworkTerms(commit_s=90, reveal_s=90)  # as long as the test holds a validator
FALSE_SUMS = {
    SWAPS: "the sum on chain is not the sum of these frames",
    LEAVES_OUT: "the sum on chain is not the sum of these frames",
    WEIGHS: "an update is in the sum that was not on the list",
}


@dataclass(slots=True)
class Story:
    """What came of six rounds of lies. Everybody still runs."""

    crew: Crew
    chain: EvmChain  # with the coordinator's key
    tried: dict[str, str] = field(default_factory=dict)  # what it tried on chain → the contract's answer
    rounds: dict[int, RoundRecord] = field(default_factory=dict)

    @property
    def victim(self) -> str:
        """The name of the validator whose ballots are withheld."""
        return next(n for n in VALIDATORS if self.crew.plant.address(n) == victim(self.crew.plant.trust))

    async def refused(self, what: str, call: Awaitable[Sent]) -> None:
        """Something that no contract lets pass."""
        with pytest.raises(ChainReverted) as told:
            await call
        self.tried[what] = told.value.error

    async def ballots(self, number: int) -> dict[Address, tuple[SignedSeal | None, SignedVote | None]]:
        """What the bus has heard of a round's vote."""
        heard: dict[Address, tuple[SignedSeal | None, SignedVote | None]] = {}
        for message in self.crew.plant.witness.on(self.crew.plant.topics.ballot("")):
            header = Header.parse(message.payload)
            if header.round == number:
                seal, vote = heard.get(header.sender, (None, None))
                ballot = decode_ballot(message.payload[HEADER_BYTES:])
                seal = ballot if isinstance(ballot, SignedSeal) else seal
                vote = ballot if isinstance(ballot, SignedVote) else vote
                heard[header.sender] = seal, vote
        return heard

    async def senders(self, event_name: str, number: int) -> dict[Address, Address]:
        """By validator: who handed in what an event of a round says."""
        node, place = self.chain.calls.node, self.chain.calls.place
        head, found = (await node.head()).number, {}
        for contract, address in place.contracts.items():
            for each in await node.logs([address], place.first_block, head):
                event = decode_event(contract, each.topics, each.data)
                if event is not None and event[0] == event_name and event[1].get("round") == number:
                    transaction = await node.transaction(each.transaction)
                    assert transaction is not None
                    found[str(event[1]["validator"])] = str(transaction["from"]).lower()
        return found

    async def task(self) -> TaskRecord:
        return await self.chain.task(TASK)


# --- six rounds -------------------------------------------------------------------------------------


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)]
)
async def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Story]:
    folder = tmp_path_factory.mktemp("lies")
    modules = {"coordinator": "tests.support.lying_coordinator"}
    hired = crew(folder, AGENTS, modules=modules, gate=GATE, network=PATIENT, node=request.param)
    async with in_one_task(hired) as members:
        await members.start(*HONEST)
        await members.start("coordinator", rounds=ROUNDS)
        told = Story(members, await members.plant.chain_of("coordinator"))
        for number in (CLAIMS, *FALSE_SUMS, INVENTS, WITHHOLDS):
            if number in FALSE_SUMS:
                await false_sum(told, number)
            elif number == WITHHOLDS:
                await withheld_ballots(told)
            else:
                await members.on_chain(number, RoundState.REJECTED)
            told.rounds[number] = await told.chain.round(TASK, number)
        yield told


async def false_sum(story: Story, number: int) -> None:
    """It is proposed, and the coordinator goes as far as its key takes it; then it gives up."""
    plant, chain = story.crew, story.chain
    refusal = re.compile(rf"no vote.* number={number} .*{re.escape(FALSE_SUMS[number])}")

    async def all_refuse() -> bool:
        return all(refusal.search(plant[name].log) for name in VALIDATORS)

    await plant.on_chain(number, RoundState.AGGREGATED)
    await plant.until(all_refuse, f"every validator refuses the sum of round {number}")
    if number == SWAPS:
        record = await chain.round(TASK, number)
        sums = SumAttestation(TASK, number, record.updates_root, record.sum_digest, record.owners, record.weight)
        own = plant.plant.keys["coordinator"].identity
        stolen = attest(sums, plant.plant.trust.domain, own).hex()
        forged = [Confirmation(plant.plant.address(name), stolen) for name in VALIDATORS]
        await story.refused("confirm it in validators' names", chain.attest_sums(TASK, number, forged))
        await story.refused("confirm it itself", chain.attest_sums(TASK, number, [Confirmation(own.address, stolen)]))
        await story.refused("open it itself", chain.record_opening(TASK, number, opened=sha256(b"opened")))
        proposed = {"model": sha256(b"a model"), "explanation": sha256(b"why"), "accuracy": PERFECT}
        await story.refused("propose a candidate all the same", chain.propose_candidate(TASK, number, **proposed))
        again = {"updates_root": record.updates_root, "sum_digest": sha256(b"the true one"), "weight": record.weight}
        await story.refused("propose another sum", chain.propose_sum(TASK, number, owners=record.owners, **again))
        await story.refused("have it decided", chain.finalise(TASK, number))
    assert (await chain.round(TASK, number)).state == RoundState.AGGREGATED
    await chain.abort(TASK, number, reason="nobody believes it")


async def withheld_ballots(story: Story) -> None:
    """One validator is slow, and what it says then reaches the coordinator only."""
    plant, chain, number = story.crew, story.chain, WITHHOLDS
    slow = plant.plant.address(story.victim)
    await plant.on_chain(number, RoundState.OPEN)
    async with plant.held(story.victim):
        await plant.on_chain(number, RoundState.MEASURED)

        async def others_committed() -> bool:
            return (await chain.ballot(TASK, number)).committed == 2

        await plant.until(others_committed, "the two others have committed")
        await too_early(story, slow)

    async def committed() -> bool:
        return (await chain.vote(TASK, number, slow)).committed

    await plant.until(committed, "the slow one has committed, all by itself")
    async with plant.held(story.victim):

        async def others_revealed() -> bool:
            return (await chain.ballot(TASK, number)).revealed == 2

        await plant.until(others_revealed, "the two others have shown their votes")
        await in_anothers_name(story, slow)
    await plant.on_chain(number, RoundState.REJECTED)


async def too_early(story: Story, slow: Address) -> None:
    """While a validator may still commit."""
    chain, number = story.chain, WITHHOLDS
    await story.refused("finalise while a validator may still commit", chain.finalise(TASK, number))
    ballots = await story.ballots(number)
    (other, (seal, _)), *_ = ((who, said) for who, said in ballots.items() if who != slow)
    earlier, _ = (await story.ballots(INVENTS))[slow]
    assert seal is not None
    assert earlier is not None
    renamed = replace(seal.sealed, validator=slow)
    await story.refused("hand in another's commitment in its name", chain.commit_votes(TASK, number, [renamed]))
    await story.refused("reuse its commitment", chain.commit_votes(TASK, number, [earlier.sealed]))
    _, shown = (await story.ballots(INVENTS))[other]
    assert shown is not None
    await story.refused("show votes while commitments are taken", chain.reveal_votes(TASK, number, [shown.vote]))


async def in_anothers_name(story: Story, slow: Address) -> None:
    """Once all have committed, and one has not shown its vote."""
    plant, chain, number = story.crew.plant, story.chain, WITHHOLDS
    await story.refused("finalise without a vote that may still come", chain.finalise(TASK, number))
    record = await chain.round(TASK, number)
    deployment = (await story.task()).deployment + 1
    said = ModelAttestation(TASK, number, deployment, record.base, record.model, PERFECT, 0, True)
    forged = Vote(slow, PERFECT, 0, True, attest(said, plant.trust.domain, plant.keys["coordinator"].identity).hex())
    await story.refused("hand in a forged vote", chain.reveal_votes(TASK, number, [forged]))
    shown = next(vote for _, vote in (await story.ballots(number)).values() if vote is not None)
    renamed = replace(shown.vote, validator=slow)
    await story.refused("hand in another's vote in its name", chain.reveal_votes(TASK, number, [renamed]))


# --- what the contracts made of it --------------------------------------------------------------------


async def test_candidate_that_is_claimed_to_be_perfect_is_judged_by_what_validators_measured(story: Story) -> None:
    record = story.rounds[CLAIMS]
    assert record.state == RoundState.REJECTED
    assert record.accuracy < GATE.threshold < PERFECT
    ballot = await story.chain.ballot(TASK, CLAIMS)
    assert (ballot.verdict, ballot.revealed) == (Verdict.NO_QUORUM, len(VALIDATORS))  # each has said no


@pytest.mark.parametrize("number", FALSE_SUMS, ids=["swapped", "an update left out", "another weight"])
async def test_sum_that_the_frames_do_not_add_up_to_is_never_confirmed_and_never_opened(
    story: Story, number: int
) -> None:
    record = story.rounds[number]
    assert (record.state, record.opened, record.model) == (RoundState.ABORTED, NO_DIGEST, NO_DIGEST)
    assert (record.sum_digest == ANOTHER_SUM) == (number == SWAPS)
    assert await story.senders("SumAttested", number) == {}
    plant = story.crew.plant
    opened = plant.witness.on(plant.topics.opened(plant.address("custodian")))
    assert number not in {Header.parse(message.payload).round for message in opened}
    assert f"round ended without an opening number={number} " in re.sub(r" +", " ", story.crew["custodian"].log)


async def test_candidate_that_does_not_follow_from_the_sum_gets_no_vote(story: Story) -> None:
    record = story.rounds[INVENTS]
    assert (record.state, record.accuracy) == (RoundState.REJECTED, 0)
    assert (await story.chain.ballot(TASK, INVENTS)).verdict == Verdict.NO_QUORUM
    for name in VALIDATORS:
        assert "the candidate on chain is not the one that follows" in story.crew[name].log


async def test_contracts_refuse_whatever_else_it_tries_with_its_key(story: Story) -> None:
    assert story.tried == {
        "confirm it in validators' names": "BadSignature",
        "confirm it itself": "NotElected",
        "open it itself": "NotInRole",
        "propose a candidate all the same": "WrongState",
        "propose another sum": "WrongState",
        "have it decided": "WrongState",
        "finalise while a validator may still commit": "NotOver",
        "hand in another's commitment in its name": "BadSignature",
        "reuse its commitment": "BadSignature",
        "show votes while commitments are taken": "NotRevealing",
        "finalise without a vote that may still come": "NotOver",
        "hand in a forged vote": "CommitmentDiffers",
        "hand in another's vote in its name": "CommitmentDiffers",
    }


async def test_validator_whose_ballots_are_withheld_gets_them_in_itself(story: Story) -> None:
    slow = story.crew.plant.address(story.victim)
    for event in ("VoteCommitted", "VoteRevealed"):
        handed_in = await story.senders(event, WITHHOLDS)
        assert handed_in[slow] == slow
        assert len(handed_in) == len(VALIDATORS)
    assert story.rounds[WITHHOLDS].accuracy > 0


async def test_what_is_in_use_is_what_was_in_use_before(story: Story) -> None:
    task, m0 = await story.task(), await story.chain.round(TASK, 0)
    assert (task.deployment, task.model, task.last_round) == (1, m0.model, ROUNDS)
    for model in {record.model for record in story.rounds.values()} - {NO_DIGEST}:
        assert (await story.chain.lineage(TASK, model)).deployment == 0
    for agent in AGENTS:
        assert kept_models(story, agent) == {m0.model}


def kept_models(story: Story, agent: str) -> set[Digest]:
    return {sha256(path.read_bytes()) for path in (story.crew.plant.state(agent) / "models").iterdir()}


# --- models that nobody approved ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forgery:
    """A deployment of the model that was refused, and by whom it is signed."""

    body: Deployment
    signed_by: str = "listener"  # whose key was stolen
    round: int = CLAIMS


async def forgery(story: Story, kind: str) -> Forgery:
    """The model of the first lie, as if it had been approved."""
    plant, refused, m0 = story.crew.plant, story.rounds[CLAIMS], await story.chain.round(TASK, 0)
    trust, voters = plant.trust, [plant.keys[name].identity for name in VALIDATORS]
    body = Deployment(
        deployment=1 if kind == "a lower number" else 2,
        parent=m0.model,
        model=refused.model,
        epoch=trust.electorate.epoch,
        votes=(),
        accuracy=PERFECT,
        transaction=sha256(b"a transaction"),
        block=1,
    )
    facts = Facts(trust.electorate.epoch, trust.electorate.digest, 2, refused.model, plant.plan.policy.digest)
    match kind:
        case "signed by the coordinator":
            return Forgery(replace(body, votes=votes_on(story, body, *voters)), signed_by="coordinator")
        case "a lower number":
            body = replace(body, votes=votes_on(story, body, *voters))
        case "votes of an older round":
            body = replace(body, votes=votes_of_m0(story))
        case "the votes by which it was refused":
            shown = (vote.vote for _, vote in (await story.ballots(CLAIMS)).values() if vote is not None)
            body = replace(body, votes=tuple(shown))
        case "too little stake":
            body = replace(body, votes=votes_on(story, body, voters[0]))
        case "restored without standings":
            body = replace(body, restored=Restored(facts, ()))
        case "restored by one validator":
            word = sign_standing(facts, TASK, trust.domain, voters[0], block=1, time_ms=1)
            body = replace(body, restored=Restored(facts, (word,)))
    return Forgery(body)


def votes_of_m0(story: Story) -> tuple[Vote, ...]:
    """As the honest listener has said them."""
    plant = story.crew.plant
    said = next(m for m in plant.witness.on(plant.topics.deployment) if Header.parse(m.payload).round == 0)
    return decode(Deployment, said.payload[HEADER_BYTES:]).votes


def votes_on(story: Story, body: Deployment, *voters: Identity) -> tuple[Vote, ...]:
    """As those who collude with it would sign."""
    said = ModelAttestation(TASK, CLAIMS, body.deployment, body.parent, body.model, PERFECT, 0, True)
    domain = story.crew.plant.trust.domain
    return tuple(Vote(who.address, PERFECT, 0, True, attest(said, domain, who).hex()) for who in voters)


FORGERIES = {
    "signed by the coordinator": "refused: unregistered",
    "no votes": "refused: no_quorum (approvals: 0 of the stake",
    "votes of an older round": "refused: no_quorum (a vote is not by",
    "the votes by which it was refused": "refused: no_quorum (approvals: 0 of the stake",
    "too little stake": "refused: no_quorum (approvals: ",
    "a lower number": "refused: not_above (deployment 1, we run 1)",
    "restored without standings": "refused: no_quorum (standing of deployment 2: 0 of the stake",
    "restored by one validator": "refused: no_quorum (standing of deployment 2: ",
}


@pytest.mark.parametrize("kind", FORGERIES)
async def test_unapproved_model_that_is_published_is_refused_by_every_agent(story: Story, kind: str) -> None:
    plant, before = story.crew.plant, await story.task()
    forged, since, m0 = await forgery(story, kind), plant.witness.now, await story.chain.round(TASK, 0)
    player = await plant.play(forged.signed_by)
    await publish(player, forged)
    for agent in AGENTS:
        if forged.signed_by == "listener":  # agents answer nobody else
            report = await plant.heard(plant.topics.installed(plant.address(agent)), since=since)
            said = decode(Installed, report.body)
            assert (said.outcome, said.reason[: len(FORGERIES[kind])]) == ("refused", FORGERIES[kind])
        status = await refusal_in_status(story, agent, FORGERIES[kind])
        assert status.model is not None
        assert (status.model.deployment, status.model.digest) == (1, m0.model)
        assert kept_models(story, agent) == {m0.model}
    if forged.signed_by == "listener":
        await plant.until(lambda: listener_names(story, forged, kind))
    assert await story.task() == before
    assert (await story.chain.lineage(TASK, forged.body.model)).deployment == 0


async def listener_names(story: Story, forged: Forgery, kind: str) -> bool:
    """Whether the real listener has said of every agent that it was sent something in its name."""
    names = re.compile(rf"an agent was sent what we never sent .*device=(\S+) model={forged.body.model} .*")
    said = (line for line in names.finditer(story.crew["listener"].log) if FORGERIES[kind] in line.group())
    return {line.group(1) for line in said} == {story.crew.plant.address(agent) for agent in AGENTS}


async def publish(player: Player, forged: Forgery) -> None:
    """To everybody, for good."""
    signed = player.post.sign(Kind.DEPLOYMENT, encode(forged.body), round_=forged.round)
    await player.bus.publish(player.post.topics.deployment, envelope.pack(signed), retain=True)


async def refusal_in_status(story: Story, agent: str, says: str) -> AgentStatus:
    """The agent's status, once it says so."""
    topic, plant = topics.agent(SITE, agent, "status"), story.crew.plant

    async def said() -> bool:
        return any(says.encode() in message.payload for message in plant.witness.on(topic)[-1:])

    await plant.until(said)
    return status_from_json(plant.witness.on(topic)[-1].payload)


# --- the audit ----------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def evidence(story: Story) -> Path:
    """What is kept of it all: the coordinator's folder, what agents run, and the chain's export."""
    root = story.crew.plant.root
    await write_export(root)
    for agent in AGENTS:
        shutil.copytree(root / agent / "models", root / "agents" / agent / "models")
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def report(evidence: Path) -> AuditReport:
    return await asyncio.to_thread(audit, evidence)


LIES = {
    CLAIMS: "claims an accuracy of 1.000000",
    SWAPS: "names another sum than the one on chain",
    LEAVES_OUT: "which is not the sum on chain",
    WEIGHS: "adds an update that was not listed",
    INVENTS: "base and opened sum make",
}


@pytest.mark.parametrize("number", LIES)
async def test_audit_names_the_lie_and_its_round(report: AuditReport, number: int) -> None:
    assert any(LIES[number] in found.what for found in report.findings if found.round == number), report.findings


async def test_audit_finds_nothing_else_than_lies(report: AuditReport) -> None:
    assert not report.holds
    assert {found.round for found in report.findings} == set(LIES)
    assert [(ancestor.round, ancestor.state) for ancestor in report.lineage] == [(0, "deployed")]
    verdicts = {line.round: (line.state, line.verdict) for line in report.rounds}
    assert verdicts == {0: ("deployed", "approved")} | {
        CLAIMS: ("rejected", "no_quorum"),
        SWAPS: ("aborted", "none"),
        LEAVES_OUT: ("aborted", "none"),
        WEIGHS: ("aborted", "none"),
        INVENTS: ("rejected", "no_quorum"),
        WITHHOLDS: ("rejected", "no_quorum"),
    }


async def test_audit_sets_the_claim_against_the_validators_median(story: Story, report: AuditReport) -> None:
    median = story.rounds[CLAIMS].accuracy / PERFECT
    (named,) = [found.what for found in report.findings if found.round == CLAIMS]
    assert f"{median:.6f}" in named
    assert report.held["claims"] == 1  # of the round in which it claimed what it had measured


async def test_audit_names_an_agent_that_swallowed_the_unapproved_model(
    story: Story, evidence: Path, report: AuditReport
) -> None:
    refused = story.rounds[CLAIMS].model
    swallowed = evidence / "agents" / "gateway-b" / "models" / f"{refused}.safetensors"
    swallowed.write_bytes((evidence / "coordinator" / "blobs" / refused[:2] / refused).read_bytes())
    try:
        found = (await asyncio.to_thread(audit, evidence)).findings
    finally:
        swallowed.unlink()
    (new,) = [each for each in found if each not in report.findings]
    assert new.where == f"agents/gateway-b/models/{swallowed.name}"
    assert new.what == "an agent keeps a model that was never approved"
