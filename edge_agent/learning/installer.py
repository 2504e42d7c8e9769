"""Installs what a quorum of the validators' stake approved, and nothing else, whoever says so on the bus.

A deployment may name canaries: then only they install it, watch how it does (health.py) and say so; the others keep
what they run until it comes again for everybody. A deployment that restores an older model carries a quorum's word
for what stands, instead of votes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import structlog

from edge_agent.learning.evidence import Evidence
from edge_agent.learning.health import Health
from edge_agent.learning.model_in_use import ModelInUse
from gemel.errors import BusUnavailable, Malformed, PeerError, Refused
from gemel.exchange.model_pull import ModelPull
from gemel.exchange.post import Post, reason_of
from gemel.learning.task import Task
from gemel.ports import Records
from gemel.wire import envelope, tensors
from gemel.wire.attestations import check_quorum
from gemel.wire.envelope import HEADER_BYTES, Envelope, Header, Kind
from gemel.wire.messages import ConfirmedSum, Deployment, Installed, Restored, decode, encode
from gemel.wire.reasons import Reason

PULL_S = 60.0
RETRY_S = 5.0
# the bytes, who voted, or the agreement of an endpoint that was behind
MAY_COME_YET = frozenset({Reason.MISSING, Reason.UNKNOWN_EPOCH, Reason.CONTRADICTED})
Outcome = Literal["installed", "refused", "healthy", "unhealthy"]
_KIND = "installation"

log = structlog.get_logger(__name__)


class Participation(Protocol):
    """What becomes of the agent's own update is decided by what is installed. Both may be told twice."""

    async def approved(self, round_: int, epoch: int, confirmed: ConfirmedSum | None) -> None:
        """The model of this round is about to run; this sum is behind it."""
        ...

    async def rolled_back(self, round_: int) -> None:
        """The model of this round was given up; the one before is about to run."""
        ...


@dataclass(slots=True)
class Installer:
    """Follows the deployment topic. Trusts a quorum of the stake; neither broker, listener nor coordinator."""

    post: Post
    models: ModelPull
    records: Records
    model_in_use: ModelInUse
    task: Task
    evidence: Evidence
    participation: Participation
    health: Callable[[], Awaitable[Health]]  # of the model in use, once there has been time to see
    note: Callable[..., None]  # fields for the agent's status
    _announced: asyncio.Event = field(default_factory=asyncio.Event)
    _refused: tuple[str, str] = ("", "")  # what was refused last, and why
    _watched: int = 0  # the deployment whose health is looked at, or was
    _watching: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Hear deployments and model offers; call once."""
        await self.models.listen()
        listener = {self.post.trust.listener}
        topic = self.post.topics.deployment
        await self.post.hear(
            topic, Kind.DEPLOYMENT, listener, self._on_deployment, on_refused=self._on_refused_deployment
        )

    async def _on_deployment(self, message: Envelope) -> None:
        await self.records.put(_KIND, "announced", envelope.pack(message))
        self._announced.set()

    async def _on_refused_deployment(self, _header: Header, error: PeerError) -> None:
        """Not the listener's word: nothing is done, and the status says why."""
        self.note(refusal=str(error))

    async def run(self) -> None:
        """Bring the agent to the deployment that was announced last, for ever."""
        settled: bytes | None = None  # the announcement that needs nothing more
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._announced.clear()
                stored = await self.records.get(_KIND, "announced")
                if stored is None or stored == settled:
                    await self._announced.wait()
                    continue
                message = Envelope(Header.parse(stored), stored[HEADER_BYTES:])
                try:
                    if await self._settle(message, tasks):
                        settled = stored
                        continue
                except BusUnavailable as error:
                    log.warning("not reported yet", why=str(error))
                await self.post.clock.sleep(RETRY_S)

    async def _settle(self, message: Envelope, tasks: asyncio.TaskGroup) -> bool:
        """Install, wait or refuse, and report; False where another try may go better."""
        try:
            deployment = decode(Deployment, message.body)
            if await self._install(message.header, deployment):
                await self._report(_word(deployment, "installed"), message.header.round)
                self._look_after(deployment, message.header.round, tasks)
        except PeerError as error:
            await self._refuse(message, error)
            return reason_of(error) not in MAY_COME_YET
        return True

    async def _install(self, header: Header, deployment: Deployment) -> bool:
        """Whether it runs now; False where it is for others yet. Raises PeerError."""
        current, number = self.model_in_use.current(), deployment.deployment
        if current is not None and (current.deployment, current.digest) == (number, deployment.model):
            return True
        if number <= self.model_in_use.deployment:
            raise Refused(Reason.NOT_ABOVE, f"deployment {number}, we run {self.model_in_use.deployment}")
        self._check(header, deployment)
        if deployment.canaries is not None and self.post.identity.address not in deployment.canaries:
            log.info("waiting for the canaries", deployment=number)
            self.note(refusal="", deploying=f"waiting for the canaries of deployment {number}")
            return False
        await self.evidence.confirm_on_chain(number, deployment.model)
        data = await self.model_in_use.held(deployment.model)
        if data is None:
            data = await self.models.pull(deployment.model, deadline_s=PULL_S)
        self._check_model(data)
        if deployment.restored is None:
            await self.participation.approved(header.round, deployment.epoch, deployment.confirmed)
        else:
            await self.participation.rolled_back(header.round)
        await self.model_in_use.install(number, deployment.model, data)
        restored = deployment.restored is not None
        log.info("model installed", deployment=number, model=deployment.model[:12], restored=restored)
        self.note(refusal="", deploying="")
        return True

    def _check(self, header: Header, deployment: Deployment) -> None:
        """Raises Refused unless a quorum of the epoch that it names stands behind it."""
        if deployment.restored is not None:
            self._check_restored(deployment, deployment.restored)
            return
        trust = self.post.trust
        check_quorum(
            trust.domain,
            task=trust.task,
            round=header.round,
            deployment=deployment.deployment,
            parent=deployment.parent,
            model=deployment.model,
            votes=deployment.votes,
            electorate=self.evidence.electorate_of(deployment.epoch),
        )

    def _check_restored(self, deployment: Deployment, restored: Restored) -> None:
        facts = restored.facts
        if (facts.deployment, facts.model, facts.epoch) != (
            deployment.deployment,
            deployment.model,
            deployment.epoch,
        ):
            raise Refused(Reason.DIGEST_MISMATCH, "the standings are of another deployment, model or epoch")
        self.evidence.check_standing(restored)

    def _check_model(self, data: bytes) -> None:
        try:
            tensors.from_bytes(data, self.task.manifest)
        except Malformed as error:
            raise Refused(Reason.BROKEN_MODEL, error.detail) from error

    # --- a canary's look at what it has installed ---

    def _look_after(self, deployment: Deployment, round_: int, tasks: asyncio.TaskGroup) -> None:
        """A canary begins to watch; any other watch ends: what it was about runs no more, or is everybody's."""
        if deployment.canaries is not None and deployment.deployment == self._watched:
            return  # the listener said it again
        if self._watching is not None:
            self._watching.cancel()
        self._watching, self._watched = None, 0
        if deployment.canaries is None:
            self.note(deploying="")
            return
        self._watched = deployment.deployment
        self._watching = tasks.create_task(self._watch(deployment, round_), name="canary")

    async def _watch(self, deployment: Deployment, round_: int) -> None:
        number = deployment.deployment
        self.note(deploying=f"trying deployment {number} out, as a canary")
        health = await self.health()
        outcome: Outcome = "healthy" if health.healthy else "unhealthy"
        log.info("tried out", deployment=number, outcome=outcome, why=health.reason)
        self.note(deploying=f"deployment {number} is {outcome} here: {health.reason}")
        while True:
            try:
                await self._report(_word(deployment, outcome, health.reason), round_)
            except BusUnavailable as error:
                log.warning("health not reported yet", why=str(error))
                await self.post.clock.sleep(RETRY_S)
            else:
                return

    async def _refuse(self, message: Envelope, error: PeerError) -> None:
        """Keep what runs, and say why: in the status, and, once, to the listener."""
        self.note(refusal=str(error))
        refused = message.header.body_digest, str(error)
        if refused == self._refused:
            return
        log.warning("deployment refused", why=str(error))
        try:
            deployment = decode(Deployment, message.body)
        except Malformed:
            return
        await self._report(_word(deployment, "refused", str(error)), message.header.round)
        self._refused = refused

    async def _report(self, report: Installed, round_: int) -> None:
        topic = self.post.topics.installed(self.post.identity.address)
        await self.post.say(topic, Kind.INSTALLED, encode(report), round_=round_)


def _word(deployment: Deployment, outcome: Outcome, reason: str = "") -> Installed:
    return Installed(deployment.deployment, deployment.model, outcome, reason)
