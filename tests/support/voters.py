"""Validators that measure what a test says, for tests about what comes before and after a vote."""

from __future__ import annotations

from collections.abc import Sequence

from gemel.adapters.evm_chain import EvmChain
from gemel.ports import Sent
from gemel.wire.attestations import Confirmation, ModelAttestation, SumAttestation, Vote, attest, seal_vote
from gemel.wire.identity import Identity


async def vote(
    chain: EvmChain, task: str, round_: int, voters: Sequence[Identity], *, accuracy: int, baseline: int = 0
) -> tuple[Vote, ...]:
    """They approve what is measured now; all who are elected must, or the ballot waits for the others."""
    place, record = chain.calls.place, await chain.round(task, round_)
    deployment = (await chain.task(task)).deployment + 1
    said = ModelAttestation(task, round_, deployment, record.base, record.model, accuracy, baseline, approved=True)
    votes = tuple(
        Vote(who.address, accuracy, baseline, True, attest(said, place.rounds, who).hex()) for who in voters
    )
    sealed = [seal_vote(each, task, round_, place.votes, who) for each, who in zip(votes, voters, strict=True)]
    await chain.commit_votes(task, round_, sealed)
    await chain.reveal_votes(task, round_, votes)
    return votes


async def approve(chain: EvmChain, task: str, round_: int, voters: Sequence[Identity], *, accuracy: int) -> Sent:
    """They vote, and the contract decides."""
    await vote(chain, task, round_, voters, accuracy=accuracy)
    return await chain.finalise(task, round_)


async def confirm(chain: EvmChain, statement: SumAttestation, voters: Sequence[Identity]) -> None:
    """They say that the sum is right."""
    signed = [Confirmation(who.address, attest(statement, chain.calls.place.rounds, who).hex()) for who in voters]
    await chain.attest_sums(statement.task, statement.round, signed)
