"""A registry's word on a backfill: given once it is committed, or with why it is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gemel.adapters.clock import FakeClock
from gemel.adapters.registry_stores import RegistryStores, open_stores
from gemel.adapters.sql_keep import Keep
from gemel.errors import BusUnavailable, StoreUnavailable
from gemel.host.metrics import Metrics
from gemel.ports import BusMessage, Handler, TwinStore
from gemel.twin.backfill import SCHEMA, Answer, Backfill, Kept, answer_from_json, to_json
from gemel.twin.state import Property, Quality, blank, hold
from gemel.wire import topics
from gemel.wire.types import sha256
from twin_registry.keeping import Keeper

TWIN = hold(blank("north", "press-1"), {"TS1": Property(40.0, "degC", 5, 6, Quality.GOOD)})
DOCUMENT = to_json(Backfill(SCHEMA, "north", "press-1", 0, (Kept(6, TWIN),)))
TOPIC = topics.twin_backfill("north", "press-1")


class Bus:
    """Hands over what the test says to the handler of backfills, and takes the answers; None: the link is gone."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, Answer]] | None = []
        self._handlers: dict[str, Handler] = {}

    async def subscribe(self, topic_filter: str, handler: Handler, **_: object) -> None:
        self._handlers[topic_filter] = handler

    async def publish(self, topic: str, payload: bytes, **_: object) -> None:
        if self.answers is None:
            raise BusUnavailable("gone")
        self.answers.append((topic, answer_from_json(payload)))

    async def say(self, topic: str, payload: bytes) -> None:
        await self._handlers[topics.ALL_BACKFILL](BusMessage(topic, payload))


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[RegistryStores]:
    async with open_stores(f"sqlite:///{tmp_path}/twins.sqlite", Keep(machines=1)) as opened:
        yield opened


async def listening(store: TwinStore) -> Bus:
    bus = Bus()
    await Keeper(store, FakeClock(), Metrics("test").registry_messages).subscribe(bus)  # type: ignore[arg-type]  # what it uses of a bus
    return bus


async def test_backfill_is_answered_with_its_digest_each_time_it_comes_and_stored_once(
    stores: RegistryStores,
) -> None:
    bus = await listening(stores.twins)
    for _ in range(2):
        await bus.say(TOPIC, DOCUMENT)
    answer = Answer("gemel.twin.backfill-answer/1", sha256(DOCUMENT))
    assert bus.answers == [(f"{TOPIC}/answer", answer)] * 2
    found = await stores.twins.samples("north", "press-1", "TS1", from_ms=0, to_ms=10, limit=10)
    assert [sample.time_ms for sample in found] == [5]


@pytest.mark.parametrize("payload", [b"", b"{", DOCUMENT.replace(b"press-1", b"press-2"), DOCUMENT[:-1]])
async def test_backfill_that_does_not_hold_is_refused_with_a_reason(stores: RegistryStores, payload: bytes) -> None:
    bus = await listening(stores.twins)
    await bus.say(TOPIC, payload)
    assert bus.answers is not None
    ((topic, answer),) = bus.answers
    assert (topic, answer.digest) == (f"{TOPIC}/answer", sha256(payload))
    assert answer.refusal


async def test_machine_beyond_the_bound_is_refused_so_that_its_agent_forgets_nothing(stores: RegistryStores) -> None:
    bus = await listening(stores.twins)
    await stores.twins.put(blank("north", "another"), 1)
    await bus.say(TOPIC, DOCUMENT)
    assert bus.answers is not None
    assert [bool(answer.refusal) for _, answer in bus.answers] == [True]


async def test_nothing_is_answered_while_the_store_is_away(
    stores: RegistryStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> None:
        raise StoreUnavailable("no disk")

    bus = await listening(stores.twins)
    monkeypatch.setattr(stores.twins, "put_samples", gone)
    with pytest.raises(StoreUnavailable):
        await bus.say(TOPIC, DOCUMENT)
    assert bus.answers == []


async def test_answer_that_nobody_takes_is_dropped_since_the_backfill_comes_again(stores: RegistryStores) -> None:
    bus = await listening(stores.twins)
    bus.answers = None
    await bus.say(TOPIC, DOCUMENT)
    assert await stores.twins.twin("north", "press-1") is not None
