"""Rounds on a test's chain without agents or services: every transaction of them, with the real signatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gemel.ports import RoundState
from gemel.wire.attestations import ModelAttestation, SumAttestation, Vote, attest, seal_vote
from gemel.wire.identity import Identity
from gemel.wire.types import Digest, sha256
from tests.support.chains import Fleet
from tests.support.voters import confirm

POLICY = sha256(b"policy")
OWNERS, WEIGHT, ACCURACY, AGENTS = 3, 100, 700_000, 4


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds of one task. All of `voters`, who must be all that sit, confirm and approve in one batch each."""

    fleet: Fleet
    task: str
    voters: Sequence[Identity]

    async def genesis(self) -> None:
        """M0 is approved."""
        await self.fleet.coordinator.propose_genesis(self.task, model=_digest("model", 0), policy=POLICY)
        await self.vote(0)
        await self.finalise(0)

    async def opened(self) -> int:
        """The next round, by its number."""
        task = await self.fleet.coordinator.task(self.task)
        number = task.last_round + 1
        await self.fleet.coordinator.open_round(self.task, number, base=task.model, policy=POLICY)
        return number

    async def proposed(self) -> int:
        """The next round up to its candidate."""
        fleet, task, number = self.fleet, self.task, await self.opened()
        updates, total = _digest("updates", number), _digest("sum", number)
        await fleet.coordinator.close_list(task, number, root=_digest("roster", number))
        await fleet.coordinator.propose_sum(
            task, number, updates_root=updates, sum_digest=total, owners=OWNERS, weight=WEIGHT
        )
        statement = SumAttestation(task, number, updates, total, OWNERS, WEIGHT)
        await confirm(fleet.coordinator, statement, self.voters)
        await fleet.custodian.record_opening(task, number, opened=_digest("opened", number))
        model, explanation = _digest("model", number), _digest("explanation", number)
        await fleet.coordinator.propose_candidate(
            task, number, model=model, explanation=explanation, accuracy=ACCURACY
        )
        return number

    async def vote(self, number: int) -> None:
        """Everybody commits and reveals, each with an accuracy of his own, the heaviest with the best."""
        coordinator, place = self.fleet.coordinator, self.fleet.place
        deployment = (await coordinator.task(self.task)).deployment + 1
        record = await coordinator.round(self.task, number)
        votes, sealed = [], []
        for lower, who in enumerate(self.voters):
            accuracy, baseline = ACCURACY - lower, ACCURACY - 2 * lower
            said = ModelAttestation(
                self.task, number, deployment, record.base, record.model, accuracy, baseline, approved=True
            )
            votes.append(Vote(who.address, accuracy, baseline, True, attest(said, place.rounds, who).hex()))
            sealed.append(seal_vote(votes[-1], self.task, number, place.votes, who))
        await coordinator.commit_votes(self.task, number, sealed)
        await coordinator.reveal_votes(self.task, number, votes)

    async def finalise(self, number: int) -> None:
        """The contract decides, and must approve."""
        await self.fleet.coordinator.finalise(self.task, number)
        state = (await self.fleet.coordinator.round(self.task, number)).state
        if state is not RoundState.APPROVED:
            raise RuntimeError(f"round {number} is {state.name}")

    async def deployed(self, number: int) -> None:
        """The listener says that the fleet runs it."""
        await self.fleet.listener.record_deployed(self.task, number, agents=AGENTS)

    async def whole(self) -> int:
        """One round from its opening to its deployment."""
        number = await self.proposed()
        await self.vote(number)
        await self.finalise(number)
        await self.deployed(number)
        return number


def _digest(of: str, number: int) -> Digest:
    return sha256(f"{of} {number}".encode())
