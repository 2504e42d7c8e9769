"""After a round is decided: what became of its devices, signed for the trust contract.

Every validator computes the same from the round's lists, which are on chain by their roots. The contract asks for a
quorum of who is elected when the report comes in, so one more than our own signature is needed: where the coordinator
does not hand the report in, whoever has heard enough of the others does.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TypeVar

import msgspec
import structlog

from gemel.errors import ChainReverted, Malformed, Refused, Unavailable
from gemel.exchange import admission
from gemel.exchange.chain_watch import RETRY_S
from gemel.exchange.device_results import reports_of, results_of
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.post import Post
from gemel.ports import RoundRecord, RoundState, Sent
from gemel.ports.trust_scores import TrustScores
from gemel.wire.attestations import Confirmation
from gemel.wire.eip712 import Domain
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.identity import recover
from gemel.wire.messages import Aggregate, Roster, SignedResults, decode, decode_ballot
from gemel.wire.reasons import Reason
from gemel.wire.trust_report import report_hash
from gemel.wire.types import Address
from validator.signing import Report, SignedOnce
from validator.voting import Voting

KEPT_ROUNDS = 3  # whose reports may still come in
MOST_REPORTS = 10  # of one validator and round: a thousand devices

log = structlog.get_logger(__name__)

_L = TypeVar("_L", bound=msgspec.Struct)
_Heard = dict[bytes, dict[Address, Confirmation]]  # by the hash that was signed, by validator


class Reporting:
    """One validator's reports. `trust` is the domain of the trust contract."""

    def __init__(
        self,
        post: Post,
        scores: TrustScores,
        mailbox: Mailbox,
        signed: SignedOnce,
        voting: Voting,
        trust: Domain,
    ) -> None:
        self._post, self._scores, self._mailbox, self._signed = post, scores, mailbox, signed
        self._voting, self._trust = voting, trust
        self._task = post.trust.task
        self._heard: dict[int, _Heard] = {}  # by round
        self.number = 0  # the round that this validator is at: reports of those about it are kept

    async def listen(self, validators: Container[Address]) -> None:
        """Hear what the others report; call once."""
        await self._post.hear(self._post.topics.ballot(), Kind.BALLOT, validators, self.on_ballot)

    async def on_ballot(self, message: Envelope) -> None:
        """Keep a report of another validator; votes are the coordinator's to gather. Raises PeerError."""
        ballot = decode_ballot(message.body)
        if not isinstance(ballot, SignedResults):
            return
        sender, number = message.header.sender, message.header.round
        hash_ = report_hash(ballot.results, self._task, number, self._trust)
        signer = recover(hash_, bytes.fromhex(ballot.confirmation.signature))
        if not signer == ballot.confirmation.validator == sender:
            raise Refused(Reason.BAD_SIGNATURE, f"a report is not signed by {sender}")
        if not self.number - KEPT_ROUNDS < number <= self.number + 1:
            raise Refused(Reason.STALE_ROUND, f"a report of round {number}, this is {self.number}")
        said = [heard for heard in self._heard.get(number, {}).values() if sender in heard]
        if len(said) >= MOST_REPORTS:
            raise Refused(Reason.NO_ROOM, f"{sender} says more than {MOST_REPORTS} different things of a round")
        self._keep(number, hash_, ballot.confirmation)

    async def prepare(self, number: int, record: RoundRecord) -> Sequence[Report]:
        """The signed reports of a decided round; none where we have no seat now, or did not hear its lists."""
        if number == 0 or record.state == RoundState.ABORTED:
            return ()
        if self._post.identity.address not in self._post.trust.electorate.addresses:
            log.info("no report", number=number, why="we are not elected")
            return ()
        roster = await self._said(Kind.ROSTER, number, Roster)
        aggregate = await self._said(Kind.AGGREGATE, number, Aggregate)
        if roster is None or aggregate is None:
            stored = await self._signed.stored_reports(self._task, number)  # from before a crash
            if not stored:
                log.info("no report", number=number, why="its lists did not reach us")
            return stored
        roots = admission.root_of(roster.entries), admission.root_of(aggregate.entries)
        if roots != (record.roster_root, record.updates_root):
            log.warning("no report", number=number, why="its lists are not those on chain")
            return ()
        results = results_of(roster.entries, aggregate.entries, approved=record.deployment > 0)
        reports = [Report(self._task, number, part, each) for part, each in enumerate(reports_of(results))]
        for report in reports:
            await self._signed.report(report)
        return reports

    async def report(self, number: int, reports: Sequence[Report]) -> None:
        """See that they get onto the chain, as far as a quorum says the same."""
        await self._signed.forget_reports(self._task, number - KEPT_ROUNDS)
        for old in [each for each in self._heard if each <= number - KEPT_ROUNDS]:
            del self._heard[old]
        for report in reports:
            while True:
                try:
                    await self._report(report)
                    break
                except ChainReverted as error:
                    log.warning("report not taken", number=number, part=report.part, why=str(error))
                    break
                except Unavailable as error:
                    log.warning("once more", number=number, why=str(error), retry_s=RETRY_S)
                    await self._post.clock.sleep(RETRY_S)

    async def _report(self, report: Report) -> None:
        confirmation = await self._signed.report(report)
        hash_ = report_hash(report.results, self._task, report.round, self._trust)
        self._keep(report.round, hash_, confirmation)

        async def entered() -> bool:
            return await self._scores.is_reported(self._task, report.round, report.results[0].device)

        async def hand_in() -> Sent:
            signatures = self._heard[report.round][hash_].values()
            return await self._scores.report(self._task, report.round, report.results, signatures)

        if await entered():
            return
        await self._voting.say(report.round, SignedResults(report.results, confirmation))
        await self._voting.see_to_it(entered, hand_in, "report", report.round)
        log.info("devices reported", number=report.round, part=report.part, devices=len(report.results))

    def _keep(self, number: int, hash_: bytes, confirmation: Confirmation) -> None:
        self._heard.setdefault(number, {}).setdefault(hash_, {})[confirmation.validator] = confirmation

    async def _said(self, kind: Kind, number: int, form: type[_L]) -> _L | None:
        for message in await self._mailbox.here(kind, number):
            try:
                return decode(form, message.body)
            except Malformed as error:
                log.warning("no list", kind=kind.name, number=number, why=str(error))
        return None
