"""Takes part in rounds: trains on the agent's own windows, commits to the sealed update, reveals when listed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import structlog

from edge_agent.examples import Examples
from edge_agent.model_in_use import ModelInUse
from edge_agent.training import Job, SealedUpdate, train_and_seal
from gemel.errors import ConfigError, PeerError, Refused
from gemel.exchange import admission
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.post import Post
from gemel.exchange.transfers import Transfers, describe
from gemel.host.workers import Workers
from gemel.ports import Records
from gemel.wire import boxes, envelope
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import HEADER_BYTES, Envelope, Header, Kind
from gemel.wire.messages import Commitment, Context, Entry, Invitation, Receipt, Roster, decode
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Vector

CONTEXT_BYTES = 16 << 20
_KIND = "participation"

log = structlog.get_logger(__name__)


class Pending(msgspec.Struct, frozen=True):
    """An update whose fate is open: its residual counts only if it enters a model."""

    round: int
    transfer: Transfer


@dataclass(slots=True)
class Participant:
    """One agent's side of the rounds. Sees nobody else's data or update."""

    post: Post
    transfers: Transfers
    mailbox: Mailbox
    records: Records
    examples: Examples
    model_in_use: ModelInUse
    workers: Workers
    task_path: str
    state_dir: Path
    note: Callable[..., None]  # fields for the agent's status
    _invited: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        """Hear coordinator and custodian; call once."""
        topics, trust = self.post.topics, self.post.trust
        coordinator, custodian = {trust.coordinator.address}, {trust.custodian.address}
        await self.post.hear(topics.context, Kind.CONTEXT, custodian, self.mailbox.put)
        await self.post.hear(topics.roster, Kind.ROSTER, coordinator, self.mailbox.put)
        await self.post.hear(topics.invitation, Kind.INVITATION, coordinator, self._on_invitation)
        own = topics.receipt(self.post.identity.address)
        await self.post.hear(own, Kind.RECEIPT, coordinator, self._on_receipt)

    async def _on_invitation(self, message: Envelope) -> None:
        await self.records.put(_KIND, "invitation", envelope.pack(message))
        self._invited.set()

    async def run(self) -> None:
        """Answer invitations, the latest first, one at a time."""
        while True:
            self._invited.clear()
            stored = await self.records.get(_KIND, "invitation")
            done = int(await self.records.get(_KIND, "done") or b"0")
            if stored is None or Header.parse(stored).round <= done:
                await self._invited.wait()
                continue
            message = Envelope(Header.parse(stored), stored[HEADER_BYTES:])
            try:
                await self._take_part(message)
            except (PeerError, ConfigError) as error:
                log.warning("not in this round", round=message.header.round, why=str(error))
                self.note(round=message.header.round, participation=str(error))
            await self.records.put(_KIND, "done", str(message.header.round).encode())
            await self.mailbox.clear_through(message.header.round)

    async def _take_part(self, message: Envelope) -> None:
        header, invitation = message.header, decode(Invitation, message.body)
        if invitation.policy.digest != header.policy:
            raise Refused(Reason.WRONG_POLICY, "the invitation's policy is not the one it is signed for")
        await self._forget_pending()
        until_commit = self._left_s(invitation.commit_until_ms)
        try:
            async with asyncio.timeout(until_commit):
                base = await self.model_in_use.wait_for(header.base)
                context = await self._context(header.round, invitation)
                job = await self._job(header, invitation, base, context)
                if job is None:
                    return
                sealed: SealedUpdate = await self.workers.run(train_and_seal, job)
                wrapped, commitment, entry = await self._frame(header, sealed)
                await self._remember(Pending(header.round, entry.transfer), sealed.residual)
                await self._say_commitment(header, commitment)
        except TimeoutError:
            raise Refused(Reason.LATE, "the list closed before our update was ready") from None
        self.note(
            round=header.round,
            samples=sealed.samples,
            loss=sealed.loss,
            accuracy=sealed.accuracy,
            change=sealed.change,
            frame_bytes=len(wrapped),
            participation="committed",
        )
        try:
            async with asyncio.timeout(self._left_s(invitation.reveal_until_ms)):
                await self._reveal(header.round, entry, wrapped)
        except TimeoutError:
            raise Refused(Reason.LATE, "no roster came before the round's end") from None

    def _left_s(self, until_ms: int) -> float:
        return (until_ms - self.post.clock.now_ms()) / 1000

    async def _context(self, round_: int, invitation: Invitation) -> bytes:
        """The sealing context that the custodian itself announced; the coordinator cannot slip in one of its own."""
        announced = decode(Context, (await self.mailbox.take(Kind.CONTEXT, round_)).body).context
        if announced != invitation.context:
            raise Refused(Reason.DIGEST_MISMATCH, "the invitation's context is not the custodian's")
        return await self.transfers.fetch(
            self.post.trust.custodian.address,
            announced,
            max_bytes=CONTEXT_BYTES,
            deadline_s=max(1.0, self._left_s(invitation.commit_until_ms)),
        )

    async def _job(self, header: Header, invitation: Invitation, base: bytes, context: bytes) -> Job | None:
        windows = await self.examples.until(invitation.data_until_ms)
        if len(windows) == 0:
            log.info("nothing to train on yet", round=header.round)
            return None
        newest = np.arange(max(0, len(windows) - invitation.policy.sealing.weight_cap), len(windows))
        return Job(
            task_path=self.task_path,
            base=base,
            windows=windows.take(newest),
            policy=invitation.policy,
            context=context,
            residual=await asyncio.to_thread(self._read_residual),
            seed=_own_seed(invitation.seed, self.post.identity.address),
            round=header.round,
        )

    async def _frame(self, header: Header, sealed: SealedUpdate) -> tuple[bytes, Commitment, Entry]:
        update = self.post.sign(
            Kind.UPDATE,
            sealed.body,
            round_=header.round,
            base=header.base,
            policy=header.policy,
            weight=sealed.samples,
        )
        readers = [c.box for c in self.post.trust.collectors]
        wrapped = await asyncio.to_thread(boxes.wrap, envelope.pack(update), readers)
        transfer = describe(wrapped)
        entry = Entry(self.post.identity.address, update.header.body_digest, sealed.samples, transfer)
        return wrapped, Commitment(update.header.pack(), transfer), entry

    async def _say_commitment(self, header: Header, commitment: Commitment) -> None:
        await self.post.say(
            self.post.topics.commitment(self.post.identity.address),
            Kind.COMMITMENT,
            commitment.pack(),
            round_=header.round,
            base=header.base,
            policy=header.policy,
        )

    async def _reveal(self, round_: int, entry: Entry, wrapped: bytes) -> None:
        """Offer the frame once the closed list names it: nobody can answer with a mauled copy any more."""
        roster = decode(Roster, (await self.mailbox.take(Kind.ROSTER, round_)).body)
        if admission.root_of(roster.entries) != roster.root or entry not in roster.entries:
            raise Refused(Reason.NO_COMMITMENT, "the roster does not name our update")
        await self.transfers.offer(wrapped)
        self.note(round=round_, participation="revealed")

    async def _on_receipt(self, message: Envelope) -> None:
        receipt = decode(Receipt, message.body)
        outcome = receipt.outcome if receipt.outcome == "accepted" else f"refused: {receipt.reason} {receipt.detail}"
        log.info("receipt", round=message.header.round, outcome=outcome)
        self.note(round=message.header.round, participation=outcome.strip())
        if receipt.outcome == "refused":
            await self._forget_pending()

    # --- rounding residuals: they advance only with an update that entered a model -------------------

    def _residual_file(self, name: str) -> Path:
        return self.state_dir / f"residual-{name}.npy"

    def _read_residual(self) -> Vector | None:
        path = self._residual_file("kept")
        if not path.exists():
            return None
        residual: Vector = np.load(path, allow_pickle=False)
        return residual

    async def _remember(self, pending: Pending, residual: Vector) -> None:
        await asyncio.to_thread(np.save, self._residual_file("pending"), residual)
        await self.records.put(_KIND, "pending", msgspec.json.encode(pending))

    async def _forget_pending(self) -> None:
        """The last update entered no model (or its fate is settled): restore the residual before it."""
        stored = await self.records.get(_KIND, "pending")
        if stored is not None:
            await self.transfers.withdraw(msgspec.json.decode(stored, type=Pending).transfer)
            await self.records.drop(_KIND, "pending")

    async def deployed(self, round_: int) -> None:
        """The model of `round_` is installed: if our update is in it, its residual counts from now on."""
        stored = await self.records.get(_KIND, "pending")
        if stored is not None and msgspec.json.decode(stored, type=Pending).round == round_:
            pending, kept = self._residual_file("pending"), self._residual_file("kept")
            await asyncio.to_thread(pending.replace, kept)
            await self._forget_pending()


def _own_seed(seed: int, address: str) -> int:
    """Each agent shuffles its windows in its own order, the same again when the round is replayed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{address}".encode()).digest()[:4], "big")
