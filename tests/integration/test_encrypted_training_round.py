"""A round of real services whose agents train on encrypted data, and what keeps it from being stuck or misused."""

import msgspec
import numpy as np
import pytest

from gemel.exchange.round_folder import RoundFolder
from gemel.ports import RoundState
from gemel.sealing.frames import OpenedSum
from gemel.wire import tensors
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.messages import SealingPolicy, TrainingPlan, TrainingRequest, decode
from tests.support.crew import crew
from tests.support.fleet import Fleet, fleet, opened
from tests.support.tiny_task import linear, sample_windows

AGENTS = ("gateway-a", "gateway-b", "gateway-c")
OWNERS = {agent: f"owner of {agent}" for agent in AGENTS}
SERVICES = ("custodian", "validator-1", "validator-2", "listener")
TASK_PATH = "tests.support.tiny_task:linear"
SAMPLES = 60
SEALING = SealingPolicy("bfv-packed", 16, 2.2, 4, weight_cap=100)
TRAINING = TrainingPlan(epochs=2, batch_size=1, learning_rate=1.0, encrypted=True)


async def trained_together(plant: Fleet, *agents: str) -> None:
    plant.task_path = TASK_PATH
    for agent in agents:
        await plant.give_examples(agent, AGENTS.index(agent), SAMPLES)
    await plant.start(*SERVICES, *agents, "coordinator")


async def test_fleet_that_trains_on_ciphertexts_deploys_what_training_in_the_open_would_give(tmp_path):
    async with fleet(tmp_path, OWNERS, sealing=SEALING, training=TRAINING) as plant:
        await trained_together(plant, *AGENTS)
        chain = await plant.chain_of("listener")
        await plant.reached(chain, 1, RoundState.DEPLOYED)
        folder = RoundFolder(plant.state("coordinator"), 1).path
        total, budget = (folder / "opened").read_bytes(), (folder / "budget.md").read_text()
        sent = plant.witness.on(plant.topics.training().chunk(plant.address(AGENTS[0]), ""))
        requests = plant.witness.on(plant.topics.training_request(plant.address("custodian"), ""))
        assert not list((plant.state("custodian") / "training-keys").glob("*"))
        assert not list((plant.state(AGENTS[0]) / "training-transfers" / "out").iterdir())
    sums = OpenedSum.parse(total, SEALING, linear.manifest.size)
    assert sums.contributors == 3
    step = SEALING.clip / (2 ** (SEALING.bits - 1) - 1)
    base, due = linear.initial_model(0), np.zeros(linear.manifest.size)
    for number in range(len(AGENTS)):
        trained = linear.train(base, sample_windows(number, SAMPLES), TRAINING, 0, 1)
        due += SAMPLES / SEALING.weight_cap * tensors.flatten(trained.model)
    assert np.abs(due).max() > 0.2
    assert np.abs(sums.sums * step - due).max() < 2e-3
    assert "encrypted training: 4 features, 5 outputs, 100 rows, 2 steps" in budget
    assert sent
    steps = sorted(decode(TrainingRequest, message.payload[HEADER_BYTES:]).step for message in requests)
    assert set(steps) == {0, 1, 2}


@pytest.mark.slow
async def test_agent_and_custodian_that_die_in_training_leave_no_round_stuck(tmp_path):
    """One agent is gone for good with its first request; the custodian comes back, with the round's key."""
    owners = OWNERS | {"gateway-d": "owner of gateway-d"}
    three = msgspec.structs.replace(SEALING, contributors=3)  # the list closes without the one that is gone
    async with crew(
        tmp_path, owners, lambda plant, _name: {"url": plant.broker_url}, sealing=three, training=TRAINING
    ) as hired:
        plant = hired.plant
        plant.task_path = TASK_PATH
        for number, agent in enumerate(owners):
            await plant.give_examples(agent, number, SAMPLES)
        await hired.start(*SERVICES, *owners)
        await hired.start("coordinator")
        custodian = plant.address("custodian")
        await plant.heard(plant.topics.training_request(custodian, plant.address("gateway-d")))
        await hired["gateway-d"].kill()
        await hired["custodian"].kill()
        await hired.start("custodian")
        ended = (RoundState.APPROVED, RoundState.DEPLOYED, RoundState.ABORTED)
        assert await hired.on_chain(1, *ended, seconds=180) != RoundState.ABORTED
        record = await hired.chain.round(plant.trust.task, 1)
        assert record.owners == 3
        assert plant.witness.on(plant.topics.commitment(plant.address("gateway-d"))) == []
        contexts = {opened(message).body for message in plant.witness.on(plant.topics.context(custodian))}
        assert len(contexts) == 1  # said again after the crash, and the same
        assert "Traceback" not in hired["custodian"].log
