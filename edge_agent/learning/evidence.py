"""What an agent believes of the chain without one: who votes, what is in use, and how old that knowledge is.

It trusts the pinned electorate and whom a quorum of it names; neither broker, listener nor coordinator. These can
keep messages back, and then the evidence grows old, which is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

import structlog

from edge_agent.learning.endpoints import Endpoints
from edge_agent.learning.model_in_use import ModelInUse
from gemel.errors import Refused
from gemel.exchange.electorates import Electorates
from gemel.exchange.post import Post
from gemel.exchange.standings import Agreed, Standings
from gemel.ports import Records
from gemel.twin.agent import EvidenceStatus
from gemel.wire.electorate import Electorate
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Handover, Restored, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.standing import check_standing
from gemel.wire.types import Digest

POLICY_S = 10.0  # for the validators' word on a policy that the chain has just taken
KEPT_MS = 60_000  # newer evidence of the same facts is written down at most so often
MOST_WAITING = 64  # handovers whose own turn has not come

_KIND, _KEY = "evidence", "agreed"

log = structlog.get_logger(__name__)


class Evidence:
    """Durable. Begin with `await Evidence.load(...)`."""

    def __init__(
        self,
        post: Post,
        electorates: Electorates,
        records: Records,
        model_in_use: ModelInUse,
        endpoints: Endpoints,
        *,
        warning_s: float = 300.0,
    ) -> None:
        self._post, self._electorates, self._records = post, electorates, records
        self._model_in_use, self._endpoints, self._warning_s = model_in_use, endpoints, warning_s
        self._standings = Standings(post, electorates)
        self._heard = asyncio.Event()
        self._standings.on_heard = self._heard.set
        self._agreed: Agreed | None = None
        self._kept_ms = 0
        self._changed = asyncio.Condition()
        self._waiting: dict[int, Handover] = {}
        self._since_ms = post.clock.now_ms()

    @classmethod
    async def load(
        cls,
        post: Post,
        electorates: Electorates,
        records: Records,
        model_in_use: ModelInUse,
        endpoints: Endpoints,
        *,
        warning_s: float = 300.0,
    ) -> Self:
        """With what was known before. Raises StoreUnavailable."""
        evidence = cls(post, electorates, records, model_in_use, endpoints, warning_s=warning_s)
        stored = await records.get(_KIND, _KEY)
        if stored is not None:
            evidence._agreed = decode(Agreed, stored)
        return evidence

    async def listen(self) -> None:
        """Hear validators, and of elections; call once."""
        await self._standings.listen()
        listener = {self._post.trust.listener}
        await self._post.hear(self._post.topics.electorate(), Kind.HANDOVER, listener, self._on_handover)

    # --- who votes ------------------------------------------------------------------------------------

    def electorate_of(self, epoch: int) -> Electorate:
        """Who voted then. Raises Refused(unknown_epoch): its handover may yet come."""
        return self._electorates.of_epoch(epoch)

    async def _on_handover(self, message: Envelope) -> None:
        """Take it, or keep it until the ones before it have come: a broker hands them out in any order."""
        handover = decode(Handover, message.body)
        epoch = handover.electorate.epoch
        if epoch < self._electorates.pinned_epoch:
            return  # the broker keeps those from before this agent was founded too
        try:
            await self._electorates.take(handover)
        except Refused:
            if self._electorates.before(epoch).epoch == epoch - 1:
                raise
            self._waiting[epoch] = handover
            if len(self._waiting) > MOST_WAITING:
                del self._waiting[max(self._waiting)]
            log.info("handover kept until those before it come", epoch=epoch)
        await self._take_waiting()
        self._heard.set()

    async def _take_waiting(self) -> None:
        """In order; what is not signed by those whom we know waits on."""
        for epoch, handover in sorted(self._waiting.items()):
            with contextlib.suppress(Refused):
                await self._electorates.take(handover)
            if self._electorates.knows(epoch):
                self._waiting.pop(epoch, None)

    async def _gather(self) -> None:
        """Who votes next, from the validators' own words: a listener that says nothing keeps nobody back."""
        while (handover := self._standings.handover(self._electorates.current)) is not None:
            try:
                await self._electorates.take(handover)
            except Refused as error:
                log.warning("handover refused", epoch=handover.electorate.epoch, why=str(error))
                return
        await self._take_waiting()

    # --- what stands ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Weigh what comes and ask the endpoints, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._weigh(), name="standings")
            tasks.create_task(self._endpoints.watch(), name="chain endpoints")

    async def _weigh(self) -> None:
        while True:
            self._heard.clear()
            await self._gather()
            agreed = self._standings.agreed(self._electorates.current)
            if agreed is not None and (self._agreed is None or agreed.time_ms > self._agreed.time_ms):
                await self._believe(agreed)
            await self._heard.wait()

    async def _believe(self, agreed: Agreed) -> None:
        is_new = self._agreed is None or agreed.facts != self._agreed.facts
        if is_new or agreed.time_ms - self._kept_ms >= KEPT_MS:
            await self._records.put(_KIND, _KEY, encode(agreed))
            self._kept_ms = agreed.time_ms
        if is_new:
            log.info("validators say", epoch=agreed.facts.epoch, deployment=agreed.facts.deployment)
        async with self._changed:
            self._agreed = agreed
            self._changed.notify_all()

    @property
    def age_s(self) -> float:
        """How old the newest word of a quorum is; infinite where there was none."""
        if self._agreed is None:
            return float("inf")
        return max(0.0, (self._post.clock.now_ms() - self._agreed.time_ms) / 1000)

    @property
    def deployment_on_chain(self) -> int:
        """The deployment that a quorum says is in use; 0 where there was no word."""
        return self._agreed.facts.deployment if self._agreed is not None else 0

    @property
    def status(self) -> EvidenceStatus:
        """For the agent's status."""
        agreed = self._agreed
        return EvidenceStatus(
            epoch=self._electorates.current.epoch,
            as_of_ms=agreed.time_ms if agreed is not None else None,
            deployment_on_chain=agreed.facts.deployment if agreed is not None else None,
            remark="; ".join(self._remarks()),
        )

    def _remarks(self) -> list[str]:
        ours, remarks = self._model_in_use.deployment, list[str]()
        if self.deployment_on_chain > ours:
            running = f"this agent runs deployment {ours}" if ours else "this agent runs no model"
            remarks.append(f"validators say that deployment {self.deployment_on_chain} stands, {running}")
        silent_ms = self._post.clock.now_ms() - (self._agreed.time_ms if self._agreed is not None else self._since_ms)
        if silent_ms > self._warning_s * 1000:
            minutes = f"{silent_ms // 60_000} min" if silent_ms >= 60_000 else f"{self._warning_s:.0f} s"
            remarks.append(f"no quorum of validators heard for {minutes}: away, or kept from us")
        return remarks + self._endpoints.latest.remarks(ours)

    async def require_policy(self, policy: Digest) -> None:
        """Raises Refused(wrong_policy) where a quorum says, and goes on saying, that the next round has another.

        Where no quorum has ever been heard there is nothing to hold it against.
        """
        async with self._changed:
            try:
                async with asyncio.timeout(POLICY_S):
                    await self._changed.wait_for(lambda: self._policy in (None, policy))
            except TimeoutError:
                raise Refused(
                    Reason.WRONG_POLICY, f"validators say that the policy is {str(self._policy)[:12]}"
                ) from None

    @property
    def _policy(self) -> Digest | None:
        return self._agreed.facts.policy if self._agreed is not None else None

    # --- what is to be installed ----------------------------------------------------------------------

    def check_standing(self, restored: Restored) -> None:
        """Raises Refused unless a quorum of the epoch that they name says that these facts stand."""
        trust, electorate = self._post.trust, self.electorate_of(restored.facts.epoch)
        if restored.facts.electorate != electorate.digest:
            raise Refused(Reason.DIGEST_MISMATCH, f"another electorate of epoch {restored.facts.epoch} is known")
        check_standing(restored.facts, restored.signatures, trust.task, trust.domain, electorate)

    async def confirm_on_chain(self, deployment: int, model: Digest) -> None:
        """Ask the chain endpoints, where there are any. Raises Refused(contradicted), naming who says otherwise."""
        await self._endpoints.confirm(deployment, model)
