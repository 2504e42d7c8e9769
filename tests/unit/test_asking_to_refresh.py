"""The agent's side of training on encrypted data: what it makes of the custodian's answers."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.learning import encrypted_training
from edge_agent.learning.encrypted_training import EncryptedTraining
from gemel.adapters.clock import SystemClock
from gemel.errors import Malformed, Refused
from gemel.exchange.post import Post
from gemel.exchange.transfers import describe
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import HEADER_BYTES, Header, Kind
from gemel.wire.messages import TrainingAnswer, TrainingRequest, decode, encode
from tests.support.parties import AGENTS, CUSTODIAN, TRUST

MESSAGE, ANSWER = b"masked weights", b"fresh ones"


class Air:
    """What the agent says and holds ready, and what the custodian would send."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.offered: set[Transfer] = set()

    async def publish(self, topic: str, payload: bytes, **_: object) -> None:
        await self.said.put((topic, payload))

    async def offer(self, payload: bytes) -> Transfer:
        self.offered.add(describe(payload))
        return describe(payload)

    async def withdraw(self, transfer: Transfer) -> None:
        self.offered.discard(transfer)

    async def fetch(self, holder: str, transfer: Transfer, **_: object) -> bytes:
        assert (holder, transfer) == (CUSTODIAN.address, describe(ANSWER))
        return ANSWER


class Asking:
    """One agent that waits for an answer."""

    def __init__(self) -> None:
        self.air = Air()
        post = Post(self.air, TRUST, AGENTS[0], SystemClock())  # type: ignore[arg-type]  # all that it says
        self.training = EncryptedTraining(post, self.air, self.air, workers=None)  # type: ignore[arg-type]
        self.result = asyncio.ensure_future(self.training._ask(7, 1, MESSAGE))

    async def heard(self) -> TrainingRequest:
        topic, payload = await asyncio.wait_for(self.air.said.get(), 10)
        assert topic == self.training.post.topics.training_request(CUSTODIAN.address, AGENTS[0].address)
        assert Header.parse(payload).round == 7
        return decode(TrainingRequest, payload[HEADER_BYTES:])

    async def answer(self, answer: TrainingAnswer) -> None:
        post = Post(self.air, TRUST, CUSTODIAN, SystemClock())  # type: ignore[arg-type]  # it only signs
        await self.training._on_answer(post.sign(Kind.TRAINING_ANSWER, encode(answer), round_=7))


async def test_an_answer_is_fetched_and_the_request_held_no_longer():
    asking = Asking()
    request = await asking.heard()
    assert request == TrainingRequest(1, describe(MESSAGE))
    assert asking.air.offered == {request.transfer}
    await asking.answer(TrainingAnswer("ab" * 32, "accepted", transfer=describe(b"of another request")))
    await asking.answer(TrainingAnswer(request.transfer.digest, "accepted", transfer=describe(ANSWER)))
    await asking.answer(TrainingAnswer(request.transfer.digest, "refused", "late"))  # one is enough
    assert await asking.result == ANSWER
    assert asking.air.offered == set()


async def test_a_refusal_ends_the_training_with_its_reason():
    asking = Asking()
    request = await asking.heard()
    await asking.answer(TrainingAnswer(request.transfer.digest, "refused", "duplicate", "another request"))
    with pytest.raises(Refused, match=r"duplicate \(step 1, by the custodian: another request\)"):
        await asking.result
    assert asking.air.offered == set()


async def test_a_request_without_an_answer_is_said_again(monkeypatch):
    monkeypatch.setattr(encrypted_training, "REPEAT_S", 0.01)
    asking = Asking()
    assert await asking.heard() == await asking.heard() == await asking.heard()
    asking.result.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking.result
    assert asking.air.offered == set()


@pytest.mark.parametrize(
    "answer",
    [TrainingAnswer("ab" * 32, "accepted"), TrainingAnswer("ab" * 32, "refused", "late", transfer=describe(ANSWER))],
)
async def test_an_answer_that_contradicts_itself_is_malformed(answer):
    asking = Asking()
    await asking.heard()
    with pytest.raises(Malformed):
        await asking.answer(answer)
    asking.result.cancel()
    await asyncio.gather(asking.result, return_exceptions=True)
