"""Whether a ballot is what its validator signs of what stands on chain. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gemel.errors import Refused
from gemel.exchange.device_results import REPORT_DEVICES
from gemel.ports import RoundRecord, RoundState
from gemel.wire.attestations import ModelAttestation, SumAttestation, commitment_hash
from gemel.wire.eip712 import Domain
from gemel.wire.electorate import Electorate
from gemel.wire.identity import recover
from gemel.wire.messages import Ballot, SignedResults, SignedSeal, SignedSum, SignedVote
from gemel.wire.reasons import Reason
from gemel.wire.trust_report import report_hash
from gemel.wire.types import Address, Signature


@dataclass(frozen=True, slots=True)
class Domains:
    """What the signatures of validators are bound to."""

    rounds: Domain
    votes: Domain
    trust: Domain


@dataclass(frozen=True, slots=True)
class Poll:
    """What a round's validators are asked about, as the chain has it, and who they are.

    `deployment` is the number that the candidate gets. The electorate is the round's; for results, today's.
    """

    task: str
    number: int
    record: RoundRecord
    deployment: int
    electorate: Electorate


def signer_of(ballot: Ballot) -> Address:
    """Whose word it claims to be."""
    match ballot:
        case SignedSeal(sealed):
            return sealed.validator
        case SignedVote(vote):
            return vote.validator
        case SignedSum(confirmation) | SignedResults(_, confirmation):
            return confirmation.validator


def is_asked_for(ballot: Ballot, state: RoundState) -> bool:
    """Whether a round in this state takes such ballots."""
    match ballot:
        case SignedSum():
            return state == RoundState.AGGREGATED
        case SignedSeal() | SignedVote():
            return state == RoundState.MEASURED
        case SignedResults():
            return state >= RoundState.APPROVED and state != RoundState.ABORTED


def check_ballot(ballot: Ballot, poll: Poll, domains: Domains) -> None:
    """Raises Refused: unregistered, for whoever has no seat; too_large; bad_signature, also of something else."""
    signer = signer_of(ballot)
    if signer not in poll.electorate.addresses:
        raise Refused(Reason.UNREGISTERED, f"{signer} is not elected for epoch {poll.electorate.epoch}")
    if isinstance(ballot, SignedResults) and not 0 < len(ballot.results) <= REPORT_DEVICES:
        raise Refused(Reason.TOO_LARGE, f"{len(ballot.results)} results, 1 to {REPORT_DEVICES} in a report")
    hash_, signature = _signed(ballot, poll, domains)
    if recover(hash_, bytes.fromhex(signature)) != signer:
        raise Refused(Reason.BAD_SIGNATURE, f"{signer} did not sign this of what stands on chain")


def _signed(ballot: Ballot, poll: Poll, domains: Domains) -> tuple[bytes, Signature]:
    task, number, record = poll.task, poll.number, poll.record
    match ballot:
        case SignedSum(confirmation):
            proposed = (record.updates_root, record.sum_digest, record.owners, record.weight)
            return SumAttestation(task, number, *proposed).hash(domains.rounds), confirmation.signature
        case SignedSeal(sealed):
            return commitment_hash(sealed.commitment, task, number, domains.votes), sealed.signature
        case SignedVote(vote):
            measured = (vote.accuracy, vote.baseline, vote.approved)
            statement = ModelAttestation(task, number, poll.deployment, record.base, record.model, *measured)
            return statement.hash(domains.rounds), vote.signature
        case SignedResults(results, confirmation):
            return report_hash(results, task, number, domains.trust), confirmation.signature
