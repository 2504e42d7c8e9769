"""An agent that was away for a round: it does not answer what has expired, and installs what it has missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemel.adapters.clock import SystemClock
from gemel.ports import RoundState
from gemel.twin.agent import status_from_json
from gemel.wire import topics
from gemel.wire.envelope import Header
from gemel.wire.messages import Installed, Invitation, decode
from tests.support.crew import Crew, crew
from tests.support.fleet import SITE

pytestmark = pytest.mark.slow

AGENTS = {name: f"owner of {name}" for name in ("a", "b", "c", "d")}
ROUNDS = {"rounds": 1, "pause_s": 3, "commit_s": 6, "reveal_s": 6, "decide_s": 600}  # the broker keeps the invitation


async def test_agent_that_was_away_ignores_the_expired_invitation_and_installs_the_missed_model(
    tmp_path: Path,
) -> None:
    async with crew(tmp_path, AGENTS, lambda plant, _name: {"url": plant.broker_url}, validators=2) as hired:
        plant = hired.plant
        await hired.start("custodian", "listener", "validator-1", "validator-2", *AGENTS)
        await hired.start("coordinator", **ROUNDS)
        await installed(hired, "d", 0)
        await hired["d"].stop()
        await hired.on_chain(1, RoundState.APPROVED)
        invitation = decode(Invitation, (await plant.heard(plant.topics.invitation)).body)
        assert invitation.commit_until_ms < SystemClock().now_ms()

        since = plant.witness.now
        await hired.start("d")
        report = await installed(hired, "d", 1)
        assert report.deployment == 2
        assert await hired.final(1) == RoundState.DEPLOYED  # the listener has waited for it
        status = topics.agent(SITE, "d", "status")

        def told(payload: bytes) -> bool:
            said = status_from_json(payload)
            return said.learning is not None and said.learning.round == 1

        said = await plant.wait(plant.witness.message(status, since=since, where=told))
        learning = status_from_json(said.payload).learning
        assert learning is not None
        assert "late" in learning.participation
        assert plant.witness.on(plant.topics.commitment(plant.address("d"))) == []
        assert "Traceback" not in hired["d"].log


async def installed(hired: Crew, name: str, round_: int) -> Installed:
    """The agent's word that it runs the model of that round."""
    plant = hired.plant
    topic = plant.topics.installed(plant.address(name))

    def of_round(payload: bytes) -> bool:
        return Header.parse(payload).round == round_

    report = decode(Installed, (await plant.heard(topic, where=of_round)).body)
    assert report.outcome == "installed"
    return report
