"""The follower against a chain that reorganises at will: a node of our own making, with real headers and logs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.adapters.contract_abi import DEVICE_REGISTRY, load
from gemel.adapters.event_follower import WINDOW, Checkpoint, Follower
from gemel.adapters.evm_node import Header, Log, NodeRefused
from gemel.errors import ChainUnavailable, ConfigError
from gemel.ports import ChainEvent

CONTRACT = "0x" + "11" * 20
SUSPENDED = next(e for e in load(DEVICE_REGISTRY).events.values() if e.name == "PartySuspended")


class ReorganisingNode:
    """A chain as a list of (header, number of events); any tail can be replaced."""

    rpc_url = "memory"

    def __init__(self, genesis: str = "genesis") -> None:
        self.blocks: list[tuple[Header, int]] = []
        self.fork = 0
        self.widest = 10_000
        self._append(0, genesis)

    def _append(self, events: int, salt: str = "") -> None:
        parent = self.blocks[-1][0].hash if self.blocks else "00" * 32
        number = len(self.blocks)
        digest = hashlib.sha256(f"{parent}{number}{events}{self.fork}{salt}".encode()).hexdigest()
        self.blocks.append((Header(number, digest, parent, number, 0), events))

    def extend(self, events: Sequence[int]) -> None:
        for each in events:
            self._append(each)

    def reorganise(self, depth: int, events: Sequence[int]) -> None:
        self.fork += 1
        del self.blocks[max(1, len(self.blocks) - depth) :]
        self.extend(events)

    # --- what the follower asks of a node
    async def chain_id(self) -> int:
        return 1

    async def head(self) -> Header:
        return self.blocks[-1][0]

    async def header(self, number: int) -> Header | None:
        return self.blocks[number][0] if number < len(self.blocks) else None

    async def logs(self, addresses: Sequence[str], first: int, last: int) -> list[Log]:
        if last - first >= self.widest:
            raise NodeRefused("too many results")
        return [log for header, count in self.blocks[first : last + 1] for log in self._logs(header, count)]

    @staticmethod
    def _logs(header: Header, count: int) -> list[Log]:
        topics = (SUSPENDED.selector, bytes(31) + b"\1")
        return [Log(CONTRACT, topics, b"", header.number, header.hash, "ab" * 32, index) for index in range(count)]

    def canonical(self, confirmations: int = 0) -> list[str]:
        confirmed = self.blocks[: len(self.blocks) - confirmations]
        return [f"{header.hash}-{index}" for header, count in confirmed for index in range(count)]


class Consumer:
    """Follows until there is nothing more to find; `have` is what it believes to be on the chain."""

    def __init__(self, path: Path, node: ReorganisingNode, confirmations: int = 0) -> None:
        self.path, self.node, self.confirmations = path, node, confirmations
        self.have: list[str] = []
        self.seen: list[ChainEvent] = []

    async def catch_up(self, *, acknowledge: int = 10_000) -> None:
        """A new process each time: finds all that is to be found, then consumes at most `acknowledge` events."""
        follower = Follower(self.node, (CONTRACT,), confirmations=self.confirmations)
        checkpoint = Checkpoint(self.path)
        try:
            checkpoint.pin(await follower._identity())
            while await follower._search(checkpoint):
                pass
            while acknowledge and (entry := checkpoint.waiting()) is not None:
                self._consume(entry[1])
                checkpoint.delivered(entry[0])
                acknowledge -= 1
        finally:
            checkpoint.close()

    def _consume(self, event: ChainEvent) -> None:
        self.seen.append(event)
        if event.retracted:
            self.have.remove(event.id)  # fails if it was never delivered, or is retracted twice
        else:
            assert event.id not in self.have, "an event came twice"
            self.have.append(event.id)


@pytest.fixture
def node() -> ReorganisingNode:
    return ReorganisingNode()


async def test_lag_counts_from_the_oldest_block_with_an_unfinished_event(
    tmp_path: Path, node: ReorganisingNode
) -> None:
    node.extend([0, 1, 0, 1, 0])
    follower = Follower(node, (CONTRACT,), poll_s=0)
    assert follower.lag_blocks == 0  # nobody has looked yet
    events = follower.events(tmp_path / "events.db")
    assert (await anext(events)).block == 2
    assert follower.lag_blocks == 4
    assert (await anext(events)).block == 4
    assert follower.lag_blocks == 2
    looking = asyncio.ensure_future(anext(events))
    while follower.lag_blocks:  # noqa: ASYNC110  nothing tells that it has looked again
        await asyncio.sleep(0)
    node.extend([0, 1])
    assert (await looking).block == 7
    assert follower.lag_blocks == 1
    await events.aclose()


_STEP = st.one_of(
    st.tuples(st.just("extend"), st.just(0), st.lists(st.integers(0, 2), min_size=1, max_size=4)),
    st.tuples(st.just("reorganise"), st.integers(1, 6), st.lists(st.integers(0, 2), max_size=6)),
    st.tuples(st.just("follow"), st.integers(0, 5), st.just([])),
)


@settings(max_examples=50)
@given(steps=st.lists(_STEP, max_size=15), confirmations=st.integers(0, 2))
async def test_consumer_ends_with_exactly_the_chains_events_whatever_is_replaced(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, list[int]]], confirmations: int
) -> None:
    node = ReorganisingNode()
    consumer = Consumer(tmp_path_factory.mktemp("follower") / "events.db", node, confirmations)
    for step, number, events in steps:
        if step == "extend":
            node.extend(events)
        elif step == "reorganise":
            node.reorganise(number, events)
        else:
            await consumer.catch_up(acknowledge=number)
    node.extend([1] * (confirmations + 1))  # a chain that became shorter tells nothing until it has grown
    await consumer.catch_up()
    assert sorted(consumer.have) == sorted(node.canonical(confirmations))


async def test_event_of_a_branch_that_was_lost_and_came_back_is_delivered_again(
    node: ReorganisingNode, tmp_path: Path
) -> None:
    consumer = Consumer(tmp_path / "events.db", node)
    node.extend([0, 1])
    branch_a = list(node.blocks)
    await consumer.catch_up()
    node.reorganise(1, [0, 0])
    await consumer.catch_up()
    node.blocks = [*branch_a]
    node.extend([0, 0])
    await consumer.catch_up()
    assert [event.retracted for event in consumer.seen] == [False, True, False]
    assert consumer.seen[0].id == consumer.seen[2].id
    assert consumer.have == node.canonical()


async def test_event_that_nobody_saw_before_its_block_was_lost_is_never_delivered(
    node: ReorganisingNode, tmp_path: Path
) -> None:
    consumer = Consumer(tmp_path / "events.db", node)
    node.extend([0, 1])
    await consumer.catch_up(acknowledge=0)
    node.reorganise(1, [2])
    await consumer.catch_up()
    assert consumer.have == node.canonical()
    assert not any(event.retracted for event in consumer.seen)


async def test_log_in_a_block_that_was_empty_before_the_reorganisation_is_found(
    node: ReorganisingNode, tmp_path: Path
) -> None:
    consumer = Consumer(tmp_path / "events.db", node)
    node.extend([0] * 20)
    await consumer.catch_up()
    node.reorganise(10, [1, *[0] * 11])
    await consumer.catch_up()
    assert consumer.have == node.canonical()
    assert len(consumer.have) == 1


async def test_long_chain_is_searched_in_stretches_and_halves(node: ReorganisingNode, tmp_path: Path) -> None:
    node.extend([index % 7 == 0 for index in range(1300)])
    node.widest = 100
    consumer = Consumer(tmp_path / "events.db", node)
    await consumer.catch_up()
    assert consumer.have == node.canonical()


async def test_reorganisation_deeper_than_the_window_is_an_error(node: ReorganisingNode, tmp_path: Path) -> None:
    node.extend([1] * (2 * WINDOW))
    consumer = Consumer(tmp_path / "events.db", node)
    await consumer.catch_up()
    node.reorganise(WINDOW + 5, [1] * (WINDOW + 6))
    with pytest.raises(ConfigError, match="deeper"):
        await consumer.catch_up()


async def test_chain_that_was_replaced_is_an_error_and_not_a_replay(node: ReorganisingNode, tmp_path: Path) -> None:
    node.extend([1, 1])
    consumer = Consumer(tmp_path / "events.db", node)
    await consumer.catch_up()
    consumer.node = ReorganisingNode("another genesis")
    consumer.node.extend([1, 1, 1])
    with pytest.raises(ConfigError, match="followed so far"):
        await consumer.catch_up()
    assert len(consumer.seen) == 2


async def test_chain_that_is_replaced_while_it_is_followed_is_an_error(
    node: ReorganisingNode, tmp_path: Path
) -> None:
    node.extend([1, 1])
    events = Follower(node, (CONTRACT,), poll_s=0).events(tmp_path / "events.db")
    await anext(events)
    await anext(events)
    node.blocks = []
    node._append(0, "another genesis")
    with pytest.raises(ConfigError, match="followed so far"):
        await anext(events)


async def test_follower_waits_while_no_node_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Returning(ReorganisingNode):
        asked = 0

        async def head(self) -> Header:
            self.asked += 1
            if self.asked < 4:
                raise ChainUnavailable("away")
            return await super().head()

    returning = Returning()
    returning.extend([1])
    events = Follower(returning, (CONTRACT,), poll_s=0).events(tmp_path / "events.db")
    assert (await anext(events)).name == "PartySuspended"
    assert [record.message for record in caplog.records] == ["events wait: away"]
    await events.aclose()
