"""The follower against a chain that is replaced, lags, goes away and kills it at will; the chain is of our making."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.adapters.contract_abi import Values
from gemel.adapters.event_follower import WINDOW, Checkpoint, Follower, NodeBehind
from gemel.adapters.evm_node import ForeignChain, Header, Log, NodeNonsense, NodeRefused
from gemel.errors import ChainUnavailable, ConfigError, Malformed
from gemel.ports import ChainEvent

CONTRACT = "0x" + "11" * 20
BAD, UNWANTED = b"\xff", b"\xee"


def decode(log: Log) -> tuple[str, Values] | None:
    if log.data == BAD:
        raise Malformed("Counted", "garbage")
    return None if log.data == UNWANTED else ("Counted", {"index": log.index})


class Quiet(Exception):
    """Raised by the node once the follower only polls: it has found all that is to be found."""


class Killed(BaseException):
    """kill -9 while a request is under way."""


@dataclass(frozen=True)
class Block:
    header: Header
    logs: tuple[Log, ...]


@dataclass
class Interference:
    """What happens before a request is answered, `quiet` requests after the last such thing."""

    quiet: int
    kind: str
    amount: int = 0  # a depth, or the number of a branch
    events: Sequence[int] = ()


@dataclass
class SimulatedNode:
    """A node that knows every branch there was. Its requests use `plan` up."""

    genesis: str = "genesis"
    plan: list[Interference] = field(default_factory=list)
    rpc_url: str = "memory"
    identifier: int = 1
    widest: int = 10_000
    hidden: int = 0  # blocks that this node does not have yet
    requests: int = 0
    asked_for_ever: bool = False  # no Quiet

    def __post_init__(self) -> None:
        self.chain: list[Block] = []
        self.branches: list[list[Block]] = []
        self.forks = self.idle = self.highest = self.since = 0
        self.at_last_look = ""
        self.extend([0])

    def extend(self, events: Sequence[int], data: bytes = b"") -> None:
        for count in events:
            number = len(self.chain)
            parent = self.chain[-1].header.hash if self.chain else "00" * 32
            digest = hashlib.sha256(f"{self.genesis}{parent}{count}{self.forks}".encode()).hexdigest()
            logs = (Log(CONTRACT, (b"\1" * 32,), data, number, digest, "ab" * 32, index) for index in range(count))
            self.chain.append(Block(Header(number, digest, parent, number, 0), tuple(logs)))
        self.highest = max(self.highest, len(self.chain))

    def reorganise(self, depth: int, events: Sequence[int]) -> None:
        self.branches.append(list(self.chain))
        self.forks += 1
        del self.chain[max(1, len(self.chain) - depth) :]
        self.extend(events)

    def come_back(self, number: int) -> None:
        """A branch from before is the chain again, grown by a block."""
        if self.branches:
            self.branches.append(self.chain)
            self.chain = list(self.branches[number % (len(self.branches) - 1)])
            self.extend([1])

    def settle(self, confirmations: int) -> None:
        """No more interference; higher than anything before, since a chain that became shorter tells nothing."""
        self.plan, self.hidden = [], 0
        self.extend([1] * (self.highest - len(self.chain) + 1 + confirmations))

    def places(self, confirmations: int = 0) -> list[str]:
        confirmed = self.chain[: len(self.chain) - confirmations]
        return [f"{log.block_hash}-{log.index}" for block in confirmed for log in block.logs]

    @property
    def visible(self) -> list[Block]:
        return self.chain[: max(1, len(self.chain) - self.hidden)]

    def _interfere(self) -> None:
        self.requests += 1
        self.since += 1
        if not self.plan or self.since <= self.plan[0].quiet:
            return
        self.since = 0
        step = self.plan.pop(0)
        match step.kind:
            case "extend":
                self.extend(step.events)
            case "reorganise":
                self.reorganise(step.amount, step.events)
            case "come back":
                self.come_back(step.amount)
            case "lag":
                self.hidden = step.amount
            case "away":
                raise ChainUnavailable("away")
            case "kill":
                raise Killed

    # --- what the follower asks of a node
    async def chain_id(self) -> int:
        self._interfere()
        return self.identifier

    async def head(self) -> Header:
        self._interfere()
        head = self.visible[-1].header
        self.idle = self.idle + 1 if head.hash == self.at_last_look and not self.plan else 0
        self.at_last_look = head.hash
        if self.idle > 3 and not self.asked_for_ever:
            raise Quiet
        return head

    async def header(self, number: int) -> Header | None:
        self._interfere()
        return self.visible[number].header if number < len(self.visible) else None

    async def logs(self, addresses: Sequence[str], first: int, last: int) -> list[Log]:
        self._interfere()
        if last - first >= self.widest:
            raise NodeRefused("too many results")
        return [log for block in self.visible[first : last + 1] for log in block.logs]

    async def logs_of_block(self, addresses: Sequence[str], header: Header) -> list[Log]:
        self._interfere()
        for block in self.visible:
            if block.header == header:
                return list(block.logs)
        raise NodeRefused("unknown block")


@dataclass
class Consumer:
    """One that drops ids that it knows; `have` is what it believes to be on the chain, `seen` all that came."""

    path: Path
    node: SimulatedNode
    confirmations: int = 0
    kills: list[str] = field(default_factory=list)  # for each event: "before" its effect, "after", or neither
    have: list[str] = field(default_factory=list)
    seen: list[ChainEvent] = field(default_factory=list)
    unfinished: set[str] = field(default_factory=set)  # handed out, and then this was killed

    async def live(self, most: int = 10_000) -> bool:
        """One process: until it is killed (False), there is nothing more to find, or `most` events are finished."""
        self.node.idle = 0
        follower = Follower(self.node, (CONTRACT,), confirmations=self.confirmations, poll_s=0, decode=decode)
        if not most:
            return True
        try:
            async with aclosing(follower.events(self.path)) as events:
                async for event in events:
                    killed = self.kills.pop(0) if self.kills else ""
                    if killed == "before":
                        self.unfinished.add(event.id)
                        return False
                    self._act(event)
                    if killed == "after":
                        self.unfinished.add(event.id)
                        return False
                    if len(self.seen) >= most:
                        # the last one counts as finished only when the next is asked for
                        self.unfinished.add(event.id)
                        return True
        except Quiet:
            return True
        except Killed:
            return False
        raise AssertionError("events are endless")

    async def live_on(self) -> None:
        """Killed as often as it may be, it is started again."""
        while not await self.live():
            pass

    def _act(self, event: ChainEvent) -> None:
        self.seen.append(event)
        again = event.id in self.unfinished
        if event.retracted:
            assert event.id in self.have or again, "what never came is taken back"
            self.have = [each for each in self.have if each != event.id]
        else:
            assert event.id not in self.have or again, "an event came twice"
            assert not any(each.retracted and each.id == event.id for each in self.seen), "an id came back"
            self.have = [*(each for each in self.have if each != event.id), event.id]

    @property
    def places(self) -> list[str]:
        """What it has, without the number of the delivery."""
        return sorted(each.split(".")[0] for each in self.have)


@pytest.fixture
def node() -> SimulatedNode:
    return SimulatedNode()


@pytest.fixture
def consumer(tmp_path: Path, node: SimulatedNode) -> Consumer:
    return Consumer(tmp_path / "events.db", node)


_COUNTS = st.lists(st.integers(0, 2), min_size=1, max_size=4)
_QUIET = st.integers(0, 15)
_INTERFERENCE = st.one_of(
    st.builds(Interference, _QUIET, st.just("extend"), st.just(0), _COUNTS),
    st.builds(Interference, _QUIET, st.just("reorganise"), st.integers(1, 6), _COUNTS),
    st.builds(Interference, _QUIET, st.just("come back"), st.integers(0, 5)),
    st.builds(Interference, _QUIET, st.just("lag"), st.integers(0, 3)),
    st.builds(Interference, _QUIET, st.sampled_from(["away", "kill"])),
)


@settings(max_examples=100, deadline=None)
@given(
    plan=st.lists(_INTERFERENCE, min_size=5, max_size=30),
    kills=st.lists(st.sampled_from(["", "", "before", "after"]), max_size=25),
    confirmations=st.integers(0, 2),
)
async def test_consumer_ends_with_exactly_the_chains_events_whatever_happens_between_any_two_requests(
    tmp_path_factory: pytest.TempPathFactory, plan: list[Interference], kills: list[str], confirmations: int
) -> None:
    node = SimulatedNode(plan=plan)
    consumer = Consumer(tmp_path_factory.mktemp("follower") / "events.db", node, confirmations, kills)
    while node.plan:
        await consumer.live_on()
    node.settle(confirmations)
    await consumer.live_on()
    assert consumer.places == sorted(node.places(confirmations))


@pytest.mark.parametrize("confirmations", [0, 1, 2])
async def test_blocks_replaced_between_any_two_requests_of_one_look_are_found_out(
    tmp_path: Path, confirmations: int
) -> None:
    for quiet in range(15):
        node = SimulatedNode()
        consumer = Consumer(tmp_path / f"{quiet}.db", node, confirmations)
        node.extend([1, 1, 1, 1])
        await consumer.live()
        node.extend([1, 1])
        node.plan = [Interference(node.since + quiet, "reorganise", 5, [1, 1, 1, 1, 1, 1])]
        await consumer.live()
        node.settle(confirmations)
        await consumer.live()
        assert consumer.places == sorted(node.places(confirmations))


async def test_lag_counts_from_the_oldest_block_with_an_unfinished_event(tmp_path: Path, node: SimulatedNode) -> None:
    node.extend([0, 1, 0, 1, 0])
    follower = Follower(node, (CONTRACT,), poll_s=0, decode=decode)
    assert follower.lag_blocks == 0  # nobody has looked yet
    events = follower.events(tmp_path / "events.db")
    assert (await anext(events)).block == 2
    assert follower.lag_blocks == 4
    assert (await anext(events)).block == 4
    assert follower.lag_blocks == 2
    looking = asyncio.ensure_future(anext(events))
    while follower.lag_blocks and not looking.done():  # noqa: ASYNC110  nothing tells that it has looked again
        await asyncio.sleep(0)
    node.extend([0, 1])
    assert (await looking).block == 7
    assert follower.lag_blocks == 1
    await events.aclose()


async def test_event_of_a_branch_that_was_lost_and_came_back_is_delivered_again_under_a_new_id(
    node: SimulatedNode, consumer: Consumer
) -> None:
    node.extend([0, 1])
    await consumer.live()
    for _ in range(2):
        node.reorganise(len(node.chain) - 2, [0, 0, 0, 0])
        await consumer.live()
        node.come_back(0)
        await consumer.live()
    place = node.places()[0]
    ours = [(event.id, event.retracted) for event in consumer.seen if event.id.startswith(place)]
    names = [place, place, f"{place}.2", f"{place}.2", f"{place}.3"]
    assert ours == list(zip(names, [False, True, False, True, False], strict=True))
    assert consumer.places == sorted(node.places())


async def test_event_that_nobody_saw_before_its_block_was_lost_is_never_delivered(
    node: SimulatedNode, consumer: Consumer
) -> None:
    node.extend([1, 2])
    await consumer.live(1)  # found three, and was killed at the first
    node.reorganise(2, [0, 0, 2])
    await consumer.live()
    assert [event.retracted for event in consumer.seen] == [False, True, False, False]
    assert consumer.places == sorted(node.places())


async def test_event_begun_before_a_kill_is_retracted_and_not_begun_again_when_its_block_was_lost_meanwhile(
    node: SimulatedNode, consumer: Consumer
) -> None:
    node.extend([1])
    consumer.kills = ["before"]
    assert not await consumer.live()
    node.reorganise(1, [0, 0])
    await consumer.live()
    assert [(event.block, event.retracted) for event in consumer.seen] == [(1, True)]


async def test_what_waits_since_before_a_restart_is_compared_with_the_chain_first(
    node: SimulatedNode, consumer: Consumer
) -> None:
    node.extend([2])
    await consumer.live(1)
    node.plan = [Interference(0, "away")] * 3
    node.reorganise(1, [0, 1])
    before = len(consumer.seen)
    await consumer.live_on()
    assert [event.retracted for event in consumer.seen[before:]] == [True, False]


async def test_log_in_a_block_that_was_empty_before_the_reorganisation_is_found(
    node: SimulatedNode, consumer: Consumer
) -> None:
    node.extend([0] * 20)
    await consumer.live()
    node.reorganise(10, [1, *[0] * 11])
    await consumer.live()
    assert consumer.have == node.places()
    assert len(consumer.have) == 1


async def test_long_chain_is_searched_in_stretches_and_halves(node: SimulatedNode, consumer: Consumer) -> None:
    node.extend([index % 7 == 0 for index in range(1300)])
    node.widest = 100
    await consumer.live()
    assert consumer.have == node.places()
    assert node.requests < 300


async def test_node_that_lags_is_waited_for_and_nothing_is_retracted(
    node: SimulatedNode, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    node.extend([1, 1, 1])
    await consumer.live()
    node.hidden = 2
    await consumer.live()
    assert [record.message for record in caplog.records] == [
        "events wait: the node at memory is behind: at block 1, followed so far: 3"
    ]
    node.hidden = 0
    node.extend([1])
    await consumer.live()
    assert consumer.have == node.places()
    assert not any(event.retracted for event in consumer.seen)


async def test_node_that_begins_anew_is_behind_and_not_reorganised(node: SimulatedNode, consumer: Consumer) -> None:
    node.extend([1] * (2 * WINDOW))
    await consumer.live()
    node.hidden = 2 * WINDOW - 3  # it knows none of the headers that are kept
    await consumer.live()
    node.hidden = 0
    node.extend([1])
    await consumer.live()
    assert consumer.have == node.places()


async def test_chain_that_became_shorter_and_grew_differently_is_followed(
    node: SimulatedNode, consumer: Consumer
) -> None:
    node.extend([1, 1, 1])
    await consumer.live()
    node.reorganise(3, [2])
    await consumer.live()
    assert consumer.places == sorted(node.places())


async def test_reorganisation_deeper_than_the_window_is_an_error(node: SimulatedNode, consumer: Consumer) -> None:
    node.extend([1] * (2 * WINDOW))
    await consumer.live()
    node.reorganise(WINDOW + 5, [1] * (WINDOW + 6))
    with pytest.raises(ConfigError, match="deeper"):
        await consumer.live()


async def test_chain_that_was_replaced_before_the_start_is_an_error_and_not_a_replay(
    node: SimulatedNode, consumer: Consumer
) -> None:
    node.extend([1, 1])
    await consumer.live()
    consumer.node = SimulatedNode("another genesis")
    consumer.node.extend([1, 1, 1])
    with pytest.raises(ConfigError, match="followed so far"):
        await consumer.live()
    assert len(consumer.seen) == 2


@pytest.mark.parametrize("impostor", ["another genesis", "another id", "one that has just begun"])
async def test_foreign_chain_that_appears_after_the_start_is_waited_out(
    node: SimulatedNode, consumer: Consumer, caplog: pytest.LogCaptureFixture, impostor: str
) -> None:
    node.extend([1, 1])
    node.asked_for_ever = True
    events = Follower(node, (CONTRACT,), poll_s=0, decode=decode).events(consumer.path)
    ours = [await anext(events), await anext(events)]
    own, looks = node.chain, node.requests
    if impostor == "another id":
        node.identifier = 5
        node.extend([1])
    else:
        node.genesis, node.chain = impostor, []
        node.extend([0] if impostor == "one that has just begun" else [0, 1, 1, 1])
    waiting = asyncio.ensure_future(anext(events))
    while node.requests < looks + 20 and not waiting.done():  # noqa: ASYNC110  nothing tells that it has looked
        await asyncio.sleep(0)
    assert not waiting.done()
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("events wait: the node is on another chain now")
    node.genesis, node.identifier, node.chain = "genesis", 1, own
    node.extend([1] if impostor != "another id" else [])
    ours.append(await waiting)
    assert [event.id for event in ours] == node.places()
    await events.aclose()


async def test_malformed_log_is_named_and_neither_skipped_nor_the_end(
    node: SimulatedNode, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    node.extend([1])
    right = list(node.chain)
    wrong = Log(CONTRACT, (b"\1" * 32,), BAD, 1, right[1].header.hash, "ab" * 32, 0)
    node.chain[1] = Block(right[1].header, (wrong,))
    await consumer.live()
    assert consumer.seen == []
    (said,) = [record.message for record in caplog.records]
    assert f"log 0 of transaction {'ab' * 32} in block 1: malformed Counted: garbage" in said
    node.chain = right
    node.extend([1])
    await consumer.live()
    assert consumer.have == node.places()


async def test_log_that_nobody_wants_is_passed_over(node: SimulatedNode, consumer: Consumer) -> None:
    node.extend([2], UNWANTED)
    node.extend([1])
    await consumer.live()
    assert consumer.have == node.places()[2:]


async def test_waiting_is_said_once_for_each_trouble_and_its_end_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="gemel.adapters.event_follower")

    class Returning(SimulatedNode):
        troubles = [ChainUnavailable("away")] * 3 + [NodeNonsense("garbage")] * 2

        async def head(self) -> Header:
            if self.troubles:
                raise self.troubles.pop()
            return await super().head()

    node = Returning()
    node.extend([1])
    events = Follower(node, (CONTRACT,), poll_s=0, decode=decode).events(tmp_path / "events.db")
    assert (await anext(events)).name == "Counted"
    await events.aclose()
    assert [record.message for record in caplog.records] == [
        "events wait: garbage",
        "events wait: away",
        "events go on",
    ]


def test_troubles_are_all_waited_out() -> None:
    assert all(issubclass(each, ChainUnavailable) for each in (NodeBehind, NodeNonsense, ForeignChain, NodeRefused))


def test_checkpoint_written_before_ids_were_numbered_goes_on(tmp_path: Path) -> None:
    """An id that an older version retracted is numbered when its block comes back."""
    checkpoint = Checkpoint(tmp_path / "events.db")
    header = Header(1, "aa" * 32, "00" * 32, 0, 0)
    event = ChainEvent("aa-0", "Counted", {}, 1, header.hash, "bb" * 32)
    checkpoint.advance(2, [header], [event])
    entry = checkpoint.waiting()
    assert entry is not None
    checkpoint.delivered(entry[0])  # that version noted no beginning
    checkpoint.rewind(0)
    checkpoint.advance(2, [header], [event])
    ids = _drain(checkpoint)
    checkpoint.close()
    assert ids == [("aa-0", True), ("aa-0.2", False)]


def _drain(checkpoint: Checkpoint) -> list[tuple[str, bool]]:
    found = []
    while (entry := checkpoint.waiting()) is not None:
        found.append((entry[1].id, entry[1].retracted))
        checkpoint.delivered(entry[0])
    return found
