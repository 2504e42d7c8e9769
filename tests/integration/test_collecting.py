"""A hundred agents reveal their frames at once: what the coordinator holds of them meanwhile, and who opens them."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
from msgspec.structs import replace

from coordinator.collecting import collect_frames
from coordinator.driver import Driver
from coordinator.machine import Event, FrameRefused, FrameTaken, Round, State
from coordinator.office import Office
from gemel.adapters.clock import SystemClock
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.errors import PeerError
from gemel.exchange.admission import Terms
from gemel.exchange.post import Post
from gemel.exchange.round_folder import RoundFolder
from gemel.exchange.transfers import Transfers
from gemel.host.workers import Workers
from gemel.sealing.budget import MODULUS, RING_DEGREE, budget_of
from gemel.sealing.frames import BodyShape, pack_body
from gemel.wire import boxes, envelope
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import Entry
from gemel.wire.types import Address
from tests.support.brokers import embedded_broker
from tests.support.parties import COORDINATOR, TRUST, identity
from tests.support.plans import POLICY

AGENTS = [identity(1000 + number) for number in range(100)]
PARAMETERS = 100_000
SEALING = replace(POLICY.sealing, contributors=len(AGENTS))
ROUND = Round(
    number=1,
    state=State.COLLECTING,
    base="ba" * 32,
    policy=replace(POLICY, sealing=SEALING, max_frame_bytes=1 << 20).digest,
    context=Transfer("cc" * 32, 1000),
)
BOX_SECRET = (1).to_bytes(32, "big")  # the coordinator's in TRUST


def sealed_body() -> bytes:
    """Ciphertexts of the right form; nobody opens them here."""
    shape = BodyShape(budget_of(SEALING, PARAMETERS), "cc" * 32)
    rng = np.random.default_rng(0)
    words = (rng.integers(0, MODULUS, (2, RING_DEGREE), np.uint64) for _ in range(shape.budget.chunks))
    return pack_body(shape, words)


def frame_of(agent: Identity, body: bytes) -> envelope.Envelope:
    facts = {"round": ROUND.number, "base": ROUND.base, "policy": ROUND.policy, "weight": 10}
    return envelope.sign(agent, TRUST.domain, TRUST.task, Kind.UPDATE, body, issued_at_ms=1, **facts)  # type: ignore[arg-type]


class Counting(Workers):
    """Real workers; which functions they ran is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    async def run(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def,override]  # as Workers.run
        self.ran.append(fn.__name__)
        return await super().run(fn, *args, **kwargs)


@asynccontextmanager
async def revealing(url: str, folder: Path, body: bytes) -> AsyncIterator[dict[Address, Entry]]:
    """Everybody's entry, while they all answer fetches. They share a connection, and nothing else."""
    entries = {}
    async with MqttBus(BusSettings(url=url, client_id="agents")) as bus:
        serving = []
        for agent in AGENTS:
            transfers = Transfers(Post(bus, TRUST, agent, SystemClock()), folder / agent.address)
            await transfers.listen({COORDINATOR.address})
            frame = frame_of(agent, body)
            wrapped = boxes.wrap(envelope.pack(frame), [boxes.box_key(BOX_SECRET)])
            transfer = await transfers.offer(wrapped)
            entries[agent.address] = Entry(agent.address, frame.header.body_digest, 10, transfer)
            serving.append(asyncio.create_task(transfers.serve()))
        try:
            yield entries
        finally:
            for one in serving:
                one.cancel()
            await asyncio.wait(serving)


async def test_coordinator_holds_no_frame_of_a_hundred_agents_and_opens_none_itself(tmp_path: Path) -> None:
    events: list[Event] = []
    told: list[PeerError | None] = []

    async def feed(event: Event) -> None:
        events.append(event)

    async def receipt(_number: int, _device: Address, error: PeerError | None, _frame: Transfer) -> None:
        told.append(error)

    body = sealed_body()
    policy = replace(POLICY, sealing=SEALING, max_frame_bytes=1 << 20)
    async with (
        embedded_broker() as url,
        revealing(url, tmp_path / "agents", body) as entries,
        MqttBus(BusSettings(url=url, client_id="coordinator")) as bus,
        Counting() as workers,
    ):
        post = Post(bus, TRUST, COORDINATOR, SystemClock())
        office = SimpleNamespace(
            post=post,
            transfers=Transfers(post, tmp_path / "transfers"),
            workers=workers,
            policy=policy,
            task=SimpleNamespace(manifest=SimpleNamespace(size=PARAMETERS)),
            box_secret=BOX_SECRET,
            folder=lambda round_: RoundFolder(tmp_path, round_.number),
            terms=lambda round_: Terms(TRUST, round_.number, round_.base, policy),
            receipt=receipt,
        )
        forged = entries[AGENTS[7].address]
        entries[forged.device] = replace(forged, digest="00" * 32)  # another update than it committed to
        until_ms = SystemClock().now_ms() + 60_000
        round_ = replace(ROUND, entries=entries, reveal_until_ms=until_ms)
        tracemalloc.start()
        try:
            await collect_frames(cast("Office", office), cast("Driver", SimpleNamespace(feed=feed)), round_)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert {type(event) for event in events} == {FrameTaken, FrameRefused}
    assert [e.device for e in events if isinstance(e, FrameRefused)] == [forged.device]
    assert [str(error) for error in told if error] == [
        "refused: no_commitment (another update than the one committed to)"
    ]
    spooled = list(RoundFolder(tmp_path, 1).frames.iterdir())
    assert {path.name for path in spooled} == entries.keys() - {forged.device}
    assert all(path.read_bytes().endswith(body) for path in spooled)
    assert workers.ran == ["take_in"] * len(AGENTS)
    # What the agents, who are in this process too, have under way is two chunks or so each.
    assert peak < len(body) * len(AGENTS) * 0.6
