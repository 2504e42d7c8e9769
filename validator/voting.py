"""How what we sign gets onto the chain: the coordinator hands in many at once; what it leaves out, we hand in.

    signed and stored → said on the bus → seen on chain, or after `patience_s` handed in by ourselves

A vote goes that way twice: its commitment first, and once no more commitments are taken, itself. Every step may be
taken again after a crash: statements and signatures are stored, and the contracts pass over what stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gemel.errors import BusRefused, BusUnavailable, ChainReverted, Refused
from gemel.exchange.chain_watch import ChainWatch
from gemel.exchange.post import Post
from gemel.ports import Chain, ChainEvent, RoundState, Sent
from gemel.wire.attestations import Confirmation, ModelAttestation, SealedVote, SumAttestation, Vote, seal_vote
from gemel.wire.eip712 import Domain, task_id
from gemel.wire.envelope import Kind
from gemel.wire.messages import Ballot, SignedSeal, SignedSum, SignedVote, encode
from gemel.wire.reasons import Reason
from validator.signing import SignedOnce

BALLOT_EXPIRY_S = 3600

log = structlog.get_logger(__name__)

Holds = Callable[[], Awaitable[bool]]
HandIn = Callable[[], Awaitable[Sent]]


class Voting:
    """One validator's way to have its word counted. `votes` is the domain that commitments are bound to."""

    def __init__(
        self, post: Post, chain: Chain, watch: ChainWatch, signed: SignedOnce, votes: Domain, patience_s: float
    ) -> None:
        self._post, self._chain, self._watch, self._signed = post, chain, watch, signed
        self._votes, self._patience_s = votes, patience_s
        self._task, self._own = post.trust.task, post.identity.address
        self._attested: set[int] = set()  # rounds whose sum we are seen to have confirmed

    async def on_event(self, event: ChainEvent) -> None:
        """A chain event: which sums of ours have been handed in."""
        if event.name != "SumAttested" or event.values["task"] != task_id(self._task):
            return
        if event.values["validator"] == self._own:
            change = self._attested.discard if event.retracted else self._attested.add
            change(int(str(event.values["round"])))

    async def confirm(self, statement: SumAttestation) -> None:
        """Returns when our word for a sum is on chain, or is no longer needed. Raises Refused(contradiction)."""
        number, confirmation = statement.round, await self._signed.sum(statement)
        await self.say(number, SignedSum(confirmation))

        async def counted() -> bool:
            state = (await self._chain.round(self._task, number)).state
            return number in self._attested or state != RoundState.AGGREGATED

        await self.see_to_it(counted, lambda: self._attest(number, confirmation), "sum", number)
        log.info("sum confirmed", number=number, sum=statement.sum_digest[:12])

    async def cast(self, statement: ModelAttestation) -> None:
        """Returns when our vote is on chain, or cannot be any more.

        Raises Refused: contradiction; late, where it was not committed to in time.
        """
        number, vote = statement.round, await self._signed.vote(statement)
        sealed = seal_vote(vote, self._task, number, self._votes, self._post.identity)
        await self._commit(number, sealed)
        await self._watch.until(lambda: self._no_longer_committing(number))
        if not (await self._chain.vote(self._task, number, self._own)).committed:
            raise Refused(Reason.LATE, f"no more commitments are taken in round {number}, and ours is not among them")
        measured = {"accuracy_ppm": vote.accuracy, "baseline_ppm": vote.baseline, "approved": vote.approved}
        log.info("voted", number=number, **measured)
        await self._reveal(number, vote)

    async def say(self, number: int, ballot: Ballot) -> None:
        """Tell the coordinator, as far as the broker takes it."""
        topic = self._post.topics.ballot(self._own)
        try:
            async with asyncio.timeout(self._patience_s):
                await self._post.say(topic, Kind.BALLOT, encode(ballot), round_=number, expiry_s=BALLOT_EXPIRY_S)
        except (BusUnavailable, BusRefused, TimeoutError) as unsaid:  # we hand it in ourselves then
            log.warning("ballot not sent", number=number, why=str(unsaid) or "no link")

    async def see_to_it(self, counted: Holds, hand_in: HandIn, what: str, number: int) -> None:
        """Wait for `counted`; after our patience, hand in. Raises ChainReverted where that does not help either."""
        if await self._watch.within(self._patience_s, counted):
            return
        log.warning("handed in by ourselves", what=what, number=number, patience_s=self._patience_s)
        try:
            await hand_in()
        except ChainReverted:
            if not await counted():  # else somebody was faster
                raise

    async def _attest(self, number: int, confirmation: Confirmation) -> Sent:
        return await self._chain.attest_sums(self._task, number, [confirmation])

    async def _commit(self, number: int, sealed: SealedVote) -> None:
        async def stands() -> bool:
            found = await self._chain.vote(self._task, number, self._own)
            if found.committed and found.commitment != sealed.commitment:
                raise Refused(Reason.CONTRADICTION, f"another commitment of ours is on chain in round {number}")
            return found.committed

        async def over() -> bool:
            return await stands() or await self._no_longer_committing(number)

        if not await stands():
            await self.say(number, SignedSeal(sealed))
            await self.see_to_it(
                over, lambda: self._chain.commit_votes(self._task, number, [sealed]), "commitment", number
            )

    async def _no_longer_committing(self, number: int) -> bool:
        return not (await self._chain.ballot(self._task, number)).is_committing(await self._watch.now_s())

    async def _reveal(self, number: int, vote: Vote) -> None:
        async def revealed() -> bool:
            if (await self._chain.vote(self._task, number, self._own)).revealed:
                return True
            return (await self._chain.round(self._task, number)).state != RoundState.MEASURED

        if not await revealed():
            await self.say(number, SignedVote(vote))
            await self.see_to_it(
                revealed, lambda: self._chain.reveal_votes(self._task, number, [vote]), "vote", number
            )
