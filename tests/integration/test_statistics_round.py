"""Statistics pooled by real services: a round like any other, whose model is what the fleet's sensors read."""

from pathlib import Path

import numpy as np
import pytest

from gemel.console import pooling
from gemel.errors import ConfigError
from gemel.exchange.round_folder import RoundFolder
from gemel.learning.fleet_statistics import normalisation
from gemel.ports import RoundState
from gemel.sealing.frames import OpenedSum
from gemel.wire import tensors
from gemel.wire.messages import SealingPolicy, TrainingPlan
from tests.support.fleet import Fleet, fleet
from tests.support.tiny_task import sample_windows, statistics

AGENTS = ("gateway-a", "gateway-b", "gateway-c")
SERVICES = ("custodian", "validator-1", "validator-2", "listener")
TASK_PATH = "tests.support.tiny_task:statistics"
SAMPLES = (60, 40, 20)


async def pooled_by_services(plant: Fleet, folder: Path) -> bytes:
    """One round, and what `gemel statistics` then reads of it."""
    plant.task_path = TASK_PATH
    for number, (agent, samples) in enumerate(zip(AGENTS, SAMPLES, strict=True)):
        await plant.give_examples(agent, number, samples)
    await plant.start(*SERVICES, *AGENTS, "coordinator")
    chain = await plant.chain_of("listener")
    await plant.reached(chain, 1, RoundState.DEPLOYED)
    return await pooling.approved_model(folder, plant.state("validator-1") / "blobs")


@pytest.mark.parametrize("scheme", ["bfv-packed", "ckks"])
async def test_approved_statistics_are_those_of_all_windows_in_one_place(tmp_path, scheme):
    sealing = SealingPolicy(scheme, 16, 1.0, 4, 100)
    async with fleet(tmp_path, {agent: f"owner of {agent}" for agent in AGENTS}, sealing=sealing) as plant:
        data = await pooled_by_services(plant, tmp_path)
        opened = (RoundFolder(plant.state("coordinator"), 1).path / "opened").read_bytes()
    assert OpenedSum.parse(opened, sealing, statistics.manifest.size).contributors == 3
    parts = [sample_windows(number, samples) for number, samples in enumerate(SAMPLES)]
    inputs = np.concatenate([part.inputs for part in parts]).astype(np.float64)
    for index, (column, found) in enumerate(
        zip(statistics.inputs, statistics.pooled(tensors.from_bytes(data)), strict=True)
    ):
        thousandth = (column.high - column.low) / 1000
        assert abs(found.mean - inputs[:, :, index].mean()) < thousandth
        assert abs(found.std - inputs[:, :, index].std()) < thousandth
    shown = pooling.table(statistics, data)
    assert [line.split("|")[1].strip() for line in shown.splitlines()[2:]] == ["pressure", "flow", "heat"]


async def test_fleet_without_an_approved_model_or_blobs_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="pools statistics"):
        pooling.statistics_task("tests.support.tiny_task:task")
    async with fleet(tmp_path, {agent: f"owner of {agent}" for agent in AGENTS}) as plant:
        with pytest.raises(ConfigError, match="there is none yet"):
            await pooling.approved_model(tmp_path, plant.state("coordinator") / "blobs")


async def test_m0_scaled_by_statistics_is_approved_by_validators_who_have_the_same(tmp_path):
    """Two validators have them and approve; a third, with others, gives no vote and says why."""
    pooled = {
        name: tensors.to_bytes(
            statistics.train(statistics.initial_model(0), sample_windows(seed), TrainingPlan(1, 1, 1.0), 0, 1).model
        )
        for name, seed in (("same", 1), ("other", 2))
    }
    for name, data in pooled.items():
        (tmp_path / name).write_bytes(data)
    names = ("coordinator", "validator-1", "validator-2")
    async with fleet(tmp_path, {agent: f"owner of {agent}" for agent in AGENTS}, validators=3) as plant:
        plant.task_path = "tests.support.tiny_normalised:task"
        plant.statistics_files = dict.fromkeys(names, tmp_path / "same") | {"validator-3": tmp_path / "other"}
        await plant.start("validator-1", "validator-3", "listener", "coordinator")
        await plant.until(lambda: _said(plant, "validator-3", "not normalised by the approved statistics"))
        chain = await plant.chain_of("listener")
        assert (await chain.round(plant.trust.task, 0)).state == RoundState.MEASURED  # one vote is no quorum
        await plant.start("validator-2")
        record = await plant.reached(chain, 0, RoundState.APPROVED, RoundState.DEPLOYED)
        (path,) = (plant.state("validator-1") / "blobs").rglob(record.model)
        m0 = tensors.from_bytes(path.read_bytes())
    centre, spread = normalisation(statistics, tensors.from_bytes(pooled["same"]))
    assert np.array_equal(m0["input.centre"], centre)
    assert np.array_equal(m0["input.spread"], spread)


async def _said(plant: Fleet, name: str, words: str) -> bool:
    return words in plant.log(name)
