"""The agent's side of training on encrypted data: its worker computes on ciphertexts, the custodian refreshes them.

One message at a time: the worker makes it, it is offered to the custodian (on topics of its own, where nothing but
masked numbers ever is), and the answer goes back into the worker. Nothing is kept: after a crash the agent is not in
this round.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog

from edge_agent.learning.training import BegunTraining, Job, SealedUpdate, begin_encrypted, go_on, unmask_update
from gemel.errors import Malformed, Refused
from gemel.exchange.post import Post
from gemel.exchange.transfers import Transfers
from gemel.host.workers import Workers
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import TrainingAnswer, TrainingRequest, decode, encode
from gemel.wire.types import Digest

REPEAT_S = 5.0  # a request without an answer is said again: its custodian may have crashed
LARGEST_BYTES = 1 << 28  # of a context or an answer
FETCH_S = 120.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class EncryptedTraining:
    """Trains under policies that say `training.encrypted`."""

    post: Post
    transfers: Transfers  # the custodian's context and answers come this way
    requests: Transfers  # on the topics of training: what the custodian fetches here
    workers: Workers
    _waiting: dict[Digest, asyncio.Future[TrainingAnswer]] = field(default_factory=dict)

    async def listen(self) -> None:
        """Hear the custodian; call once."""
        custodians = self.post.trust.custodian_addresses
        await self.requests.listen(custodians)
        topic = self.post.topics.training_answer("+", self.post.identity.address)
        await self.post.hear(topic, Kind.TRAINING_ANSWER, custodians, self._on_answer)

    async def train(self, job: Job, context: Transfer) -> SealedUpdate:
        """As `train_and_seal`, without anybody seeing what is learnt.

        `context` is the round's training context as the custodian announced it. Raises Refused for what the custodian
        refuses, and as `Transfers.fetch`; waits for a custodian that is away.
        """
        public = await self._fetch(context)
        begun: BegunTraining = await self.workers.run(begin_encrypted, job, public)
        request = begun.request
        for step in range(begun.run.plan.steps):
            answer = await self._ask(job.round, step, request.message)
            request = await self.workers.run(go_on, begun, step, request, answer)
        body = await self._ask(job.round, begun.run.plan.steps, request.message)
        return await self.workers.run(unmask_update, job, begun, request, body)

    async def _ask(self, round_: int, step: int, message: bytes) -> bytes:
        transfer = await self.requests.offer(message)
        answer = self._waiting[transfer.digest] = asyncio.get_running_loop().create_future()
        try:
            return await self._fetch(await self._answered(round_, TrainingRequest(step, transfer), answer))
        finally:
            del self._waiting[transfer.digest]
            await self.requests.withdraw(transfer)

    async def _answered(
        self, round_: int, request: TrainingRequest, answer: asyncio.Future[TrainingAnswer]
    ) -> Transfer:
        (custodian,) = self.post.trust.custodians  # there is one under bfv-packed
        topic = self.post.topics.training_request(custodian.address, self.post.identity.address)
        while not answer.done():
            await self.post.say(topic, Kind.TRAINING_REQUEST, encode(request), round_=round_)
            await asyncio.wait({answer}, timeout=REPEAT_S)
        said = answer.result()
        if said.transfer is None:
            raise Refused(said.reason, f"step {request.step}, by the custodian: {said.detail}")
        return said.transfer

    async def _fetch(self, transfer: Transfer) -> bytes:
        (custodian,) = self.post.trust.custodians
        return await self.transfers.fetch(custodian.address, transfer, max_bytes=LARGEST_BYTES, deadline_s=FETCH_S)

    async def _on_answer(self, message: Envelope) -> None:
        answer = decode(TrainingAnswer, message.body)
        if (answer.outcome == "accepted") != (answer.transfer is not None):
            raise Malformed("TrainingAnswer", f"{answer.outcome}, and {answer.transfer}")
        waiting = self._waiting.get(answer.request)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
