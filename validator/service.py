"""Round by round: recompute the sum, compute and measure the candidate, and vote on both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from gemel.errors import ChainReverted, PeerError, Refused, Unavailable
from gemel.exchange import admission
from gemel.exchange.admission import Terms
from gemel.exchange.chain_watch import RETRY_S, ChainWatch, Parties, RoundEnded
from gemel.exchange.device_results import scores_at
from gemel.exchange.electorates import Electorates, electorate_of
from gemel.exchange.frame_intake import Intake, add_up, take_in
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.model_pull import ModelPull
from gemel.exchange.opened_sums import OpenedSums, SealedSum
from gemel.exchange.post import Post
from gemel.exchange.round_contexts import announced_context
from gemel.exchange.round_folder import RoundFolder
from gemel.exchange.transfers import Transfers
from gemel.host.workers import Workers
from gemel.learning.measuring import check_normalisation, measure
from gemel.learning.task import Measured, Task
from gemel.ports import Blobs, Chain, RoundRecord, RoundState
from gemel.ports.trust_scores import TrustScores
from gemel.sealing.candidate import candidate_model
from gemel.wire import boxes
from gemel.wire.attestations import ModelAttestation, SumAttestation
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Kind
from gemel.wire.messages import Aggregate, Candidate, Entry, Policy, Roster, decode
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, Digest, Ppm, ppm, sha256
from validator.reporting import Reporting
from validator.signing import SignedOnce
from validator.voting import Voting

FETCH_S = 60.0
SILENCE_S = 5.0  # after which an agent's frame is asked for elsewhere: one silent agent must not end the round
PAYLOAD_BYTES = 1 << 30

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Validator:
    """Believes nobody: sums it adds itself, models it computes and measures itself, on a reference set of its own."""

    post: Post
    transfers: Transfers
    mailbox: Mailbox
    models: ModelPull
    chain: Chain
    watch: ChainWatch
    agents: Parties
    blobs: Blobs
    workers: Workers
    task: Task
    task_path: str
    reference: Path
    policy: Policy
    state_dir: Path
    box_secret: bytes
    opened_sums: OpenedSums
    electorates: Electorates
    scores: TrustScores
    signed: SignedOnce
    voting: Voting
    reporting: Reporting
    statistics: bytes | None = None  # what M0 has to be normalised by

    @property
    def _name(self) -> str:
        return self.post.trust.task

    async def listen(self) -> None:
        """Hear coordinator and custodians; what they say is checked against the chain before it counts."""
        topics, trust = self.post.topics, self.post.trust
        coordinator, custodians = {trust.coordinator.address}, trust.custodian_addresses
        await self.post.hear(topics.roster, Kind.ROSTER, coordinator, self.mailbox.put)
        await self.post.hear(topics.aggregate, Kind.AGGREGATE, coordinator, self.mailbox.put)
        await self.post.hear(topics.candidate, Kind.CANDIDATE, coordinator, self.mailbox.put)
        await self.post.hear(topics.context(), Kind.CONTEXT, custodians, self.mailbox.put)
        await self.post.hear(topics.key_total(), Kind.KEY_TOTAL, custodians, self.mailbox.put)
        await self.post.hear(topics.opened(), Kind.OPENED, custodians, self.mailbox.put)
        await self.models.listen()

    async def run(self) -> None:
        """Serve every round from the last one on, for ever."""
        number = (await self.chain.task(self._name)).last_round
        async with asyncio.TaskGroup() as reports:
            while True:
                self.reporting.number = number
                if not await self._vote_in(number):
                    continue
                decided = await self.watch.reached(number, RoundState.APPROVED, even_if_ended=True)
                prepared = await self.reporting.prepare(number, decided)
                reports.create_task(self.reporting.report(number, prepared), name=f"report {number}")
                await RoundFolder(self.state_dir, number).drop_spool()
                await self.transfers.drop_unfinished()
                await self.mailbox.clear_through(number)
                number += 1

    async def _vote_in(self, number: int) -> bool:
        """Do our part of a round, as far as it goes; False where it is to be tried once more."""
        first = RoundState.MEASURED if number == 0 else RoundState.OPEN
        record = await self.watch.reached(number, first, even_if_ended=True)
        try:
            electorate = await electorate_of(self.electorates, self.chain, record.epoch)
            if self.post.identity.address not in electorate.addresses:
                log.info("no vote", number=number, why=f"we are not elected for epoch {record.epoch}")
                return True
            work = self._genesis() if number == 0 else self._serve(number)
            await self.watch.before_verdict(number, work)
        except RoundEnded as ended:
            log.info("round ended", number=number, state=ended.state.name.lower())
        except (PeerError, ChainReverted) as error:
            log.warning("no vote", number=number, why=str(error))
        except Unavailable as error:
            log.warning("once more", number=number, why=str(error), retry_s=RETRY_S)
            await self.post.clock.sleep(RETRY_S)
            return False
        return True

    # --- M0 -------------------------------------------------------------------------------------------

    async def _genesis(self) -> None:
        record = await self.watch.reached(0, RoundState.MEASURED)
        if record.state != RoundState.MEASURED or await self._voted_before(0, record):
            return
        announced = decode(Candidate, (await self.mailbox.take(Kind.CANDIDATE, 0)).body)
        wrapped = await self._from_coordinator(announced.transfer)
        m0 = await asyncio.to_thread(boxes.unwrap, wrapped, self.box_secret)
        if sha256(m0) != record.model:
            raise Refused(Reason.DIGEST_MISMATCH, "M0 is not the model on chain")
        await self.workers.run(check_normalisation, self.task_path, m0, self.statistics)
        await self.blobs.put(m0)
        measured = await self._measure(m0)
        await self._vote(0, record, ppm(measured.accuracy), 0, approved=True)

    # --- the sum --------------------------------------------------------------------------------------

    async def _serve(self, number: int) -> None:
        record = await self.watch.reached(number, RoundState.OPEN)
        if record.policy != self.policy.digest:
            raise Refused(Reason.WRONG_POLICY, f"the round's policy is {record.policy[:12]}, not the pinned one")
        record = await self.watch.reached(number, RoundState.AGGREGATED)
        if record.state == RoundState.MEASURED and await self._voted_before(number, record):
            return
        aggregate = decode(Aggregate, (await self.mailbox.take(Kind.AGGREGATE, number)).body)
        if record.state <= RoundState.CONFIRMED:
            await self._confirm_sum(number, record, aggregate)
        record = await self.watch.reached(number, RoundState.OPENED)
        opened = await self._opened(number, record, aggregate)
        record = await self.watch.reached(number, RoundState.MEASURED)
        if record.state == RoundState.MEASURED:
            await self._judge(number, record, opened)

    async def _confirm_sum(self, number: int, record: RoundRecord, aggregate: Aggregate) -> None:
        stored = await self.signed.stored_sum(self._name, number)
        proposed = (record.updates_root, record.sum_digest, record.owners, record.weight)
        if stored and (stored.updates_root, stored.sum_digest, stored.owners, stored.weight) == proposed:
            await self.voting.confirm(stored)  # added and signed before a crash
            return
        roster = decode(Roster, (await self.mailbox.take(Kind.ROSTER, number)).body)
        await self.agents.refresh(self.chain)
        devices = [entry.device for entry in aggregate.entries]
        scores = await scores_at(self.scores, self.policy, devices, record.opened_block)
        owners = self._check_lists(record, roster, aggregate, scores)
        folder, terms = RoundFolder(self.state_dir, number), Terms(self.post.trust, number, record.base, self.policy)
        context = await self._context(terms)
        intake = Intake(terms, self.task.manifest.size, sha256(context), self.box_secret)
        collecting = (self._collect(folder, entry, intake) for entry in aggregate.entries)
        for refusal in await asyncio.gather(*collecting, return_exceptions=True):
            if refusal is not None:
                raise refusal  # the first, by itself: a group of them would pass as our own fault
        frames = [(folder.frames / entry.device, entry.level) for entry in aggregate.entries]
        total = await self.workers.run(
            add_up, context, self.policy.sealing, self.task.manifest.size, frames, folder.sum
        )
        if total.digest != record.sum_digest:
            folder.sum.unlink()
            raise Refused(Reason.DIGEST_MISMATCH, "the sum on chain is not the sum of these frames")
        log.info("sum recomputed", number=number, updates=len(frames), sum=total.digest[:12])
        await self.voting.confirm(
            SumAttestation(self._name, number, record.updates_root, record.sum_digest, owners, record.weight)
        )

    def _check_lists(
        self, record: RoundRecord, roster: Roster, aggregate: Aggregate, scores: Mapping[Address, Ppm]
    ) -> int:
        """How many owners stand behind the sum. Raises Refused where lists, chain and registry do not agree."""
        if admission.root_of(roster.entries) != record.roster_root:
            raise Refused(Reason.DIGEST_MISMATCH, "the roster is not the one whose root is on chain")
        if not set(map(admission.listed, aggregate.entries)) <= set(roster.entries):
            raise Refused(Reason.NO_COMMITMENT, "an update is in the sum that was not on the list")
        if admission.root_of(aggregate.entries) != record.updates_root:
            raise Refused(Reason.DIGEST_MISMATCH, "the updates are not those whose root is on chain")
        strangers = [e.device for e in aggregate.entries if e.device not in self.agents]
        if strangers or len({e.device for e in aggregate.entries}) != len(aggregate.entries):
            raise Refused(Reason.UNREGISTERED, f"{strangers or 'a device twice'}")
        owners = len({self.agents.records[e.device].owner for e in aggregate.entries})
        if admission.weighed(aggregate.entries, self.policy, scores) != aggregate.entries:
            raise Refused(Reason.OVERWEIGHT, "the updates are not weighed as the policy says")
        if owners != record.owners or admission.weight_of(aggregate.entries) != record.weight:
            raise Refused(Reason.OVERWEIGHT, "owners or weight on chain are not those of the updates")
        return owners

    async def _collect(self, folder: RoundFolder, entry: Entry, intake: Intake) -> None:
        """The validator pulls frames from the agents itself; of one that is silent, the coordinator has its frame.

        Whoever hands it over: the digest was listed, and the agent signed what is in it.
        """
        try:
            await self._take_in(entry.device, SILENCE_S, folder, entry, intake)
        except Refused as error:
            if error.reason != Reason.MISSING:
                raise
            await self._take_in(self.post.trust.coordinator.address, FETCH_S, folder, entry, intake)

    async def _take_in(
        self, holder: Address, deadline_s: float, folder: RoundFolder, entry: Entry, intake: Intake
    ) -> None:
        async with self.transfers.fetched(
            holder, entry.transfer, max_bytes=entry.transfer.length, deadline_s=deadline_s
        ) as wrapped:
            await self.workers.run(take_in, wrapped, folder.frames / entry.device, entry, intake)

    async def _context(self, terms: Terms) -> bytes:
        return await announced_context(
            terms, self.task.manifest.size, self.mailbox, self.transfers, deadline_s=FETCH_S
        )

    # --- the candidate --------------------------------------------------------------------------------

    async def _opened(self, number: int, record: RoundRecord, aggregate: Aggregate) -> bytes:
        """The opened sum on chain: as a custodian says, or under one-time keys as we open it ourselves."""
        if self.policy.sealing.scheme == "one-time-keys":
            body = await self._sum(number, record, aggregate)
            context = await self._context(Terms(self.post.trust, number, record.base, self.policy))
            added = sum(entry.level for entry in aggregate.entries)
            opened = await self.opened_sums.open(SealedSum(number, context, body, added))
        else:
            announcement = await self.opened_sums.announcement(number, record.opened)
            opened = await self.opened_sums.fetch(announcement, deadline_s=FETCH_S)
        if await asyncio.to_thread(sha256, opened) != record.opened:
            raise Refused(Reason.DIGEST_MISMATCH, "the opened sum is not the one on chain")
        return opened

    async def _sum(self, number: int, record: RoundRecord, aggregate: Aggregate) -> bytes:
        """The confirmed sum: as we added it, or the coordinator's copy where we did not."""
        try:
            body = await RoundFolder(self.state_dir, number).read("sum")
        except FileNotFoundError:
            body = await self._from_coordinator(aggregate.sum)
        if await asyncio.to_thread(sha256, body) != record.sum_digest:
            raise Refused(Reason.DIGEST_MISMATCH, "not the sum that the chain confirmed")
        return body

    async def _judge(self, number: int, record: RoundRecord, opened: bytes) -> None:
        """Measure candidate and model in use on our own set; a candidate that is not base + mean gets a no."""
        base = await self._model(record.base)
        candidate = await self.workers.run(candidate_model, base, opened, self.policy.sealing, record.weight)
        in_use = await self._measure(base)
        baseline = ppm(in_use.accuracy)
        if await asyncio.to_thread(sha256, candidate) != record.model:
            log.error("the candidate on chain is not the one that follows from the opened sum", number=number)
            await self._vote(number, record, 0, baseline, approved=False)
            return
        await self.blobs.put(candidate)
        accuracy = ppm((await self._measure(candidate)).accuracy)
        gate = await self.chain.task(self._name)
        approved = accuracy >= gate.threshold and accuracy + gate.max_regression >= baseline
        await self._vote(number, record, accuracy, baseline, approved=approved)

    async def _vote(self, number: int, record: RoundRecord, accuracy: int, baseline: int, *, approved: bool) -> None:
        deployment = (await self.chain.task(self._name)).deployment + 1
        await self.voting.cast(
            ModelAttestation(self._name, number, deployment, record.base, record.model, accuracy, baseline, approved)
        )

    async def _voted_before(self, number: int, record: RoundRecord) -> bool:
        """Whether a vote of ours on this candidate was signed before a crash; it is cast then."""
        stored = await self.signed.stored_vote(self._name, number)
        if stored is None:
            return False
        if (stored.parent, stored.model) != (record.base, record.model):
            raise Refused(Reason.CONTRADICTION, f"we signed a vote on {stored.model[:12]}, not on the one on chain")
        await self.voting.cast(stored)
        return True

    async def _measure(self, model: bytes) -> Measured:
        measured: Measured = await self.workers.run(measure, self.task_path, model, str(self.reference))
        return measured

    async def _model(self, digest: Digest) -> bytes:
        if await self.blobs.has(digest):
            return await self.blobs.get(digest)
        data = await self.models.pull(digest, deadline_s=FETCH_S)
        await self.blobs.put(data)
        return data

    async def _from_coordinator(self, transfer: Transfer) -> bytes:
        return await self.transfers.fetch(
            self.post.trust.coordinator.address, transfer, max_bytes=PAYLOAD_BYTES, deadline_s=FETCH_S
        )
