"""A device that validators have reported below the floor: the real coordinator leaves it out, and says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gemel.adapters.evm_trust import EvmTrust
from gemel.ports import RoundState
from gemel.wire.messages import DeviceResult, Receipt, Roster, decode
from gemel.wire.trust_report import sign_report
from tests.support.fleet import TASK, Fleet, fleet
from tests.support.tiny_task import task

OWNERS = {name: f"owner of {name}" for name in ("a", "b", "c", "bad")}
BLAMED = 8  # a step takes a fifth of a score, and the floor is a fifth


async def blame(plant: Fleet, name: str) -> None:
    """The validators' reports of rounds that were before."""
    chain, device = await plant.chain_of("operator"), plant.address(name)
    scores, domain = EvmTrust(chain.calls), plant.place.domain("Trust")
    for round_ in range(1001, 1001 + BLAMED):
        results = (DeviceResult(device, 0, 0),)
        signed = [sign_report(results, TASK, round_, domain, who) for who in plant.validators]
        await scores.report(TASK, round_, results, signed)
    assert await scores.below_floor([device]) == {device}


async def test_suspended_device_is_refused_with_its_reason_and_the_round_goes_on(tmp_path: Path) -> None:
    async with fleet(tmp_path, OWNERS) as plant:
        await blame(plant, "bad")
        await plant.start("custodian", "validator-1", "validator-2")
        await plant.start("coordinator", rounds=1)
        listener = await plant.chain_of("listener")
        await plant.reached(listener, 0, RoundState.APPROVED)
        await listener.record_deployed(TASK, 0, agents=1)
        players = {name: await plant.play(name) for name in OWNERS}
        round_ = await plant.invitation(players["a"], 1)
        for name in ("bad", "a", "b", "c"):
            player = players[name]
            vector = np.full(task.manifest.size, 0.01, np.float32)
            update = player.update(round_, player.sealed(round_, vector))
            await player.commit(round_, update, player.wrapped(update))
        receipt = await plant.heard(plant.topics.receipt(players["bad"].address))
        said = decode(Receipt, receipt.body)
        assert (said.outcome, said.reason) == ("refused", "suspended")
        roster = decode(
            Roster, (await plant.heard(plant.topics.roster)).body
        )  # closed early: nobody else is expected
        assert {entry.device for entry in roster.entries} == {players[name].address for name in ("a", "b", "c")}
        assert (await plant.reached(listener, 1, RoundState.APPROVED)).owners == 3
