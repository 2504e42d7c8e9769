"""Validators' words on their way to a real chain: through the coordinator, and round it.

Contracts, clients, stores and what both services do with ballots are real; the bus is a test's, which loses what it
is told to, and nobody measures anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from coordinator.ballot_checks import Domains
from coordinator.ballots import Ballots
from gemel.adapters.clock import SystemClock
from gemel.adapters.contract_abi import TRUST as TRUST_CONTRACT
from gemel.adapters.contract_abi import decode_event
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_trust import EvmTrust
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import BusUnavailable, ChainReverted, Refused
from gemel.exchange import admission
from gemel.exchange.chain_watch import ChainWatch
from gemel.exchange.electorates import Electorates
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.post import Post
from gemel.host.background import Background
from gemel.ports import BusMessage, Handler, Role, RoundState
from gemel.wire.attestations import ModelAttestation, SealedVote, SumAttestation, commitment_hash, seal_vote
from gemel.wire.chunks import Transfer
from gemel.wire.eip712 import task_id
from gemel.wire.envelope import HEADER_BYTES, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import (
    Aggregate,
    Ballot,
    Entry,
    Roster,
    SignedSeal,
    SignedSum,
    SignedVote,
    decode_ballot,
    encode,
)
from gemel.wire.trust import Trust
from gemel.wire.types import NO_DIGEST, sha256
from tests.support.chains import FUNDED, STAKES, TERMS, Fleet, open_fleet, running_chain
from tests.support.parties import AGENTS, COORDINATOR, TRUST, VALIDATORS
from validator.reporting import Reporting
from validator.signing import SignedOnce
from validator.voting import Voting

pytestmark = pytest.mark.asyncio(loop_scope="module")

M0, POLICY, SUM, OPENED, MODEL = (sha256(bytes([n])) for n in range(5))
ENTRIES = tuple(
    Entry(agent.address, sha256(bytes([40 + n])), weight, Transfer(sha256(bytes([50 + n])), 500))
    for n, (agent, weight) in enumerate(zip(AGENTS, (30, 70), strict=True))
)
FIRST, SECOND, THIRD = (validator.address for validator in VALIDATORS)  # 500, 300 and 200 of 1,000; a quorum is 600
WAIT_S = 60.0
SOON_S = 0.7  # patience of validators that shall hand in themselves
NEVER_S = 600.0  # of those that shall not
_numbers = count()

Loses = Callable[[str, Ballot], bool]  # (validator, ballot)


class Bus:
    """Hands everything to whoever listens, but for the ballots that it `loses`; with `down` it takes nothing."""

    def __init__(self) -> None:
        self._handlers: list[tuple[str, Handler]] = []
        self.said: list[tuple[str, Ballot]] = []
        self.loses: Loses = lambda _validator, _ballot: False
        self.down = False

    async def subscribe(self, topic_filter: str, handler: Handler, **_options: object) -> None:
        self._handlers.append((topic_filter.removesuffix("+"), handler))

    def disconnect_all(self) -> None:
        """Nobody listens any more."""
        self._handlers.clear()

    async def publish(self, topic: str, payload: bytes, **_options: object) -> None:
        if self.down:
            raise BusUnavailable("no link")
        ballot, validator = decode_ballot(payload[HEADER_BYTES:]), topic.rsplit("/", 1)[1]
        self.said.append((validator, ballot))
        if not self.loses(validator, ballot):
            for prefix, handler in self._handlers:
                if topic.startswith(prefix):
                    await handler(BusMessage(topic, payload))

    def kinds(self, validator: str) -> list[str]:
        return [type(ballot).__name__ for who, ballot in self.said if who == validator]


@dataclass
class Desk:
    """A validator's, but for what it measures."""

    identity: Identity
    chain: EvmChain
    voting: Voting
    reporting: Reporting
    signed: SignedOnce
    mailbox: Mailbox


@dataclass
class Hall:
    """One task on the chain, its validators and its coordinator's pile of ballots."""

    fleet: Fleet
    trust: Trust
    folder: Path
    bus: Bus
    background: Background
    open: AsyncExitStack
    number: int = 0
    desks: dict[str, Desk] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return self.trust.task

    def statement(self, accuracy: int = 700_000, baseline: int = 0, *, model: str = M0) -> ModelAttestation:
        return ModelAttestation(self.task, 0, 1, NO_DIGEST, model, accuracy, baseline, True)

    async def seat(self, who: Identity, patience_s: float = NEVER_S) -> Desk:
        """A validator's process begins, or begins again, on what it has stored."""
        records = await self.open.enter_async_context(SqliteRecords(self.folder / f"{who.address}.sqlite"))
        chain = next(c for v, c in zip(VALIDATORS, self.fleet.validators, strict=True) if v is who)
        watch = ChainWatch(chain, self.task, self.folder / f"{next(_numbers)}-events.sqlite", SystemClock())
        post = Post(self.bus, self.trust, who, SystemClock())  # type: ignore[arg-type]  # as much bus as is used
        place = self.fleet.place
        signed = SignedOnce(records, who, rounds=place.rounds, trust=place.domain(TRUST_CONTRACT))
        voting = Voting(post, chain, watch, signed, place.votes, patience_s)
        mailbox = Mailbox(records)
        reporting = Reporting(post, EvmTrust(chain.calls), mailbox, signed, voting, place.domain(TRUST_CONTRACT))
        await reporting.listen(self.trust.validator_addresses)
        self.background.start(watch.run(voting.on_event), f"events of {who.address}")
        self.desks[who.address] = Desk(who, chain, voting, reporting, signed, mailbox)
        return self.desks[who.address]

    async def gather(self) -> Ballots:
        """The coordinator's part begins, or begins again."""
        records = await self.open.enter_async_context(SqliteRecords(self.folder / "coordinator.sqlite"))
        chain, place = self.fleet.coordinator, self.fleet.place
        watch = ChainWatch(chain, self.task, self.folder / f"{next(_numbers)}-events.sqlite", SystemClock())
        post = Post(self.bus, self.trust, COORDINATOR, SystemClock())  # type: ignore[arg-type]
        electorates = await Electorates.load(records, self.trust)
        domains = Domains(place.rounds, place.votes, place.domain(TRUST_CONTRACT))
        scores = EvmTrust(chain.calls)
        ballots = Ballots(post, chain, scores, watch, electorates, records, domains, lambda: self.number)
        await ballots.restore()
        await post.hear(post.topics.ballot(), Kind.BALLOT, self.trust.validator_addresses, ballots.put)
        self.background.start(ballots.run(), "ballots")
        return ballots

    # --- the rest of a round, as its other parties have it ---

    async def genesis(self) -> None:
        await self.fleet.coordinator.propose_genesis(self.task, model=M0, policy=POLICY)

    async def aggregated(self) -> SumAttestation:
        """Round 1 with a sum of both agents' updates."""
        chain = self.fleet.coordinator
        await chain.open_round(self.task, 1, base=M0, policy=POLICY)
        root = admission.root_of(ENTRIES)
        await chain.close_list(self.task, 1, root=root)
        await chain.propose_sum(self.task, 1, updates_root=root, sum_digest=SUM, owners=3, weight=100)
        self.number = 1
        return SumAttestation(self.task, 1, root, SUM, 3, 100)

    async def measured(self) -> ModelAttestation:
        await self.fleet.custodian.record_opening(self.task, 1, opened=OPENED)
        await self.fleet.coordinator.propose_candidate(
            self.task, 1, model=MODEL, explanation=OPENED, accuracy=700_000
        )
        return ModelAttestation(self.task, 1, 2, M0, MODEL, 700_000, 600_000, True)

    async def finalise(self) -> RoundState:
        """As the coordinator does, once nothing that is to come could count."""
        chain = self.fleet.coordinator

        async def over() -> bool:
            ballot, head = await chain.ballot(self.task, self.number), await chain.head()
            return ballot.can_close(head.time_s)

        await until(over)
        await chain.finalise(self.task, self.number)
        return (await chain.round(self.task, self.number)).state

    async def events(self, name: str) -> list[tuple[str, str]]:
        """(validator, who handed it in) of every event of this name, in the chain's order."""
        node, contracts = self.fleet.operator.calls.node, self.fleet.place.contracts
        head = (await node.head()).number
        found = []
        for contract, address in contracts.items():
            for each in await node.logs([address], self.fleet.place.first_block, head):
                event = decode_event(contract, each.topics, each.data)
                if event is not None and event[0] == name and event[1]["task"] == task_id(self.task):
                    transaction = await node.transaction(each.transaction)
                    assert transaction is not None
                    found.append((str(event[1]["validator"]), str(transaction["from"]).lower()))
        return found


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await holds():  # noqa: ASYNC110  the chain has no event here
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with running_chain(tmp_path_factory.mktemp("chain"), FUNDED) as chain, open_fleet(chain) as opened:
        for agent in AGENTS:
            await opened.register(agent, Role.AGENT)
        yield opened


@asynccontextmanager
async def hall(fleet: Fleet, folder: Path) -> AsyncIterator[Hall]:
    """A task of its own for every test, M0 about to be proposed."""
    name = f"task-{next(_numbers)}"
    gate = {"threshold": 0, "max_regression": 1_000_000, "minimum_owners": 2, "quorum_part": TERMS.quorum_part}
    await fleet.operator.create_task(name, policy=POLICY, **gate)
    place, electorate = fleet.place, await fleet.electorate()
    trust = replace(TRUST, task=name, chain_id=place.chain_id, registry=place.rounds.registry, electorate=electorate)
    async with AsyncExitStack() as opened, Background() as background:
        yield Hall(fleet, trust, folder, Bus(), background, opened)


BY_COORDINATOR = COORDINATOR.address


async def cast(desk: Desk, statement: ModelAttestation) -> None:
    await asyncio.wait_for(desk.voting.cast(statement), WAIT_S)


# --- a vote -------------------------------------------------------------------------------------------


async def test_votes_of_unequal_stake_go_in_together_and_the_stake_decides(fleet: Fleet, tmp_path: Path) -> None:
    async with hall(fleet, tmp_path) as place:
        await place.gather()
        await place.genesis()
        desks = [await place.seat(who) for who in VALIDATORS]
        measured = (100_000, 800_000, 900_000)
        casting = [cast(desk, place.statement(each)) for desk, each in zip(desks, measured, strict=True)]
        await asyncio.gather(*casting)
        assert await place.finalise() == RoundState.APPROVED
        record = await fleet.coordinator.round(place.task, 0)
        assert record.accuracy == 450_000  # half of the stake says 100,000, the other half 800,000 and more
        for name in ("VoteCommitted", "VoteRevealed"):
            assert sorted(await place.events(name)) == sorted((who, BY_COORDINATOR) for who in (FIRST, SECOND, THIRD))
        assert STAKES == (500, 300, 200)
    for who in (FIRST, SECOND, THIRD):  # nobody shows what it measured before all have committed
        assert place.bus.kinds(who) == ["SignedSeal", "SignedVote"]


async def test_nobody_shows_a_vote_while_another_may_still_commit(fleet: Fleet, tmp_path: Path) -> None:
    async with hall(fleet, tmp_path) as place:
        await place.gather()
        await place.genesis()
        desks = [await place.seat(who) for who in VALIDATORS]
        early = [asyncio.create_task(cast(desk, place.statement())) for desk in desks[:2]]
        await until(lambda: committed(place, 2))
        assert not any(isinstance(ballot, SignedVote) for _, ballot in place.bus.said)
        assert not (await fleet.coordinator.vote(place.task, 0, FIRST)).revealed
        await cast(desks[2], place.statement())
        await asyncio.gather(*early)
        assert await place.finalise() == RoundState.APPROVED


async def committed(place: Hall, least: int) -> bool:
    return (await place.fleet.coordinator.ballot(place.task, place.number)).committed >= least


@pytest.mark.parametrize("withheld", [SignedSeal, SignedVote])
async def test_validator_whose_ballot_is_withheld_hands_it_in_itself(
    fleet: Fleet, tmp_path: Path, withheld: type[Ballot]
) -> None:
    async with hall(fleet, tmp_path) as place:
        place.bus.loses = lambda who, ballot: who == SECOND and isinstance(ballot, withheld)
        await place.gather()
        await place.genesis()
        desks = [await place.seat(who, SOON_S if who.address == SECOND else NEVER_S) for who in VALIDATORS]
        await asyncio.gather(*(cast(desk, place.statement()) for desk in desks))
        assert await place.finalise() == RoundState.APPROVED
        kept_back = "VoteCommitted" if withheld is SignedSeal else "VoteRevealed"
        assert (SECOND, SECOND) in await place.events(kept_back)


async def test_validators_without_coordinator_or_broker_vote_all_the_same(fleet: Fleet, tmp_path: Path) -> None:
    async with hall(fleet, tmp_path) as place:
        place.bus.down = True
        await place.genesis()
        desks = [await place.seat(who, SOON_S) for who in VALIDATORS]
        await asyncio.gather(*(cast(desk, place.statement()) for desk in desks))
        assert await place.finalise() == RoundState.APPROVED
        assert sorted(await place.events("VoteRevealed")) == sorted((who, who) for who in (FIRST, SECOND, THIRD))


async def test_copied_commitment_gets_in_and_cannot_be_opened(fleet: Fleet, tmp_path: Path) -> None:
    """Who copies what another committed to copies the keccak of a signature that it cannot make."""
    async with hall(fleet, tmp_path) as place:
        await place.genesis()
        first = await place.seat(VALIDATORS[0])
        vote = await first.signed.vote(place.statement())
        sealed = seal_vote(vote, place.task, 0, fleet.place.votes, VALIDATORS[0])
        copied = sealed_again(sealed, place, VALIDATORS[1])
        await fleet.coordinator.commit_votes(place.task, 0, [sealed, copied])
        third = await (await place.seat(VALIDATORS[2])).signed.vote(place.statement())
        await fleet.coordinator.commit_votes(
            place.task, 0, [seal_vote(third, place.task, 0, fleet.place.votes, VALIDATORS[2])]
        )
        stolen = replace(vote, validator=SECOND)
        with pytest.raises(ChainReverted, match="BadSignature"):
            await fleet.coordinator.reveal_votes(place.task, 0, [stolen])
        own = await (await place.seat(VALIDATORS[1])).signed.vote(place.statement())
        with pytest.raises(ChainReverted, match="CommitmentDiffers"):
            await fleet.coordinator.reveal_votes(place.task, 0, [own])


def sealed_again(sealed: SealedVote, place: Hall, thief: Identity) -> SealedVote:
    signature = thief.sign(commitment_hash(sealed.commitment, place.task, 0, place.fleet.place.votes)).hex()
    return SealedVote(thief.address, sealed.commitment, signature)


async def test_commitment_that_is_not_ours_is_never_voted_on(fleet: Fleet, tmp_path: Path) -> None:
    async with hall(fleet, tmp_path) as place:
        await place.genesis()
        desk = await place.seat(VALIDATORS[1], SOON_S)
        foreign = await (await place.seat(VALIDATORS[0])).signed.vote(place.statement())
        sealed = seal_vote(foreign, place.task, 0, fleet.place.votes, VALIDATORS[0])
        await fleet.coordinator.commit_votes(place.task, 0, [sealed_again(sealed, place, VALIDATORS[1])])
        with pytest.raises(Refused, match="contradiction"):
            await cast(desk, place.statement())


# --- crashes ------------------------------------------------------------------------------------------


class Killed(Exception):
    """kill -9, as far as one process can play it: nothing after it runs."""


def dying(desk: Desk, where: str) -> None:
    """The next time that `desk` gets there, it ends; what it did before stays done."""

    def after(method: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def done_and_dead(*arguments: object) -> object:
            await method(*arguments)
            raise Killed

        return done_and_dead

    async def dead(*_arguments: object) -> object:
        raise Killed

    voting = desk.voting
    if where == "signed":
        desk.signed.vote = after(desk.signed.vote)  # type: ignore[method-assign]
    elif where in ("seal said", "vote said"):
        wanted, say = (SignedSeal if where == "seal said" else SignedVote), voting.say

        async def say_and_die(number: int, ballot: Ballot) -> None:
            await say(number, ballot)
            if isinstance(ballot, wanted):
                raise Killed

        voting.say = say_and_die  # type: ignore[method-assign]
    elif where == "committed":
        voting._commit = after(voting._commit)  # type: ignore[method-assign]
    elif where == "before the vote is shown":
        voting._reveal = dead  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(
    "where",
    [("signed", "seal said", "committed"), ("before the vote is shown", "vote said", "vote said")],
    ids=["before the vote", "between commitment and vote"],
)
async def test_validators_that_die_between_two_steps_go_on_with_the_same_signatures(
    fleet: Fleet, tmp_path: Path, where: Sequence[str]
) -> None:
    """All three at once, each somewhere else."""
    async with hall(fleet, tmp_path) as place:
        await place.gather()
        await place.genesis()
        desks = [await place.seat(who, SOON_S) for who in VALIDATORS]
        for desk, step in zip(desks, where, strict=True):
            dying(desk, step)
        ends = await asyncio.gather(*(cast(desk, place.statement()) for desk in desks), return_exceptions=True)
        assert all(isinstance(end, Killed) for end in ends)
        again = [await place.seat(who, SOON_S) for who in VALIDATORS]
        for desk in again:
            assert await desk.signed.stored_vote(place.task, 0) == place.statement()
            with pytest.raises(Refused, match="contradiction"):  # measured anew, a little different
                await cast(desk, place.statement(accuracy=700_001))
        await asyncio.gather(*(cast(desk, place.statement()) for desk in again))
        assert await place.finalise() == RoundState.APPROVED
        assert sorted(who for who, _ in await place.events("VoteRevealed")) == sorted([FIRST, SECOND, THIRD])
        assert len(set(place.bus.said)) == 6  # of each one seal and one vote, however often it was said


async def test_coordinator_that_dies_with_ballots_in_hand_hands_them_in_once_back(
    fleet: Fleet, tmp_path: Path
) -> None:
    async with hall(fleet, tmp_path) as place:
        await place.genesis()
        ballots = await place.gather()
        ballots._heard = Ignored()  # type: ignore[assignment]  # it dies before it has looked at what it stored
        desks = [await place.seat(who) for who in VALIDATORS]
        voting = [asyncio.create_task(cast(desk, place.statement())) for desk in desks]
        await until(lambda: stored(ballots, 3))
        assert not await committed(place, 1)
        place.bus.disconnect_all()
        await place.gather()
        await asyncio.gather(*voting)
        assert await place.finalise() == RoundState.APPROVED


class Ignored(list[object]):
    def __bool__(self) -> bool:
        return False


async def stored(ballots: Ballots, least: int) -> bool:
    return len(await ballots._records.items("ballot")) >= least


# --- one that does not hold ---------------------------------------------------------------------------


async def test_ballot_that_the_contract_refuses_holds_up_no_other(fleet: Fleet, tmp_path: Path) -> None:
    """The second validator commits to one vote itself, and sends the coordinator another."""
    async with hall(fleet, tmp_path) as place:
        await place.gather()
        await place.genesis()
        first, second, third = [await place.seat(who) for who in VALIDATORS]
        vote = await second.signed.vote(place.statement())
        sealed = seal_vote(vote, place.task, 0, fleet.place.votes, second.identity)
        await second.chain.commit_votes(place.task, 0, [sealed])
        other = replace(vote, signature=(await first.signed.vote(place.statement())).signature)
        await second.voting.say(0, SignedSeal(seal_vote(other, place.task, 0, fleet.place.votes, second.identity)))
        await asyncio.gather(cast(first, place.statement()), cast(third, place.statement()))
        await cast(second, place.statement())
        assert await place.finalise() == RoundState.APPROVED


async def test_late_ballot_goes_in_after_the_others(fleet: Fleet, tmp_path: Path) -> None:
    async with hall(fleet, tmp_path) as place:
        await place.gather()
        await place.genesis()
        desks = [await place.seat(who) for who in VALIDATORS]
        voting = [asyncio.create_task(cast(desk, place.statement())) for desk in desks[:2]]
        await until(lambda: committed(place, 2))
        voting.append(asyncio.create_task(cast(desks[2], place.statement())))
        await asyncio.gather(*voting)
        events = await place.events("VoteCommitted")
        assert {who for who, _ in events[:2]} == {FIRST, SECOND}
        assert events[2:] == [(THIRD, BY_COORDINATOR)]


# --- sums and devices ---------------------------------------------------------------------------------


async def decided(place: Hall) -> list[Desk]:
    """M0 is in use, and round 1 has a sum."""
    await place.genesis()
    desks = [await place.seat(who, SOON_S) for who in VALIDATORS]
    await asyncio.gather(*(cast(desk, place.statement()) for desk in desks))
    await place.finalise()
    await place.fleet.listener.record_deployed(place.task, 0, agents=2)
    return desks


async def test_sums_go_in_together_and_what_is_withheld_alone(fleet: Fleet, tmp_path: Path) -> None:
    async with hall(fleet, tmp_path) as place:
        desks = await decided(place)
        statement = await place.aggregated()
        place.bus.loses = lambda who, ballot: who == FIRST and isinstance(ballot, SignedSum)
        await place.gather()
        await asyncio.gather(*(asyncio.wait_for(desk.voting.confirm(statement), WAIT_S) for desk in desks))
        assert (await fleet.coordinator.round(place.task, 1)).state == RoundState.CONFIRMED
        assert (FIRST, FIRST) in await place.events("SumAttested")  # with 500 of 1,000 it is needed


async def test_wrong_sum_is_neither_handed_in_nor_a_reason_to_sign_another(fleet: Fleet, tmp_path: Path) -> None:
    async with hall(fleet, tmp_path) as place:
        desks = await decided(place)
        statement = await place.aggregated()
        await place.gather()
        wrong = replace(statement, sum_digest=M0)
        with pytest.raises(ChainReverted, match="BadSignature"):  # the coordinator refused it, and so does the chain
            await asyncio.wait_for(desks[0].voting.confirm(wrong), WAIT_S)
        with pytest.raises(Refused, match="contradiction"):
            await desks[0].voting.confirm(statement)
        assert await place.events("SumAttested") == []


async def approved_round(place: Hall) -> list[Desk]:
    """Round 1 is approved, and every validator has its lists."""
    desks = await decided(place)
    statement = await place.aggregated()
    await asyncio.gather(*(desk.voting.confirm(statement) for desk in desks[:2]))
    candidate = await place.measured()
    await asyncio.gather(*(cast(desk, candidate) for desk in desks))
    assert await place.finalise() == RoundState.APPROVED
    post = Post(place.bus, place.trust, COORDINATOR, SystemClock())  # type: ignore[arg-type]
    root = admission.root_of(ENTRIES)
    aggregate = Aggregate(ENTRIES, root, Transfer(SUM, 10), 100)
    for desk in desks:
        desk.reporting.number = 1
        await desk.mailbox.put(post.sign(Kind.ROSTER, encode(Roster(ENTRIES, root)), round_=1))
        await desk.mailbox.put(post.sign(Kind.AGGREGATE, encode(aggregate), round_=1))
    return desks


async def report(place: Hall, desk: Desk) -> None:
    record = await place.fleet.coordinator.round(place.task, 1)
    reports = await desk.reporting.prepare(1, record)
    assert len(reports) == 1
    await asyncio.wait_for(desk.reporting.report(1, reports), WAIT_S)


@pytest.mark.parametrize("coordinator", [True, False], ids=["coordinator", "no coordinator"])
async def test_devices_are_reported_with_a_quorums_signatures(
    fleet: Fleet, tmp_path: Path, coordinator: bool
) -> None:
    async with hall(fleet, tmp_path) as place:
        desks = await approved_round(place)
        if coordinator:
            await place.gather()
        await asyncio.gather(*(report(place, desk) for desk in desks))
        scores = EvmTrust(fleet.coordinator.calls)
        assert all([await scores.is_reported(place.task, 1, agent.address) for agent in AGENTS])
        shares = {
            each.device: each.share for each in (await desks[0].signed.stored_reports(place.task, 1))[0].results
        }
        assert shares == {AGENTS[0].address: 300_000, AGENTS[1].address: 700_000}


async def test_report_that_only_a_minority_signs_does_not_count(fleet: Fleet, tmp_path: Path) -> None:
    async with hall(fleet, tmp_path) as place:
        desks = await approved_round(place)
        await report(place, desks[1])
        await report(place, desks[2])
        scores = EvmTrust(fleet.coordinator.calls)
        assert not await scores.is_reported(place.task, 1, AGENTS[0].address)
