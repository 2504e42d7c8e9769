"""Takes part in rounds: trains on the agent's own windows, commits to the sealed update, reveals when listed."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import structlog

from edge_agent.learning.encrypted_training import EncryptedTraining
from edge_agent.learning.evidence import Evidence
from edge_agent.learning.examples import Examples
from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.learning.training import Job, SealedUpdate, train_and_seal
from gemel.errors import ConfigError, PeerError, Refused, Unavailable
from gemel.exchange import admission
from gemel.exchange.admission import Terms
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.post import Post
from gemel.exchange.round_contexts import announced_context, announced_training
from gemel.exchange.transfers import Transfers, describe
from gemel.host.workers import WorkerDied, Workers
from gemel.ports import Records
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.letters import sign_letter
from gemel.wire import boxes, envelope, merkle, tensors
from gemel.wire.attestations import SumAttestation, check_confirmed
from gemel.wire.envelope import HEADER_BYTES, Envelope, Header, Kind
from gemel.wire.messages import Commitment, ConfirmedSum, Entry, Invitation, LetterReceipt, Receipt, Roster, decode
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Vector

_KIND = "participation"

log = structlog.get_logger(__name__)


class Pending(msgspec.Struct, frozen=True):
    """An update whose fate is open: its residual counts only if it enters a model."""

    round: int
    commitment: bytes  # packed
    letters: tuple[bytes, ...] = ()  # one-time keys: signed, one for each custodian, in the order of trust.json
    included: Receipt | None = None  # that it is in the sum: worth what its proof is
    confirmed: ConfirmedSum | None = None  # the sum behind the model that was approved
    epoch: int = 0  # whose electorate confirmed it


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
    evidence: Evidence
    encrypted: EncryptedTraining | None  # where the task is a linear head
    _invited: asyncio.Event = field(default_factory=asyncio.Event)
    _fate: asyncio.Lock = field(default_factory=asyncio.Lock)  # of the pending update: one step at a time

    async def listen(self) -> None:
        """Hear coordinator and custodians; call once."""
        topics, trust = self.post.topics, self.post.trust
        coordinator = {trust.coordinator.address}
        await self.post.hear(topics.context(), Kind.CONTEXT, trust.custodian_addresses, self.mailbox.put)
        await self.post.hear(topics.roster, Kind.ROSTER, coordinator, self.mailbox.put)
        await self.post.hear(topics.invitation, Kind.INVITATION, coordinator, self._on_invitation)
        own = self.post.identity.address
        await self.post.hear(topics.receipt(own), Kind.RECEIPT, coordinator, self._on_receipt)
        if self.encrypted is not None:
            await self.encrypted.listen()
        custodians, of_letters = trust.custodian_addresses, topics.letter_receipt("+", own)
        await self.post.hear(of_letters, Kind.LETTER_RECEIPT, custodians, self._on_letter_receipt)

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
            except (PeerError, ConfigError, Unavailable, WorkerDied) as error:
                log.warning("not in this round", round=message.header.round, why=str(error))
                self.note(round=message.header.round, participation=str(error))
            await self.records.put(_KIND, "done", str(message.header.round).encode())
            await self.transfers.drop_unfinished()
            await self.mailbox.clear_through(message.header.round)

    async def _take_part(self, message: Envelope) -> None:
        header, invitation = message.header, decode(Invitation, message.body)
        if invitation.policy.digest != header.policy:
            raise Refused(Reason.WRONG_POLICY, "the invitation's policy is not the one it is signed for")
        await self.evidence.require_policy(header.policy)
        pending = await self._committed(header.round) or await self._train_in_time(header, invitation)
        if pending is None:
            return
        commitment = Commitment.parse(pending.commitment)
        await self._send_letters(header, pending.letters)
        await self._say_commitment(header, commitment)
        self.note(round=header.round, participation="committed")
        try:
            async with asyncio.timeout(self._left_s(invitation.reveal_until_ms)):
                await self._reveal(header.round, commitment)
        except TimeoutError:
            await self._forget_pending()
            raise Refused(Reason.LATE, "no roster came before the round's end") from None

    async def _committed(self, round_: int) -> Pending | None:
        """What was promised in this round before a crash: to train anew would break it."""
        stored = await self.records.get(_KIND, "pending")
        if stored is None or not self._frame_file.exists():
            return None
        pending = msgspec.json.decode(stored, type=Pending)
        return pending if pending.round == round_ else None

    async def _train_in_time(self, header: Header, invitation: Invitation) -> Pending | None:
        """As `_train`. Raises Refused: late, or wrong_base where what we should train from is not installed here."""
        try:
            async with asyncio.timeout(self._left_s(invitation.commit_until_ms)):
                return await self._train(header, invitation)
        except TimeoutError:
            in_use = self.model_in_use.current()
            if in_use is None or in_use.digest != header.base:
                raise Refused(Reason.WRONG_BASE, f"{header.base[:12]} is not the model in use") from None
            raise Refused(Reason.LATE, "the list closed before our update was ready") from None

    async def _train(self, header: Header, invitation: Invitation) -> Pending | None:
        """Train and seal; None where there is nothing to train on yet."""
        base = await self.model_in_use.wait_for(header.base)  # with it came the last update's fate
        await self._forget_pending()
        context = await self._context(header, invitation, base)
        job = await self._job(header, invitation, base, context)
        if job is None:
            return None
        sealed = await self._sealed(header, job)
        wrapped, commitment = await self._frame(header, sealed)
        pending = Pending(header.round, commitment.pack(), self._signed_letters(sealed, context))
        await self._remember(pending, wrapped, sealed.residual)
        self.note(
            round=header.round,
            samples=sealed.samples,
            loss=sealed.loss,
            accuracy=sealed.accuracy,
            change=sealed.change,
            frame_bytes=len(wrapped),
        )
        return pending

    async def _sealed(self, header: Header, job: Job) -> SealedUpdate:
        if not job.policy.training.encrypted:
            return await self.workers.run(train_and_seal, job)
        if self.encrypted is None:
            raise Refused(Reason.WRONG_POLICY, "training.encrypted is for linear heads, and this task is none")
        return await self.encrypted.train(job, await announced_training(header.round, self.mailbox))

    def _left_s(self, until_ms: int) -> float:
        return (until_ms - self.post.clock.now_ms()) / 1000

    async def _context(self, header: Header, invitation: Invitation, base: bytes) -> bytes:
        """The sealing context that the custodians announced; the coordinator cannot slip in one of its own."""
        return await announced_context(
            Terms(self.post.trust, header.round, header.base, invitation.policy),
            tensors.manifest_of(tensors.from_bytes(base)).size,
            self.mailbox,
            self.transfers,
            deadline_s=max(1.0, self._left_s(invitation.commit_until_ms)),
            named=invitation.context,
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
            agent=self.post.identity.address,
        )

    async def _frame(self, header: Header, sealed: SealedUpdate) -> tuple[bytes, Commitment]:
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
        return wrapped, Commitment(update.header.pack(), describe(wrapped))

    def _signed_letters(self, sealed: SealedUpdate, context: bytes) -> tuple[bytes, ...]:
        if not sealed.letters:
            return ()
        round_ = RoundContext.parse(context)
        return tuple(sign_letter(letter, self.post.identity, round_) for letter in sealed.letters)

    async def _send_letters(self, header: Header, letters: Sequence[bytes]) -> None:
        """One-time keys: to each custodian its share of our key, before anybody could count on the update."""
        own = self.post.identity.address
        for custodian, letter in zip(self.post.trust.custodians, letters, strict=bool(letters)):
            topic = self.post.topics.letter(custodian.address, own)
            await self.post.say(
                topic, Kind.LETTER, letter, round_=header.round, base=header.base, policy=header.policy
            )

    async def _on_letter_receipt(self, message: Envelope) -> None:
        receipt = decode(LetterReceipt, message.body)
        if receipt.outcome == "refused" and receipt.agent == self.post.identity.address:
            sender, why = message.header.sender, f"{receipt.reason} {receipt.detail}".strip()
            log.warning("letter refused", round=message.header.round, custodian=sender, why=why)
            self.note(round=message.header.round, participation=f"letter refused: {why}")

    async def _say_commitment(self, header: Header, commitment: Commitment) -> None:
        await self.post.say(
            self.post.topics.commitment(self.post.identity.address),
            Kind.COMMITMENT,
            commitment.pack(),
            round_=header.round,
            base=header.base,
            policy=header.policy,
        )

    async def _reveal(self, round_: int, commitment: Commitment) -> None:
        """Offer the frame once the closed list names it: nobody can answer with a mauled copy any more."""
        update = Header.parse(commitment.update_header)
        entry = Entry(update.sender, update.body_digest, update.weight, commitment.transfer)
        roster = decode(Roster, (await self.mailbox.take(Kind.ROSTER, round_)).body)
        if admission.root_of(roster.entries) != roster.root or entry not in roster.entries:
            await self._forget_pending()
            raise Refused(Reason.NO_COMMITMENT, "the roster does not name our update")
        await self.transfers.offer(await asyncio.to_thread(self._frame_file.read_bytes))
        self.note(round=round_, participation="revealed")

    async def _on_receipt(self, message: Envelope) -> None:
        receipt = decode(Receipt, message.body)
        outcome = receipt.outcome if receipt.outcome != "refused" else f"refused: {receipt.reason} {receipt.detail}"
        log.info("receipt", round=message.header.round, outcome=outcome)
        async with self._fate:
            pending = await self._pending()
            if pending is None or Commitment.parse(pending.commitment).transfer.digest != receipt.transfer:
                return  # for what somebody else said in our name; a commitment that fails is not on the roster
            self.note(round=pending.round, participation=outcome.strip())
            if receipt.outcome == "refused":
                await self._forget_pending()
            elif receipt.outcome == "included":
                await self._settle(msgspec.structs.replace(pending, included=receipt))

    # --- rounding residuals: they advance only with an update that is proven to have entered a model ---

    def _residual_file(self, name: str) -> Path:
        return self.state_dir / f"residual-{name}.npy"

    def _read_residual(self) -> Vector | None:
        path = self._residual_file("kept")
        if not path.exists():
            return None
        residual: Vector = np.load(path, allow_pickle=False)
        return residual

    @property
    def _frame_file(self) -> Path:
        """The wrapped frame that was committed to; offered only once the list is closed."""
        return self.state_dir / "frame-pending"

    async def _remember(self, pending: Pending, wrapped: bytes, residual: Vector) -> None:
        """Before anybody hears of it: after a crash the same letters and frame must go out, and no others."""
        await asyncio.to_thread(np.save, self._residual_file("pending"), residual)
        await asyncio.to_thread(self._frame_file.write_bytes, wrapped)
        await self.records.put(_KIND, "pending", msgspec.json.encode(pending))

    async def _forget_pending(self) -> None:
        """The last update entered no model, or its fate is settled: the residual from before it counts again."""
        stored = await self.records.get(_KIND, "pending")
        if stored is None:
            return
        await self.transfers.withdraw(Commitment.parse(msgspec.json.decode(stored, type=Pending).commitment).transfer)
        await asyncio.to_thread(self._frame_file.unlink, missing_ok=True)
        await self.records.drop(_KIND, "pending")

    async def _pending(self) -> Pending | None:
        stored = await self.records.get(_KIND, "pending")
        return None if stored is None else msgspec.json.decode(stored, type=Pending)

    async def approved(self, round_: int, epoch: int, confirmed: ConfirmedSum | None) -> None:
        """The model of `round_` is approved, and stands on this sum, which the electorate of `epoch` confirmed.

        If our update is in it, its residual counts.
        """
        async with self._fate:
            pending = await self._pending()
            if pending is not None and pending.round == round_ and confirmed is not None:
                await self._settle(msgspec.structs.replace(pending, confirmed=confirmed, epoch=epoch))

    async def _settle(self, pending: Pending) -> None:
        """Advance the residual once validators' confirmation and the way from our update to it are both here.

        Whichever comes last. What is missing, or does not hold, leaves the residual as it was: rounding is then
        repaid twice at worst, and so is what was clipped.
        """
        await self.records.put(_KIND, "pending", msgspec.json.encode(pending))
        if pending.included is None or pending.confirmed is None:
            return
        try:
            self._check_included(pending, pending.included, pending.confirmed)
        except Refused as error:
            log.warning("our update is not proven to be in the model", round=pending.round, why=str(error))
            self.note(round=pending.round, participation=str(error))
            return
        if self._residual_file("pending").exists():  # it is the kept one already, where a crash came in between
            await asyncio.to_thread(self._advance_residual)
        await self.records.put(_KIND, "settled", str(pending.round).encode())
        await self._forget_pending()

    def _advance_residual(self) -> None:
        kept, before = self._residual_file("kept"), self._residual_file("before")
        if kept.exists():
            shutil.copyfile(kept, before)  # whole before the next step, or copied again
        else:
            before.unlink(missing_ok=True)
        self._residual_file("pending").replace(kept)

    async def rolled_back(self, round_: int) -> None:
        """The model of `round_` was given up, which is a rejection that came late: the residual from before counts.

        So it is for the latest round alone whose update counted; of one that went before, rounding is repaid twice
        at worst.
        """
        async with self._fate:
            pending = await self._pending()
            if pending is not None and pending.round == round_:
                if not self._residual_file("pending").exists():  # a crash came as it was settled
                    await self.records.put(_KIND, "settled", str(round_).encode())
                await self._forget_pending()
            if await self.records.get(_KIND, "settled") == str(round_).encode():
                await asyncio.to_thread(self._restore_residual)
                await self.records.drop(_KIND, "settled")

    def _restore_residual(self) -> None:
        """The same when it is done again."""
        kept, before = self._residual_file("kept"), self._residual_file("before")
        if not before.exists():
            kept.unlink(missing_ok=True)
            return
        copy = self._residual_file("restored")
        shutil.copyfile(before, copy)
        copy.replace(kept)

    def _check_included(self, pending: Pending, included: Receipt, confirmed: ConfirmedSum) -> None:
        """Raises Refused unless a quorum of that epoch's validators confirmed a sum with our update in it."""
        trust, update = self.post.trust, Header.parse(Commitment.parse(pending.commitment).update_header)
        attested = SumAttestation(
            trust.task, pending.round, confirmed.updates_root, confirmed.sum, confirmed.owners, confirmed.weight
        )
        electorate = self.evidence.electorate_of(pending.epoch)
        check_confirmed(trust.domain, attested, confirmed.confirmations, electorate)
        leaf = merkle.leaf(update.sender, update.body_digest, update.weight, included.level)
        if not merkle.verify(confirmed.updates_root, leaf, [bytes.fromhex(each) for each in included.proof]):
            raise Refused(Reason.NO_COMMITMENT, "the proof does not lead from our update to the confirmed root")


def _own_seed(seed: int, address: str) -> int:
    """Each agent shuffles its windows in its own order, the same again when the round is replayed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{address}".encode()).digest()[:4], "big")
