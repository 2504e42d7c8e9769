"""Validators' ballots on their way to the chain: many in one transaction, and none that does not hold.

    said on the bus → stored, acknowledged → checked against the chain → on the pile of its kind and round → handed in

A pile is handed in once all of the electorate are on it, or when it makes a quorum and nobody has come for GRACE_S;
who comes later is handed in later. Nobody depends on it: what a validator does not see on chain it hands in itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import structlog

from coordinator.ballot_checks import Domains, Poll, check_ballot, is_asked_for, signer_of
from gemel.errors import ChainReverted, PeerError, Refused, Unavailable
from gemel.exchange.chain_watch import RETRY_S, ChainWatch
from gemel.exchange.electorates import Electorates, electorate_of
from gemel.exchange.post import Post
from gemel.ports import Chain, Records, RoundRecord, Sent
from gemel.ports.trust_scores import TrustScores
from gemel.wire import envelope as wire
from gemel.wire.electorate import Electorate
from gemel.wire.envelope import HEADER_BYTES, Envelope, Header
from gemel.wire.messages import Ballot, SignedResults, SignedSeal, SignedSum, SignedVote, decode_ballot
from gemel.wire.reasons import Reason
from gemel.wire.trust_report import results_digest
from gemel.wire.types import Address

GRACE_S = 1.5  # how long a quorum waits for one more
LOOK_S = 0.25
KEPT_ROUNDS = 3  # reports on devices come after their round
MOST_BALLOTS = 16  # of one validator and round: a sum, a seal, a vote, and reports on a thousand devices

_KIND = "ballot"
_TOO_EARLY_OR_LATE = frozenset({"NotCommitting", "NotRevealing"})

log = structlog.get_logger(__name__)


class Taken(Enum):
    """Whether the contract takes ballots of a kind."""

    NOT_YET, NOW, NO_MORE = range(3)


class PileKey(NamedTuple):
    """Which ballots go in together: of results, those that say the same."""

    number: int
    kind: type[Ballot]
    results: bytes = b""


class Heard(NamedTuple):
    """A ballot that is stored, and not checked yet."""

    record_key: str
    number: int
    ballot: Ballot


@dataclass(slots=True)
class Pile:
    """Ballots of one kind and round that hold, by validator."""

    electorate: Electorate
    ballots: dict[Address, Ballot] = field(default_factory=dict)
    done: set[Address] = field(default_factory=set)  # handed in, or found on chain
    newest_s: float = 0.0
    tried: int = 0  # how many there were when the contract asked for more

    @property
    def waiting(self) -> dict[Address, Ballot]:
        """Those that are to be handed in."""
        return {validator: ballot for validator, ballot in self.ballots.items() if validator not in self.done}

    @property
    def is_wanted(self) -> bool:
        """Whether the contract may have use for what waits; a quorum, or votes, of which each counts."""
        if not self.waiting or len(self.ballots) <= self.tried:
            return False
        return self.has_quorum or any(isinstance(ballot, SignedVote) for ballot in self.ballots.values())

    @property
    def has_quorum(self) -> bool:
        """Whether those who are on it do."""
        return self.electorate.weight_of(self.ballots) >= self.electorate.quorum_weight

    def is_due(self, expected: int, now_s: float) -> bool:
        """Whether to hand in now; no more than `expected` will come."""
        if not self.is_wanted:
            return False
        return len(self.ballots) >= expected or (self.has_quorum and now_s - self.newest_s >= GRACE_S)


class Ballots:
    """One coordinator's. `current` answers the number of the round that is being driven."""

    def __init__(
        self,
        post: Post,
        chain: Chain,
        scores: TrustScores,
        watch: ChainWatch,
        electorates: Electorates,
        records: Records,
        domains: Domains,
        current: Callable[[], int],
    ) -> None:
        self._post, self._chain, self._scores, self._watch = post, chain, scores, watch
        self._electorates, self._records, self._domains, self._current = electorates, records, domains, current
        self._task = post.trust.task
        self._heard: deque[Heard] = deque()
        self._piles: dict[PileKey, Pile] = {}
        self._news = asyncio.Event()

    async def restore(self) -> None:
        """What had come before a crash is looked at again."""
        for key, raw in await self._records.items(_KIND):
            message = Envelope(Header.parse(raw), raw[HEADER_BYTES:])
            self._heard.append(Heard(key, message.header.round, decode_ballot(message.body)))
        self._news.set()

    async def put(self, message: Envelope) -> None:
        """Store a ballot; a listener for Post.hear. Raises Refused, Malformed; StoreUnavailable."""
        ballot, sender, number = decode_ballot(message.body), message.header.sender, message.header.round
        if signer_of(ballot) != sender:
            raise Refused(Reason.BAD_SIGNATURE, f"{sender} brings another's ballot")
        current = self._current()
        if not current - KEPT_ROUNDS < number <= current:
            raise Refused(Reason.STALE_ROUND, f"a ballot of round {number}, this is {current}")
        begins = f"{number:020d}/{sender}/"
        key = f"{begins}{_name(ballot)}"
        stored = dict(await self._records.items(_KIND))
        if key in stored:
            if stored[key][HEADER_BYTES:] != message.body:
                raise Refused(Reason.CONTRADICTION, f"{sender} has sent another {type(ballot).__name__} before")
            return
        if sum(each.startswith(begins) for each in stored) >= MOST_BALLOTS:
            raise Refused(Reason.NO_ROOM, f"{sender} has sent {MOST_BALLOTS} ballots of round {number}")
        await self._records.put(_KIND, key, wire.pack(message))
        self._heard.append(Heard(key, number, ballot))
        self._news.set()

    async def run(self) -> None:
        """Check and hand in, for ever."""
        while True:
            self._news.clear()
            try:
                while self._heard:
                    await self._sort(self._heard[0])
                    self._heard.popleft()
                for key, pile in tuple(self._piles.items()):
                    if pile.is_wanted:
                        await self._look(key, pile)
            except Unavailable as error:
                log.warning("once more", why=str(error), retry_s=RETRY_S)
                await self._post.clock.sleep(RETRY_S)
                continue
            waits = any(pile.is_wanted for pile in self._piles.values())
            try:
                async with asyncio.timeout(LOOK_S if waits else None):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def clear_through(self, number: int) -> None:
        """Forget the ballots of rounds up to `number`, and reports once nobody waits for them any more."""
        for key in [key for key in self._piles if key.number <= _cleared(key.kind, number)]:
            del self._piles[key]
        for record_key, raw in await self._records.items(_KIND):
            ballot = decode_ballot(raw[HEADER_BYTES:])
            if int(record_key.split("/")[0]) <= _cleared(type(ballot), number):
                await self._records.drop(_KIND, record_key)

    # --- what came ------------------------------------------------------------------------------------

    async def _sort(self, heard: Heard) -> None:
        """Onto its pile, if it holds and is still asked for."""
        number, ballot, validator = heard.number, heard.ballot, signer_of(heard.ballot)
        record = await self._chain.round(self._task, number)
        if not is_asked_for(ballot, record.state):
            log.info("ballot not needed", number=number, validator=validator, state=record.state.name.lower())
            return
        electorate = await self._electorate(ballot, record)
        deployment = (await self._chain.task(self._task)).deployment + 1
        try:
            check_ballot(ballot, Poll(self._task, number, record, deployment, electorate), self._domains)
        except PeerError as error:
            log.warning("ballot refused", number=number, validator=validator, why=str(error))
            await self._records.drop(_KIND, heard.record_key)  # one that holds may still come
            return
        pile = self._piles.setdefault(_pile_key(number, ballot), Pile(electorate))
        pile.electorate = electorate  # an epoch may have turned
        pile.ballots[validator] = ballot
        pile.newest_s = self._post.clock.monotonic_s()
        if await self._stands(ballot, number, validator):
            pile.done.add(validator)

    async def _electorate(self, ballot: Ballot, record: RoundRecord) -> Electorate:
        """Who is asked: for sums and votes the round's electorate, for reports on devices that of today."""
        if isinstance(ballot, SignedResults):
            return self._electorates.current
        return await electorate_of(self._electorates, self._chain, record.epoch)

    async def _stands(self, ballot: Ballot, number: int, validator: Address) -> bool:
        """Whether it was handed in before; of sums only their quorum can be read."""
        match ballot:
            case SignedSeal():
                return (await self._chain.vote(self._task, number, validator)).committed
            case SignedVote():
                return (await self._chain.vote(self._task, number, validator)).revealed
            case _:
                return False

    # --- handing in -----------------------------------------------------------------------------------

    async def _look(self, key: PileKey, pile: Pile) -> None:
        taken, expected = await self._taken(key, pile)
        if taken is Taken.NO_MORE:
            self._piles.pop(key, None)  # the round may have been cleared meanwhile
        elif taken is Taken.NOW and pile.is_due(expected, self._post.clock.monotonic_s()):
            await self._hand_in(key, pile)

    async def _taken(self, key: PileKey, pile: Pile) -> tuple[Taken, int]:
        """Whether the contract takes such ballots now, and how many can come at most."""
        some, seats = next(iter(pile.ballots.values())), len(pile.electorate.members)
        if isinstance(some, SignedResults):
            entered = await self._scores.is_reported(self._task, key.number, some.results[0].device)
            return (Taken.NO_MORE if entered else Taken.NOW), seats
        if not is_asked_for(some, (await self._chain.round(self._task, key.number)).state):
            return Taken.NO_MORE, seats
        if isinstance(some, SignedSum):
            return Taken.NOW, seats
        ballot, now_s = await self._chain.ballot(self._task, key.number), await self._watch.now_s()
        committing = ballot.is_committing(now_s)
        if isinstance(some, SignedSeal):
            return (Taken.NOW if committing else Taken.NO_MORE), seats
        if ballot.closed or now_s >= ballot.reveal_until_s:
            return Taken.NO_MORE, ballot.committed
        return (Taken.NOT_YET if committing else Taken.NOW), ballot.committed

    async def _hand_in(self, key: PileKey, pile: Pile) -> None:
        waiting = pile.waiting
        try:
            sent = await self._send(key, waiting.values())
        except ChainReverted as error:
            if error.error in _TOO_EARLY_OR_LATE:  # which of the two is seen at the next look
                log.info("ballots not taken now", number=key.number, kind=key.kind.__name__, why=str(error))
            elif key.kind is SignedResults:
                pile.tried = len(pile.ballots)
                log.warning("report not taken", number=key.number, signatures=len(waiting), why=str(error))
            else:
                await self._one_by_one(key, pile, waiting)
            return
        pile.done |= waiting.keys()
        log.info("ballots handed in", number=key.number, kind=key.kind.__name__, count=len(waiting), block=sent.block)

    async def _one_by_one(self, key: PileKey, pile: Pile, waiting: Mapping[Address, Ballot]) -> None:
        """One that the contract refuses holds up no other."""
        for validator, ballot in waiting.items():
            try:
                await self._send(key, [ballot])
            except ChainReverted as error:
                log.warning("ballot not taken", number=key.number, validator=validator, why=str(error))
            pile.done.add(validator)

    async def _send(self, key: PileKey, ballots: Collection[Ballot]) -> Sent:
        task, number = self._task, key.number
        if key.kind is SignedSum:
            confirmations = [each.confirmation for each in ballots if isinstance(each, SignedSum)]
            return await self._chain.attest_sums(task, number, confirmations)
        if key.kind is SignedSeal:
            sealed = [each.sealed for each in ballots if isinstance(each, SignedSeal)]
            return await self._chain.commit_votes(task, number, sealed)
        if key.kind is SignedVote:
            votes = [each.vote for each in ballots if isinstance(each, SignedVote)]
            return await self._chain.reveal_votes(task, number, votes)
        reports = [each for each in ballots if isinstance(each, SignedResults)]
        signatures = [each.confirmation for each in reports]
        return await self._scores.report(task, number, reports[0].results, signatures)


def _pile_key(number: int, ballot: Ballot) -> PileKey:
    results = results_digest(ballot.results) if isinstance(ballot, SignedResults) else b""
    return PileKey(number, type(ballot), results)


def _name(ballot: Ballot) -> str:
    """What tells the ballots of one validator and round apart."""
    key = _pile_key(0, ballot)
    return key.kind.__name__ + key.results.hex()


def _cleared(kind: type[Ballot], number: int) -> int:
    """Up to which round ballots of a kind are forgotten once round `number` is final."""
    return number - KEPT_ROUNDS if kind is SignedResults else number
