"""Training on encrypted data: refreshes, masked, what agents learn on ciphertexts, and seals it, masked, at the end.

Under a key of its own, which lives as long as the round. An agent has one request for each of the policy's steps and
one release a round, and the same again is answered again, so that nothing is lost to a crash. What is decrypted here
carries masks that only the agent's trainer knows (docs/decisions/0013-training-on-encrypted-data.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from custodian.offers import Offers
from custodian.round_secrets import RoundSecrets
from gemel.errors import BusUnavailable, PeerError, Refused
from gemel.exchange.chain_watch import Parties
from gemel.exchange.post import Post, detail_of, reason_of
from gemel.exchange.transfers import Transfers
from gemel.host.workers import WorkerDied, Workers
from gemel.ports import Records
from gemel.sealing.encrypted_training.frames import Kind as Message
from gemel.sealing.encrypted_training.frames import Shape
from gemel.sealing.encrypted_training.plan import HeadPlan
from gemel.sealing.encrypted_training.refresher import TrainingKey, create_key, public_context_of, refresh, release
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Policy, TrainingAnswer, TrainingRequest, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, sha256

FETCH_S = 60.0
_ASKED = "trained"  # round/agent/step → the digest of the one request that is answered

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Round:
    """What answers of one round need."""

    number: int
    key: TrainingKey
    sealing_context: bytes


@dataclass(slots=True)
class TrainingDesk:
    """Serves the agents of one round at a time. `start` runs a coroutine until the service ends."""

    post: Post
    requests: Transfers  # on the topics of training: there, agents' offers are for custodians
    offers: Offers
    workers: Workers
    policy: Policy
    plan: HeadPlan
    records: Records
    agents: Parties
    secrets: RoundSecrets
    start: Callable[[Coroutine[Any, Any, object], str], None]
    count_refusal: Callable[[str, str], None]  # (kind, reason), for the metric
    _round: _Round | None = None
    _busy: set[Address] = field(default_factory=set)
    _offered: dict[Address, Transfer] = field(default_factory=dict)

    async def listen(self, number: int) -> None:
        """Hear agents' requests, and erase the keys of rounds before `number`; call once."""
        await asyncio.to_thread(self.secrets.erase_before, number)
        topic = self.post.topics.training_request(self.post.identity.address)
        await self.post.hear(topic, Kind.TRAINING_REQUEST, self.agents, self._on_request)

    async def begin(self, number: int, sealing_context: bytes) -> Transfer:
        """Make the round's training key, or read it after a restart, and hold its public half ready."""
        key = await self._key(number)
        self._round = _Round(number, key, sealing_context)
        return await self.offers.hold(number, key.public)

    async def end(self, number: int) -> None:
        """Destroy the key, and forget who has asked what."""
        self._round = None
        self._offered.clear()
        await asyncio.to_thread(self.secrets.erase, number)
        for key, _ in await self.records.items(_ASKED):
            await self.records.drop(_ASKED, key)
        await self.requests.drop_unfinished()

    async def _on_request(self, message: Envelope) -> None:
        """Begin with an answer; one agent has one at a time. Raises Refused for another round than this one."""
        agent, request, round_ = message.header.sender, decode(TrainingRequest, message.body), self._round
        if round_ is None or message.header.round != round_.number:
            raise Refused(Reason.STALE_ROUND, f"a request of round {message.header.round}, which is not open here")
        if agent not in self._busy:  # while it waits it asks again
            self._busy.add(agent)
            self.start(self._serve(round_, agent, request), f"training of {agent}")

    async def _serve(self, round_: _Round, agent: Address, request: TrainingRequest) -> None:
        try:
            answer = await self._answer(round_, agent, request)
        except PeerError as error:
            log.warning("training request refused", agent=agent, step=request.step, why=str(error))
            self.count_refusal("training_request", reason_of(error))
            answer = TrainingAnswer(request.transfer.digest, "refused", reason_of(error), detail_of(error))
        except WorkerDied as error:
            log.warning("training request lost, the agent asks again", agent=agent, why=str(error))
            return
        finally:
            self._busy.discard(agent)
        topic = self.post.topics.training_answer(self.post.identity.address, agent)
        try:
            await self.post.say(topic, Kind.TRAINING_ANSWER, encode(answer), round_=round_.number)
        except BusUnavailable as unsaid:
            log.warning("training answer not sent, the agent asks again", agent=agent, why=str(unsaid))

    async def _answer(self, round_: _Round, agent: Address, request: TrainingRequest) -> TrainingAnswer:
        last = request.step == self.plan.steps
        shape = Shape(self.plan, sha256(round_.key.public), Message.RELEASE if last else Message.REQUEST)
        if request.step > self.plan.steps:
            raise Refused(Reason.MALFORMED, f"step {request.step}, there are {self.plan.steps}")
        if request.transfer.length != shape.size:
            raise Refused(Reason.WRONG_LENGTH, f"{request.transfer.length} bytes, {shape.size} needed")
        key, digest = f"{round_.number}/{agent}/{request.step}", request.transfer.digest.encode()
        if not await self.records.put_once(_ASKED, key, digest) and await self.records.get(_ASKED, key) != digest:
            raise Refused(Reason.DUPLICATE, f"another request for step {request.step}")
        data = await self.requests.fetch(agent, request.transfer, max_bytes=shape.size, deadline_s=FETCH_S)
        if last:
            secret, context = round_.key.secret, round_.sealing_context
            made = await self.workers.run(release, secret, self.plan, data, context, self.policy.sealing)
        else:
            made = await self.workers.run(refresh, round_.key.secret, self.plan, data)
        if self._round is not round_:
            raise Refused(Reason.STALE_ROUND, "the round is over")
        if agent in self._offered:
            await self.offers.withdraw(round_.number, self._offered[agent])
        self._offered[agent] = await self.offers.hold(round_.number, made)
        return TrainingAnswer(request.transfer.digest, "accepted", transfer=self._offered[agent])

    async def _key(self, number: int) -> TrainingKey:
        secret = await asyncio.to_thread(self.secrets.read, number)
        if secret is not None:
            return TrainingKey(secret, await self.workers.run(public_context_of, secret))
        key: TrainingKey = await self.workers.run(create_key)
        await asyncio.to_thread(self.secrets.write, number, key.secret)
        return key
