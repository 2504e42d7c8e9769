"""What waits for the link: durable, bounded, coarser the older it is, and sent without holding up what is live."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_agent.twinning import backfilling
from edge_agent.twinning.backfilling import Backfilling
from edge_agent.twinning.outbox import Outbox
from gemel.adapters.clock import SystemClock
from gemel.errors import BusRefused, BusUnavailable, ConfigError, Malformed
from gemel.ports import BusMessage, Handler
from gemel.twin import backfill
from gemel.twin.backfill import SCHEMA, Backfill, Kept
from gemel.twin.state import Property, Quality, Twin, blank, to_json
from tests.support.alerts import hot


def revision(version: int, asset: str = "press-1", size: int = 1) -> Twin:
    reading = Property(float(version), "x" * size, version * 1000, version * 1000, Quality.GOOD)
    return replace(blank("north", asset), version=version, properties={"TS1": reading})


EVENT = hot()


async def versions(outbox: Outbox) -> list[int]:
    batch = await outbox.oldest(10_000, 10**9)
    return [] if batch is None else [kept.twin.version for kept in batch.revisions]


async def test_revisions_survive_a_restart_in_order_and_the_same_again_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    async with Outbox(path, 100) as outbox:
        for version in (1, 2, 2, 3):
            await outbox.keep([Kept(version * 1000, revision(version), (EVENT,) if version == 2 else ())])
    async with Outbox(path, 100) as outbox:
        assert (outbox.depth, outbox.dropped) == (3, 0)
        batch = await outbox.oldest(2, 10**9)
        assert batch is not None
        assert batch.revisions == (Kept(1000, revision(1)), Kept(2000, revision(2), (EVENT,)))
        await outbox.forget(batch.numbers)
        assert await versions(outbox) == [3]
        assert await outbox.newest("press-1") == revision(3)
        assert await outbox.newest("press-2") is None
        await outbox.forget((await outbox.oldest(9, 10**9)).numbers)  # type: ignore[union-attr]  # there is one left
        assert await outbox.oldest(9, 10**9) is None
        assert outbox.depth == 0


async def test_full_outbox_loses_detail_of_the_past_first_and_counts_it(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "outbox.sqlite", 100) as outbox:
        for version in range(1, 401):
            await outbox.keep([Kept(version, revision(version))])
            assert outbox.depth <= 101
        kept = await versions(outbox)
        assert outbox.dropped == 400 - len(kept)
        assert kept[0] == 1  # the whole outage is spanned
        assert kept[-40:] == list(range(361, 401))  # the latest are complete
        gaps = [after - before for before, after in itertools.pairwise(kept)]
        assert max(gaps[:5]) >= max(gaps[-50:])
    async with Outbox(tmp_path / "outbox.sqlite", 100) as outbox:
        assert outbox.dropped == 400 - len(kept)


async def test_batch_is_of_one_twin_and_bounded_in_bytes_unless_one_alone_is_larger(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "outbox.sqlite", 100) as outbox:
        await outbox.keep([Kept(1, revision(1, size=5000))])
        await outbox.keep([Kept(1, revision(1, asset="press-2"))])
        await outbox.keep([Kept(2, revision(2))])
        await outbox.keep([Kept(3, revision(3))])
        sent = []
        while (batch := await outbox.oldest(10, 1000)) is not None:
            sent.append((batch.asset, [kept.twin.version for kept in batch.revisions]))
            await outbox.forget(batch.numbers)
        assert sent == [("press-1", [1]), ("press-2", [1]), ("press-1", [2, 3])]


class Broker:
    """A bus whose link the test decides, and a registry behind it that answers as the test says."""

    def __init__(self) -> None:
        self.connected = True
        self.failures: list[Exception] = []
        self.answer: Callable[[bytes], bytes | None] = backfill.answer_to
        self.sent: list[Backfill] = []
        self._handlers: dict[str, Handler] = {}

    async def subscribe(self, topic_filter: str, handler: Handler) -> None:
        assert topic_filter not in self._handlers
        self._handlers[topic_filter] = handler

    async def publish(self, topic: str, payload: bytes, **_: object) -> None:
        if self.failures:
            raise self.failures.pop(0)
        sent = backfill.from_json(payload)
        assert topic == f"gemel/v1/north/twin/{sent.asset}/backfill"
        self.sent.append(sent)
        if (answer := self.answer(payload)) is not None:
            await self._handlers[f"{topic}/answer"](BusMessage(f"{topic}/answer", answer))

    @property
    def versions(self) -> list[int]:
        return [kept.twin.version for part in self.sent for kept in part.revisions]


class Quick(SystemClock):
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@asynccontextmanager
async def sending(folder: Path, broker: Broker, revisions: int) -> AsyncIterator[Outbox]:
    async with Outbox(folder / "outbox.sqlite", 1000) as outbox:
        await outbox.keep([Kept(version, revision(version)) for version in range(1, revisions + 1)])
        task = asyncio.create_task(Backfilling(outbox, "north", bus=broker, clock=Quick()).run())  # type: ignore[arg-type]  # what it uses of a bus
        try:
            yield outbox
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  neither the outbox nor a task that asks again says when
            await asyncio.sleep(0.01)


async def test_what_was_kept_is_sent_once_there_is_a_link_and_again_where_the_broker_did_not_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfilling, "REFUSED_S", 0.01)
    broker = Broker()
    broker.connected = False
    broker.failures = [BusUnavailable("gone"), BusRefused("publish", "topic", 0x87, "Not authorized")]
    async with sending(tmp_path, broker, 150) as outbox:
        await asyncio.sleep(0.05)
        assert broker.sent == []
        broker.connected = True
        await until(lambda: not outbox.depth)
    assert broker.versions == list(range(1, 151))
    assert max(len(part.revisions) for part in broker.sent) <= backfill.MAX_REVISIONS


async def test_revisions_that_the_broker_took_are_kept_and_sent_again_until_a_registry_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfilling, "ANSWER_S", 0.01)
    broker = Broker()
    broker.answer = lambda _: None  # nobody listens, or the broker forgot who did
    async with sending(tmp_path, broker, 3) as outbox:
        await until(lambda: len(broker.sent) >= 3)
        assert outbox.depth == 3
        broker.answer = backfill.answer_to
        await until(lambda: not outbox.depth)
    assert broker.versions[-3:] == [1, 2, 3]


@pytest.mark.parametrize("wrong", [backfill.answer_to(b"another document"), b"stored", b"{}"])
async def test_answer_to_something_else_makes_it_forget_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: bytes
) -> None:
    monkeypatch.setattr(backfilling, "ANSWER_S", 0.01)
    broker = Broker()
    broker.answer = lambda _: wrong
    async with sending(tmp_path, broker, 3) as outbox:
        await until(lambda: len(broker.sent) >= 2)
        assert outbox.depth == 3


async def test_refusal_of_a_registry_makes_it_forget_nothing_and_holds_up_no_other_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfilling, "REFUSED_S", 0.01)
    broker = Broker()

    def press_1_alone_is_refused(document: bytes) -> bytes:
        refused = backfill.from_json(document).asset == "press-1"
        return backfill.answer_to(document, "no room for one more machine" * 100 if refused else "")

    broker.answer = press_1_alone_is_refused
    async with sending(tmp_path, broker, 3) as outbox:
        await outbox.keep([Kept(1, revision(1, asset="press-2"))])
        await until(lambda: [part.asset for part in broker.sent].count("press-1") >= 2 and outbox.depth == 3)
        assert await outbox.newest("press-2") is None
        broker.answer = backfill.answer_to
        await until(lambda: not outbox.depth)


def test_backfill_of_another_machine_or_too_large_or_empty_is_malformed() -> None:
    good = Backfill(SCHEMA, "north", "press-1", 0, (Kept(1, revision(1)),))
    assert backfill.from_json(backfill.to_json(good)) == good
    for bad in (
        backfill.to_json(Backfill(SCHEMA, "north", "press-1", 0, (Kept(1, revision(1, "press-2")),))),
        backfill.to_json(Backfill(SCHEMA, "north", "press-1", 0, ())),
        backfill.to_json(Backfill(SCHEMA, "north", "press-1", 0, (Kept(1, revision(1, size=1_000_001)),))),
        backfill.to_json(
            Backfill(SCHEMA, "north", "press-1", 0, (Kept(1, revision(1), (replace(EVENT, asset="press-2"),)),))
        ),
    ):
        with pytest.raises(Malformed):
            backfill.from_json(bad)


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_other_bytes_are_malformed(data: bytes) -> None:
    for read in (backfill.from_json, backfill.answer_from_json):
        with pytest.raises(Malformed):
            read(data)


async def test_outbox_from_before_is_opened_with_what_waits_in_it(tmp_path: Path) -> None:
    """An agent that was updated in the middle of an outage sends what it kept."""
    path = tmp_path / "outbox.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as before:
        before.executescript(
            """
            CREATE TABLE revisions (
                number INTEGER PRIMARY KEY AUTOINCREMENT, asset TEXT NOT NULL, at_ms INTEGER NOT NULL,
                document BLOB NOT NULL);
            CREATE INDEX by_asset ON revisions (asset, number);
            CREATE TABLE dropped (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER NOT NULL);
            INSERT INTO dropped VALUES (1, 7);
            """
        )
        before.execute("INSERT INTO revisions VALUES (3, 'press-1', 1000, ?)", (to_json(revision(1)),))
        before.commit()
    for _ in ("the first time", "and again"):
        async with Outbox(path, 100) as outbox:
            await outbox.keep([Kept(2000, revision(2), (EVENT,))])
            assert (outbox.depth, outbox.dropped) == (2, 7)
            batch = await outbox.oldest(10, 10**6)
    assert batch is not None
    assert batch.numbers == (3, 4)
    assert batch.revisions == (Kept(1000, revision(1), ()), Kept(2000, revision(2), (EVENT,)))


async def test_outbox_of_a_later_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as later:
        later.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match=r"outbox.sqlite: schema version: at most \d+, found 99: a later version"):
        await Outbox(path, 100).__aenter__()
