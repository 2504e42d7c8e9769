"""A model that does harm, in a fleet of real services: a canary says so, the chain goes back, and everybody with it.

Two of three owners taught their machines' conditions wrong. The validators' gate of this fleet lets every model
through, so only the third owner's gateway, which is the canary, can tell.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chain_listener.staging import StagingPolicy, choose_canaries
from edge_agent.learning.examples import Examples
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.ports import RoundState
from gemel.twin.agent import status_from_json
from gemel.twin.window import Example, Window
from gemel.wire import topics
from gemel.wire.canary_report import CanaryReport, check_canary_report
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.messages import Deployment, Installed, decode
from tests.support.fleet import SITE, Fleet, fleet
from tests.support.tiny_task import sample_windows, task

AGENTS = {"gateway-a": "a", "gateway-b": "b", "gateway-c": "c"}
WRONG_WINDOWS, RIGHT_WINDOWS = 100, 50  # of each: what was taught wrong outweighs the rest
SICK, RESTORED = 2, 3  # deployment numbers: M0 is the first


async def teach(plant: Fleet, name: str, seed: int, *, wrong: bool) -> None:
    """Windows with what inspections found in them, or with the next class for each."""
    windows = sample_windows(seed, WRONG_WINDOWS if wrong else RIGHT_WINDOWS)
    labels = (windows.labels + wrong) % np.array([len(head.classes) for head in task.heads])
    plant.state(name).mkdir(mode=0o700, exist_ok=True)
    async with Examples(plant.state(name) / "examples.sqlite", task, len(windows)) as examples:
        await examples.add(
            [
                Example(Window(n * 6000, (n + 1) * 6000, values, 0), tuple(int(label) for label in found))
                for n, (values, found) in enumerate(zip(windows.inputs, labels, strict=True))
            ]
        )


def deployments(plant: Fleet) -> list[Deployment]:
    """What the listener announced, in order."""
    return [decode(Deployment, one.payload[HEADER_BYTES:]) for one in plant.witness.on(plant.topics.deployment)]


def words(plant: Fleet, name: str) -> list[tuple[int, str]]:
    """What an agent reported: deployment and outcome."""
    said = plant.witness.on(plant.topics.installed(plant.address(name)))
    reports = [decode(Installed, one.payload[HEADER_BYTES:]) for one in said]
    return [(report.deployment, report.outcome) for report in reports]


async def test_sick_model_is_rolled_back_on_chain_and_every_agent_runs_the_old_one(tmp_path: Path) -> None:
    async with fleet(tmp_path, AGENTS) as plant:
        by_address = {plant.address(name): name for name in AGENTS}
        (chosen,) = choose_canaries(SICK, tuple(by_address), StagingPolicy().canary_share)
        canary, others = by_address[chosen], [name for name in AGENTS if plant.address(name) != chosen]
        for seed, name in enumerate(AGENTS):
            await teach(plant, name, seed, wrong=name != canary)
        await plant.start("custodian", *plant.plan.validator_names, "listener", *AGENTS)
        await plant.start("coordinator", rounds=2)
        chain = await plant.chain_of("operator")

        record = await plant.reached(chain, 1, RoundState.DEPLOYED, RoundState.ROLLED_BACK)
        assert record.state == RoundState.ROLLED_BACK
        in_use = await chain.task(plant.trust.task)
        m0 = record.base
        assert (in_use.deployment, in_use.model) == (RESTORED, m0)
        assert (await chain.lineage(plant.trust.task, record.model)).rolled_back

        async def everybody_runs_m0_again() -> bool:
            return all((RESTORED, "installed") in words(plant, name) for name in AGENTS)

        await plant.until(everybody_runs_m0_again)
        assert (SICK, "unhealthy") in words(plant, canary)
        assert all(number != SICK for name in others for number, _ in words(plant, name))
        for name in AGENTS:
            status = await running(plant, name, RESTORED)
            assert status == m0
        announced = [each for each in deployments(plant) if each.deployment in (SICK, RESTORED)]
        sick, restored = announced[0], announced[-1]
        assert all(each.canaries == (chosen,) for each in announced if each.deployment == SICK)
        assert (restored.model, restored.parent, restored.canaries) == (m0, sick.model, None)
        assert restored.restored is not None
        assert restored.transaction != sick.transaction

        again = await plant.reached(chain, 2, *(state for state in RoundState if state != RoundState.NONE))
        assert again.base == m0  # what was given up is nothing that a round begins from

        async with SqliteRecords(plant.state("listener") / "records.sqlite") as records:
            ((_, kept),) = await records.items("canary-report")
        report = decode(CanaryReport, kept)
        said = check_canary_report(report, plant.trust.domain)
        assert {device: word.outcome for device, word in said.items()} == {chosen: "unhealthy"}
        assert await chain_holds(plant, report.digest)


async def running(plant: Fleet, name: str, number: int) -> str:
    """The digest that an agent's status shows for this deployment, once it is there."""
    topic = topics.agent(SITE, name, "status")
    models: dict[int, str] = {}

    async def shown() -> bool:
        for one in plant.witness.on(topic):
            model = status_from_json(one.payload).model
            if model is not None:
                models[model.deployment] = model.digest
        return number in models

    await plant.until(shown)
    return models[number]


async def chain_holds(plant: Fleet, digest: str) -> bool:
    """Whether the chain's RolledBack event names this report."""
    chain = await plant.chain_of("listener")
    async for event in chain.events(plant.root / "read-by-the-test.sqlite"):
        if event.name == "RolledBack":
            return event.values["report"] == digest
    return False
