from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coordinator import machine as m
from coordinator.driver import RETRY_S, Driver
from coordinator.machine import Round, State
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import ChainReverted, ChainUnavailable, IllegalEvent, Refused

Does = Callable[[Round], Awaitable[m.Event | None]]


def measured() -> Round:

    return Round(
        number=1,
        state=State.MEASURED,
        base="a" * 64,
        policy="b" * 64,
        model="e" * 64,
        decide_until_ms=10**15,
        entered_ms={State.MEASURED: 0},
    )


async def nothing(_: Round) -> None:
    return None


class Bench:
    """A driver on real records, with steps that a test chooses."""

    def __init__(self, records: SqliteRecords, **steps: Does) -> None:
        self.clock = FakeClock()
        self.stored: list[State] = []
        self.phases: list[str] = []
        table: dict[type[m.Effect], Does] = {m.CleanUp: nothing, m.AnchorAbort: nothing}
        table |= {getattr(m, name): step for name, step in steps.items()}
        self.driver = Driver(
            records,
            self.clock,
            lambda: table,
            observe_phase=lambda phase, _seconds: self.phases.append(phase),
            on_stored=self._on_stored,
        )

    async def _on_stored(self, round_: Round) -> None:
        self.stored.append(round_.state)


@asynccontextmanager
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    async with SqliteRecords(tmp_path / "records.sqlite") as opened:
        yield opened


async def test_effects_lead_to_the_end_and_every_phase_is_observed(tmp_path: Path) -> None:
    async def approve(_: Round) -> m.Event:
        return m.Approved(2, 900_000, 800_000)

    async def offer(_: Round) -> m.Event:
        return m.ModelOffered()

    async def deployed(_: Round) -> m.Event:
        return m.AllDeployed()

    async with records(tmp_path) as store:
        bench = Bench(store, AwaitVerdict=approve, OfferModel=offer, AwaitDeployed=deployed)
        last = await bench.driver.run(measured())
    assert (last.state, last.deployment) == (State.DEPLOYED, 2)
    assert bench.phases == ["measured", "approved", "deploying"]


async def test_state_is_stored_before_the_effect_that_it_asks_for(tmp_path: Path) -> None:
    seen: list[State | None] = []

    async with records(tmp_path) as store:

        async def reject(_: Round) -> m.Event:
            return m.Rejected(1, 2, "regression")

        async def clean(_: Round) -> None:
            other = Bench(store)
            await other.driver.restore()
            seen.append(other.driver.round.state if other.driver.round else None)

        await Bench(store, AwaitVerdict=reject, CleanUp=clean).driver.run(measured())
    assert seen == [State.REJECTED]


async def test_a_restored_round_takes_up_the_effect_that_a_crash_interrupted(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def hang(_: Round) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def reject(_: Round) -> m.Event:
        return m.Rejected(1, 2, "regression")

    async with records(tmp_path) as store:
        running = asyncio.create_task(Bench(store, AwaitVerdict=hang).driver.run(measured()))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    async with records(tmp_path) as store:
        again = Bench(store, AwaitVerdict=reject)
        await again.driver.restore()
        assert (await again.driver.run()).state == State.REJECTED


@pytest.mark.parametrize(
    "error", [Refused("digest_mismatch", "x"), ChainReverted("finalise", "NotInRole", {"role": 1})]
)
async def test_an_effect_that_fails_before_the_verdict_aborts_the_round_with_its_reason(
    tmp_path: Path, error: Exception
) -> None:
    async def fail(_: Round) -> None:
        raise error

    async with records(tmp_path) as store:
        last = await Bench(store, AwaitVerdict=fail).driver.run(measured())
    assert (last.state, last.reason) == (State.ABORTED, str(error))


async def test_an_effect_waits_for_a_chain_that_is_away(tmp_path: Path) -> None:
    tries = []
    tried = asyncio.Event()

    async def away_once(_: Round) -> m.Event:
        tries.append(1)
        tried.set()
        if len(tries) == 1:
            raise ChainUnavailable("no node answers")
        return m.Rejected(1, 2, "regression")

    async with records(tmp_path) as store:
        bench = Bench(store, AwaitVerdict=away_once)
        running = asyncio.create_task(bench.driver.run(measured()))
        await tried.wait()
        while not running.done():
            await bench.clock.advance(RETRY_S)
            await asyncio.sleep(0.001)
        assert (await running).state == State.REJECTED
    assert len(tries) == 2


async def test_a_defect_in_an_effect_ends_the_service_and_is_not_swallowed(tmp_path: Path) -> None:
    async def defect(_: Round) -> None:
        raise ZeroDivisionError

    async with records(tmp_path) as store:
        with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError), flatten_subgroups=True):
            await Bench(store, AwaitVerdict=defect).driver.run(measured())


async def test_an_event_without_a_round_is_illegal(tmp_path: Path) -> None:
    async with records(tmp_path) as store:
        with pytest.raises(IllegalEvent):
            await Bench(store).driver.feed(m.Tick())


async def test_effects_still_under_way_are_given_up_when_the_round_ends(tmp_path: Path) -> None:
    given_up = asyncio.Event()
    begun = asyncio.Event()

    async def hang(_: Round) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async with records(tmp_path) as store:
        bench = Bench(store, AwaitVerdict=hang)
        running = asyncio.create_task(bench.driver.run(measured()))
        await begun.wait()
        await bench.driver.feed(m.Failed("the operator asked"))
        assert (await running).state == State.ABORTED
    assert given_up.is_set()
