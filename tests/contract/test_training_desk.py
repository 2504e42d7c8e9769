"""The custodian's desk for training on encrypted data: what it answers, how often, and what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from custodian.offers import Offers
from custodian.round_secrets import RoundSecrets
from custodian.training_desk import TrainingDesk
from gemel.adapters.clock import SystemClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import Refused
from gemel.exchange.post import Post
from gemel.exchange.transfers import Transfers, describe
from gemel.host.background import Background
from gemel.host.workers import Workers
from gemel.ports import BusMessage
from gemel.sealing.encrypted_training import work
from gemel.sealing.encrypted_training.plan import HeadPlan
from gemel.sealing.encrypted_training.release import unmask
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Kind
from gemel.wire.messages import Policy, SealingPolicy, TrainingAnswer, TrainingPlan, TrainingRequest, decode, encode
from gemel.wire.reasons import Reason
from tests.support.fleet import opened
from tests.support.parties import AGENTS, CUSTODIAN, TRUST
from tests.support.sealing import Plant

ROUND = 3
POLICY = Policy(SealingPolicy("bfv-packed", 12, 4.0, 8, 100), TrainingPlan(2, 1, 1.0, encrypted=True), 3, 200_000)
PLAN = HeadPlan(features=1, outputs=1, rows=2, steps=2, rate=1.0)


class Air:
    """What the desk says, and the transfers that agents hold ready."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[BusMessage] = asyncio.Queue()
        self.held: dict[Transfer, bytes] = {}

    async def publish(self, topic: str, payload: bytes, **_: object) -> None:
        await self.said.put(BusMessage(topic, payload))

    async def subscribe(self, *_: object) -> None:
        """Tests hand messages to the desk themselves."""

    async def fetch(self, _holder: str, transfer: Transfer, **_: object) -> bytes:
        if transfer not in self.held:
            raise Refused(Reason.MISSING, "nobody holds it")
        return self.held[transfer]

    async def drop_unfinished(self) -> None:
        """There is nothing on disk."""


class Custody:
    """A desk, and agents in front of it."""

    def __init__(self, folder: Path, records: SqliteRecords, workers: Workers, background: Background) -> None:
        self.air, self.folder, self.refusals = Air(), folder, list[tuple[str, str]]()
        post = Post(self.air, TRUST, CUSTODIAN, SystemClock())  # type: ignore[arg-type]  # all that it says
        self.transfers = Transfers(post, folder / "transfers")
        self.desk = TrainingDesk(
            post=post,
            requests=self.air,  # type: ignore[arg-type]  # what is fetched
            offers=Offers(self.transfers, records),
            workers=workers,
            policy=POLICY,
            plan=PLAN,
            records=records,
            agents=frozenset(agent.address for agent in AGENTS),  # type: ignore[arg-type]  # who may ask
            secrets=RoundSecrets(folder / "training-keys"),
            start=background.start,
            count_refusal=lambda kind, reason: self.refusals.append((kind, reason)),
        )

    async def public(self, sealing_context: bytes) -> bytes:
        """Begin the round; the training context as agents fetch it."""
        return self.offered(await self.desk.begin(ROUND, sealing_context))

    def offered(self, transfer: Transfer) -> bytes:
        return (self.folder / "transfers" / "out" / transfer.digest).read_bytes()

    async def ask(self, step: int, message: bytes, *, round_: int = ROUND, agent: int = 0) -> TrainingAnswer:
        transfer = describe(message)
        self.air.held[transfer] = message
        return await self.ask_for(TrainingRequest(step, transfer), round_=round_, agent=agent)

    async def ask_for(self, request: TrainingRequest, *, round_: int = ROUND, agent: int = 0) -> TrainingAnswer:
        post = Post(self.air, TRUST, AGENTS[agent], SystemClock())  # type: ignore[arg-type]  # it only signs
        await self.desk._on_request(post.sign(Kind.TRAINING_REQUEST, encode(request), round_=round_))
        message = await asyncio.wait_for(self.air.said.get(), 60)
        assert message.topic == post.topics.training_answer(CUSTODIAN.address, AGENTS[agent].address)
        envelope = opened(message)
        assert envelope.header.sender == CUSTODIAN.address
        return decode(TrainingAnswer, envelope.body)


@pytest.fixture(scope="module")
def plant() -> Plant:
    return Plant(POLICY.sealing, 1)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """One process for all tests: it takes seconds to start."""
    shared = Workers()
    yield shared
    asyncio.run(shared.__aexit__(None, None, None))


@pytest_asyncio.fixture
async def custody(tmp_path: Path, workers: Workers) -> AsyncIterator[Custody]:
    async with SqliteRecords(tmp_path / "records.sqlite") as records, Background() as background:
        yield Custody(tmp_path, records, workers, background)


def begun(public: bytes) -> tuple[work.Run, work.Request]:
    return work.begin(public, PLAN, np.zeros((1, 1)), np.ones((2, 1)), np.ones((2, 1)))


async def test_an_agent_trains_once_a_step_and_nothing_of_the_round_is_left(custody, plant):
    public = await custody.public(plant.context)
    run, request = begun(public)
    first = await custody.ask(0, request.message)
    again = await custody.ask(0, request.message)
    assert (first.outcome, again.outcome) == ("accepted", "accepted")
    assert first.transfer != again.transfer  # fresh ciphertexts, as in the step itself
    assert not (custody.folder / "transfers" / "out" / first.transfer.digest).exists()  # one at a time is held
    second = work.step(run, request, custody.offered(again.transfer))
    last = work.release(run, second, custody.offered((await custody.ask(1, second.message)).transfer), 500.0)
    body = custody.offered((await custody.ask(2, last.message)).transfer)
    opened_sum = plant.opened(plant.sum_of([unmask(plant.context, POLICY.sealing, body, last.masks[0])]), 1)
    after_one = 0.5  # w + (y - p(0)), then once more with p(0.5) = 0.598
    assert abs(int(opened_sum[0]) - 500 * (after_one + 1 - 0.598)) <= 2
    other = begun(public)[1]
    for step, message in ((0, other.message), (1, other.message), (2, last.message[:-6] + bytes(6))):
        refused = await custody.ask(step, message)
        assert (refused.outcome, refused.reason) == ("refused", Reason.DUPLICATE)
    assert (await custody.ask(0, other.message, agent=1)).outcome == "accepted"  # another agent's first
    await custody.desk.end(ROUND)
    assert not list((custody.folder / "training-keys").iterdir())
    with pytest.raises(Refused, match="not open here"):
        await custody.ask(0, request.message)


@pytest.mark.parametrize(
    ("step", "change", "reason"),
    [
        (3, lambda message: message, Reason.MALFORMED),  # there are two, and the release
        (2**53, lambda message: message, Reason.MALFORMED),
        (2, lambda message: message, Reason.WRONG_LENGTH),  # a step's message as a release
        (0, lambda message: message[:-1], Reason.WRONG_LENGTH),
        (0, lambda message: b"XREF" + message[4:], Reason.MALFORMED),
        (0, lambda message: message[:12] + bytes(32) + message[44:], Reason.DIGEST_MISMATCH),
        (0, lambda message: message[:-6] + b"\xff" * 6, Reason.MALFORMED),
    ],
)
async def test_a_request_that_does_not_hold_is_refused_with_its_reason(custody, plant, step, change, reason):
    request = begun(await custody.public(plant.context))[1]
    refused = await custody.ask(step, change(request.message))
    assert (refused.outcome, refused.reason, refused.transfer) == ("refused", reason, None)
    assert custody.refusals == [("training_request", reason)]


async def test_a_request_whose_bytes_never_come_is_refused_and_blocks_nobody(custody, plant):
    request = begun(await custody.public(plant.context))[1]
    missing = TrainingRequest(0, Transfer("ab" * 32, len(request.message)))
    assert (await custody.ask_for(missing)).reason == Reason.MISSING
    assert (await custody.ask(0, request.message, agent=1)).outcome == "accepted"


async def test_after_a_restart_the_key_is_the_same_and_a_step_that_was_taken_stays_taken(custody, plant, tmp_path):
    public = await custody.public(plant.context)
    request = begun(public)[1]
    assert (await custody.ask(0, request.message)).outcome == "accepted"
    (stored,) = (custody.folder / "training-keys").iterdir()
    assert stored.stat().st_mode & 0o777 == 0o600
    desk = custody.desk
    async with Background() as background:
        restarted = Custody(tmp_path, desk.records, desk.workers, background)  # type: ignore[arg-type]  # as before
        with pytest.raises(Refused, match="not open here"):
            await restarted.ask(0, request.message)
        assert await restarted.public(plant.context) == public
        assert (await restarted.ask(0, request.message)).outcome == "accepted"
        assert (await restarted.ask(0, begun(public)[1].message)).reason == Reason.DUPLICATE


async def test_requests_of_other_rounds_are_not_heard_and_older_keys_go(custody, plant):
    custody.desk.secrets.write(ROUND - 1, b"an older round's")
    await custody.desk.listen(ROUND)
    assert custody.desk.secrets.read(ROUND - 1) is None
    request = begun(await custody.public(plant.context))[1]
    for round_ in (ROUND - 1, ROUND + 1):
        with pytest.raises(Refused, match="not open here"):
            await custody.ask(0, request.message, round_=round_)
