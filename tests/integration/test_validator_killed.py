"""kill -9 of a real validator between its commitment and its vote: it shows that same vote once it is back."""

from __future__ import annotations

from pathlib import Path

from gemel.adapters.evm_deploy import NetworkTerms
from gemel.ports import RoundState
from tests.support.crew import crew
from tests.support.fleet import TASK

AGENTS = {name: f"owner of {name}" for name in ("a", "b", "c")}
PATIENT = NetworkTerms(commit_s=90, reveal_s=90)


async def test_validator_killed_after_its_commitment_shows_its_vote_once_it_is_back(tmp_path: Path) -> None:
    async with crew(tmp_path, AGENTS, network=PATIENT) as plant:
        await plant.start("coordinator", "validator-1", "validator-2")
        killed = plant.plant.address("validator-1")

        async def committed() -> bool:
            return (await plant.chain.ballot(TASK, 0)).committed == 2

        await plant.until(committed, "two of three have committed, and nobody shows a vote yet")
        await plant["validator-1"].kill()
        assert not (await plant.chain.vote(TASK, 0, killed)).revealed
        await plant.start("validator-3")

        async def others_revealed() -> bool:
            return (await plant.chain.ballot(TASK, 0)).revealed == 2

        await plant.until(others_revealed, "the other two have shown their votes")
        assert await plant.state_of(0) == RoundState.MEASURED  # the killed one may still come
        await plant.start("validator-1")
        assert await plant.on_chain(0, RoundState.APPROVED) == RoundState.APPROVED
        ballot = await plant.chain.ballot(TASK, 0)
        assert (ballot.committed, ballot.revealed) == (3, 3)
        assert (await plant.chain.vote(TASK, 0, killed)).revealed  # which only what it committed to before can be
