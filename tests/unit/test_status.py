"""What an agent says about itself."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.learning.examples import Examples
from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.status import StatusBoard, will
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import BusUnavailable, Malformed
from gemel.learning.tasks.hydraulic import task
from gemel.twin.agent import MAX_STATUS_BYTES, AgentStatus, Participation, status_from_json
from gemel.wire.types import sha256


class FlakyBus:
    """A link that a test cuts and mends."""

    def __init__(self) -> None:
        self.connected, self.failing = False, False
        self.said: list[tuple[str, bytes]] = []

    async def publish(self, topic: str, payload: bytes, *, retain: bool, **options: object) -> None:
        assert retain
        if self.failing:
            raise BusUnavailable("cut")
        self.said.append((topic.rsplit("/", 1)[1], payload))

    @property
    def status(self) -> AgentStatus:
        return next(status_from_json(payload) for leaf, payload in reversed(self.said) if leaf == "status")


async def test_status_follows_what_happens_and_is_said_again_on_a_new_link(tmp_path: Path) -> None:
    bus, clock = FlakyBus(), FakeClock()
    async with (
        SqliteRecords(tmp_path / "records.sqlite") as records,
        Examples(tmp_path / "examples.sqlite", task, 10) as examples,
    ):
        model = await ModelInUse.load(records, tmp_path / "models")
        board = StatusBoard("north", "gw", "press-1", bus=bus, clock=clock, examples=examples, model_in_use=model)
        running = asyncio.create_task(board.run())

        async def look() -> None:
            await clock.advance(0.5)
            await examples.count()  # the board's own question is answered before this one
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        await look()
        assert bus.said == []  # no link, nobody to tell
        bus.connected = True
        await look()
        assert bus.said[0] == ("availability", b"online")
        assert (bus.status.model, bus.status.learning, bus.status.refusal) == (None, None, "")
        said = len(bus.said)
        await look()
        assert len(bus.said) == said  # nothing new

        await model.install(3, sha256(b"m"), b"m")
        board.note(refusal="refused: no_quorum")
        board.note(round=7, samples=12, loss=0.5, participation="committed")
        board.note(round=7, participation="revealed")
        await look()
        assert bus.status.model == model.current().running
        assert bus.status.refusal == "refused: no_quorum"
        assert bus.status.learning == Participation(7, "revealed", samples=12, loss=0.5)

        board.note(refusal="")
        board.note(round=8, participation="not in this round")
        await look()
        assert (bus.status.refusal, bus.status.learning) == ("", Participation(8, "not in this round"))

        bus.connected = False
        await look()
        bus.connected, bus.said = True, []
        await look()
        assert [leaf for leaf, _ in bus.said] == ["availability", "status"]

        bus.failing = True
        board.note(refusal="again")
        await look()
        bus.failing = False
        await look()
        assert bus.status.refusal == "again"

        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert bus.said[-1] == ("availability", b"offline")
        assert will("north", "gw").payload == b"offline"


@given(st.binary() | st.just(b" " * (MAX_STATUS_BYTES + 1)))
def test_whatever_is_no_status_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        status_from_json(data)
