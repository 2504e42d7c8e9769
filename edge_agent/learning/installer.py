"""Installs what a quorum of the pinned validators approved, and nothing else, whoever says so on the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from edge_agent.learning.model_in_use import ModelInUse
from gemel.errors import BusUnavailable, Malformed, PeerError, Refused
from gemel.exchange.model_pull import ModelPull
from gemel.exchange.post import Post, reason_of
from gemel.learning.task import Task
from gemel.ports import Records
from gemel.wire import envelope, tensors
from gemel.wire.attestations import check_quorum
from gemel.wire.envelope import HEADER_BYTES, Envelope, Header, Kind
from gemel.wire.messages import ConfirmedSum, Deployment, Installed, decode, encode
from gemel.wire.reasons import Reason

PULL_S = 60.0
RETRY_S = 5.0
_KIND = "installation"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Installer:
    """Follows the deployment topic. Trusts the pinned validators; neither broker, listener nor coordinator."""

    post: Post
    models: ModelPull
    records: Records
    model_in_use: ModelInUse
    task: Task
    on_approved: Callable[
        [int, int, ConfirmedSum | None], Awaitable[None]
    ]  # before it runs: its round, epoch and sum
    note: Callable[..., None]  # fields for the agent's status
    _announced: asyncio.Event = field(default_factory=asyncio.Event)

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
        while True:
            self._announced.clear()
            stored = await self.records.get(_KIND, "announced")
            if stored is None or stored == settled:
                await self._announced.wait()
                continue
            message = Envelope(Header.parse(stored), stored[HEADER_BYTES:])
            try:
                if await self._settle(message):
                    settled = stored
                    continue
            except BusUnavailable as error:
                log.warning("not reported yet", why=str(error))
            await self.post.clock.sleep(RETRY_S)

    async def _settle(self, message: Envelope) -> bool:
        """Install or refuse, and report; False where another try may go better."""
        try:
            await self._install(message)
        except PeerError as error:
            await self._refuse(message, error)
            return reason_of(error) != Reason.MISSING  # the bytes may come yet
        return True

    async def _install(self, message: Envelope) -> None:
        deployment = decode(Deployment, message.body)
        current = self.model_in_use.current()
        if current is None or (current.deployment, current.digest) != (deployment.deployment, deployment.model):
            if current is not None and deployment.deployment <= current.deployment:
                raise Refused(Reason.NOT_ABOVE, f"deployment {deployment.deployment}, we run {current.deployment}")
            self._check_votes(message.header, deployment)
            data = await self.models.pull(deployment.model, deadline_s=PULL_S)
            self._check_model(data)
            await self.on_approved(message.header.round, deployment.epoch, deployment.confirmed)
            await self.model_in_use.install(deployment.deployment, deployment.model, data)
            log.info("model installed", deployment=deployment.deployment, model=deployment.model[:12])
            self.note(refusal="")
        await self._report(Installed(deployment.deployment, deployment.model, "installed"), message.header.round)

    def _check_votes(self, header: Header, deployment: Deployment) -> None:
        trust = self.post.trust
        check_quorum(
            trust.domain,
            task=trust.task,
            round=header.round,
            deployment=deployment.deployment,
            parent=deployment.parent,
            model=deployment.model,
            votes=deployment.votes,
            validators=trust.validator_addresses,
            quorum=trust.quorum,
        )

    def _check_model(self, data: bytes) -> None:
        try:
            tensors.from_bytes(data, self.task.manifest)
        except Malformed as error:
            raise Refused(Reason.BROKEN_MODEL, error.detail) from error

    async def _refuse(self, message: Envelope, error: PeerError) -> None:
        """Keep what runs, and say why: in the status, and to the listener."""
        log.warning("deployment refused", why=str(error))
        self.note(refusal=str(error))
        try:
            deployment = decode(Deployment, message.body)
        except Malformed:
            return
        report = Installed(deployment.deployment, deployment.model, "refused", str(error))
        await self._report(report, message.header.round)

    async def _report(self, report: Installed, round_: int) -> None:
        topic = self.post.topics.installed(self.post.identity.address)
        await self.post.say(topic, Kind.INSTALLED, encode(report), round_=round_)
