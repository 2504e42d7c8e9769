"""Services are killed in the middle of rounds and started again: a round goes on, or ends with its reason on chain.

One fleet serves all tests, round after round. A service that stands still (SIGSTOP) holds a round in a phase, so that
a kill strikes where it shall.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from coordinator.machine import Round, State
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.exchange.mailbox import Mailbox
from gemel.ports import RoundState
from gemel.wire.envelope import Kind
from tests.support.crew import Crew, Member, crew
from tests.support.fleet import in_one_task
from tests.support.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

AGENTS = {name: f"owner of {name}" for name in ("a", "b", "c", "d")}
VALIDATORS = ("validator-1", "validator-2", "validator-3")
ROUNDS = {"rounds": 1000, "pause_s": 1, "context_s": 20, "commit_s": 12, "reveal_s": 4, "decide_s": 40}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crew]:
    folder, port = tmp_path_factory.mktemp("crew"), free_port()
    bus = {"url": f"mqtt://127.0.0.1:{port}"}
    broker = Member("gemel.embedded.broker", ["--port", str(port)], folder / "broker.log")
    await broker.start()
    try:
        async with in_one_task(crew(folder / "fleet", AGENTS, lambda _plant, _name: bus)) as hired:
            hired.members["broker"] = broker
            await hired.start("custodian", "listener", *VALIDATORS, "coordinator", *AGENTS, **ROUNDS)
            assert await hired.final(0) == RoundState.DEPLOYED
            yield hired
    finally:
        await broker.stop()


async def next_round(plant: Crew) -> int:
    """The number of a round that has not begun: whoever is held now is held in all of it."""
    last = await plant.last_round()
    await plant.final(last)
    return last + 1


async def committed(plant: Crew, number: int, *names: str) -> Round:
    wanted = {plant.plant.address(name) for name in names}
    return await plant.recorded(number, lambda r: wanted <= r.entries.keys(), f"committed to by {names}")


async def restart_coordinator(plant: Crew, number: int, state: State) -> None:
    """Kill it in `state` of the round, and start it again."""
    await plant.recorded(number, lambda r: r.state == state, state)
    await plant["coordinator"].kill()
    left = plant.record(number)
    assert left is not None
    assert left.state == state
    await plant.start("coordinator")


async def abort_reason(plant: Crew, folder: Path, number: int) -> object:
    async with asyncio.timeout(30):
        async for event in plant.chain.events(folder / "events.sqlite"):
            if event.name == "RoundAborted" and event.values["round"] == number:
                return event.values["reason"]
    raise AssertionError("events never end")


async def test_coordinator_killed_while_it_collects_keeps_the_frames_it_has(plant: Crew) -> None:
    number = await next_round(plant)
    async with plant.held("b"):  # the list stays open
        await committed(plant, number, "a", "c", "d")
        plant["a"].signal(signal.SIGSTOP)  # it has committed, and cannot reveal
    collecting = await plant.recorded(number, lambda r: len(r.taken) == 3, "collecting, one frame missing")
    assert collecting.state == State.COLLECTING
    await plant["coordinator"].kill()
    plant["a"].signal(signal.SIGCONT)
    await plant.start("coordinator")
    assert await plant.final(number) == RoundState.DEPLOYED
    ended = await plant.recorded(number, lambda r: r.state == State.DEPLOYED, "deployed")
    assert ended.taken >= collecting.taken


async def test_coordinator_killed_in_every_later_phase_brings_the_round_to_its_end(plant: Crew) -> None:
    number = await next_round(plant)
    async with plant.held(*VALIDATORS):
        await restart_coordinator(plant, number, State.AGGREGATED)
    await restart_coordinator(plant, number, State.OPENED)
    async with plant.held(*VALIDATORS):
        await restart_coordinator(plant, number, State.MEASURED)
        plant["listener"].signal(signal.SIGSTOP)
    await restart_coordinator(plant, number, State.DEPLOYING)
    plant["listener"].signal(signal.SIGCONT)
    assert await plant.final(number) == RoundState.DEPLOYED


async def test_coordinator_killed_before_it_wrote_the_round_down_aborts_it_on_chain(
    plant: Crew, tmp_path: Path
) -> None:
    number = await next_round(plant)
    async with plant.held("custodian"):  # no key, no context: nothing is written down yet
        await plant.on_chain(number, RoundState.OPEN)
        await plant["coordinator"].kill()
        assert plant.record(number) is None
    await plant.start("coordinator")
    assert await plant.final(number) == RoundState.ABORTED
    assert await abort_reason(plant, tmp_path, number) == "the coordinator lost its state"
    assert await plant.final(number + 1) == RoundState.DEPLOYED


async def heard_of_sum(plant: Crew, number: int) -> bool:
    async with SqliteRecords(plant.plant.state("custodian") / "records.sqlite") as records:
        heard = await Mailbox(records).here(Kind.AGGREGATE, number)
        return len(heard) > 0


async def test_custodian_killed_between_confirmation_and_opening_opens_after_all(plant: Crew) -> None:
    number = await next_round(plant)
    keys = plant.plant.state("custodian") / "keys"
    async with plant.held(*VALIDATORS):
        await plant.until(lambda: heard_of_sum(plant, number), "custodian has heard of the sum")
        plant["coordinator"].signal(signal.SIGSTOP)  # who alone can hand out the sum
    await plant.on_chain(number, RoundState.CONFIRMED)
    await plant["custodian"].kill()
    plant["coordinator"].signal(signal.SIGCONT)
    assert (keys / f"round-{number:06d}.key").exists()
    await plant.start("custodian")
    assert await plant.final(number) == RoundState.DEPLOYED
    assert not (keys / f"round-{number:06d}.key").exists()


async def test_validator_killed_before_its_vote_is_not_needed_and_votes_again_once_back(plant: Crew) -> None:
    number = await next_round(plant)
    await plant.on_chain(number, RoundState.OPEN)
    await plant["validator-3"].kill()
    assert await plant.final(number) == RoundState.DEPLOYED
    await plant.start("validator-3")
    assert await plant.final(number + 1) == RoundState.DEPLOYED

    async def voted() -> bool:
        return any(" voted " in line and f"number={number + 1} " in line for line in _lines(plant["validator-3"]))

    await plant.until(voted, f"validator-3 voted in round {number + 1}")


def _lines(member: Member) -> list[str]:
    return member.log.splitlines()


async def test_listener_killed_between_approval_and_message_announces_once_it_is_back(plant: Crew) -> None:
    number = await next_round(plant)
    await plant.on_chain(number, RoundState.LISTED, RoundState.AGGREGATED)
    async with plant.held("listener"):
        await plant.on_chain(number, RoundState.APPROVED)
        await plant["listener"].kill()
    await plant.start("listener")
    assert await plant.final(number) == RoundState.DEPLOYED


async def test_agent_killed_after_its_commitment_reveals_the_same_frame_once_it_is_back(plant: Crew) -> None:
    number, a = await next_round(plant), plant.plant.address("a")
    async with plant.held("b"):
        promised = (await committed(plant, number, "a", "c", "d")).entries[a]
        await plant["a"].kill()
        await plant.start("a")
    assert await plant.final(number) == RoundState.DEPLOYED
    ended = await plant.recorded(number, lambda r: r.state == State.DEPLOYED, "deployed")
    assert ended.entries[a] == promised
    assert a in ended.taken


async def test_agent_killed_after_its_commitment_is_done_without(plant: Crew) -> None:
    number, a = await next_round(plant), plant.plant.address("a")
    async with plant.held("b"):
        await committed(plant, number, "a", "c", "d")
        await plant["a"].kill()
    await plant.on_chain(number, RoundState.APPROVED)
    decided = await plant.recorded(number, lambda r: r.state == State.DEPLOYING, "being deployed")
    assert decided.taken == decided.entries.keys() - {a}
    assert decided.refused == {a: "missing"}
    await plant.start("a")  # and it installs what it had no part in
    assert await plant.final(number) == RoundState.DEPLOYED


async def test_broker_restarted_in_a_round_costs_no_round_once_all_are_linked_again(plant: Crew) -> None:
    number = await next_round(plant)
    others = [member for name, member in plant.members.items() if name not in ("broker", "b")]

    async def all_linked() -> bool:
        return all(member.log.count(" linked ") > links[member] for member in others)

    async with plant.held("b"):
        await committed(plant, number, "a", "c", "d")
        links = {member: member.log.count(" linked ") for member in others}
        await plant["broker"].kill()
        await plant.start("broker")  # it remembers nobody: what is said now reaches those who are back
        await plant.until(all_linked, "all linked again")
    assert await plant.final(number) == RoundState.DEPLOYED
