"""What the coordinator's steps share: its connections, its plan, and the few things that all of them do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from coordinator.ballots import Ballots
from coordinator.driver import as_json
from coordinator.letters import Letters
from coordinator.machine import Round
from coordinator.settings import RoundSection
from gemel.errors import BusUnavailable, PeerError
from gemel.exchange.admission import Terms
from gemel.exchange.chain_watch import ChainWatch, Parties
from gemel.exchange.electorates import Electorates
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.opened_sums import OpenedSums
from gemel.exchange.post import Post, detail_of, reason_of
from gemel.exchange.round_folder import RoundFolder
from gemel.exchange.transfers import Transfers
from gemel.host.workers import Workers
from gemel.learning.task import Task
from gemel.ports import Blobs, Chain, RoundRecord
from gemel.ports.trust_scores import TrustScores
from gemel.wire import envelope
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Kind
from gemel.wire.messages import Policy, Receipt, encode
from gemel.wire.types import NO_DIGEST, Address

RECEIPT_EXPIRY_S = 3600

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Office:
    """One coordinator's connections and plan."""

    post: Post
    transfers: Transfers
    mailbox: Mailbox
    chain: Chain
    watch: ChainWatch
    agents: Parties
    validators: Parties
    electorates: Electorates
    scores: TrustScores
    ballots: Ballots
    blobs: Blobs
    workers: Workers
    task: Task
    task_path: str
    reference: Path
    policy: Policy  # of every round that this coordinator opens
    plan: RoundSection
    state_dir: Path
    box_secret: bytes
    opened_sums: OpenedSums
    letters: Letters
    count_update: Callable[[str, str], None]  # (outcome, reason), for the metric
    statistics: bytes | None = None  # what M0 is normalised by

    @property
    def name(self) -> str:
        """The task's name, as topics and chain have it."""
        return self.post.trust.task

    def folder(self, round_: Round) -> RoundFolder:
        """Where the round is spooled."""
        return RoundFolder(self.state_dir, round_.number)

    def terms(self, round_: Round) -> Terms:
        """What updates of this round must fit."""
        return Terms(self.post.trust, round_.number, round_.base, self.policy)

    async def on_chain(self, round_: Round) -> RoundRecord:
        """The round as the chain has it."""
        return await self.chain.round(self.name, round_.number)

    async def announce(self, round_: Round, topic: str, kind: Kind, body: msgspec.Struct, part: str) -> None:
        """Sign, keep a copy for the audit, publish. A copy that is there already is published again as it is."""
        folder = self.folder(round_)
        try:
            message = await folder.read(part)
        except FileNotFoundError:
            signed = self.post.sign(kind, encode(body), round_=round_.number, base=round_.base, policy=round_.policy)
            message = envelope.pack(signed)
            await folder.write(part, message)
        await self.post.bus.publish(topic, message, expiry_s=self.plan.decide_s)

    async def archive(self, round_: Round) -> None:
        """Keep the round's state beside its messages, for report and audit."""
        await self.folder(round_).write("round.json", as_json(round_))

    async def receipt(
        self, number: int, device: Address, error: PeerError | None, frame: Transfer | None = None
    ) -> None:
        """Tell a device what became of its commitment or, named by its transfer, of its frame; and count it."""
        transfer = NO_DIGEST if frame is None else frame.digest
        if error is None:
            receipt = Receipt("accepted", transfer=transfer)
        else:
            receipt = Receipt("refused", reason_of(error), detail_of(error), transfer)
            log.warning("update refused", device=device, round=number, why=str(error))
        self.count_update(receipt.outcome, receipt.reason)
        await self.say_receipt(number, device, receipt)

    async def say_receipt(self, number: int, device: Address, receipt: Receipt) -> None:
        """Send a device its receipt, as far as the broker takes it."""
        topic = self.post.topics.receipt(device)
        try:
            await self.post.say(topic, Kind.RECEIPT, encode(receipt), round_=number, expiry_s=RECEIPT_EXPIRY_S)
        except BusUnavailable as unsaid:  # a courtesy: nothing waits for it
            log.warning("receipt not sent", device=device, round=number, why=str(unsaid))
