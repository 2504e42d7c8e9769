"""The contracts, as a service sees them: tasks, rounds, parties and events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Protocol

import msgspec

from gemel.wire.attestations import Confirmation, SealedVote, Vote
from gemel.wire.electorate import Electorate
from gemel.wire.types import Address, BoxKey, Count, Digest, Ppm, Signature


class RoundState(IntEnum):
    """The contract's enum: those states of a round that are decided on chain (contracts/src/RoundRegistry.sol)."""

    NONE = 0
    OPEN = 1
    LISTED = 2
    AGGREGATED = 3
    CONFIRMED = 4
    OPENED = 5
    MEASURED = 6  # a candidate stands, validators vote
    APPROVED = 7
    REJECTED = 8
    DEPLOYED = 9
    ROLLED_BACK = 10
    ABORTED = 11


class Role(IntEnum):
    """What a registered party may be."""

    NONE = 0
    AGENT = 1
    COORDINATOR = 2
    CUSTODIAN = 3
    VALIDATOR = 4
    LISTENER = 5
    AUDITOR = 6


class PartyRecord(msgspec.Struct, frozen=True):
    """A line of the device registry."""

    address: Address
    owner: Address
    role: Role
    box: BoxKey
    active: bool


class TaskRecord(msgspec.Struct, frozen=True):
    """A task's gate and what is in use."""

    threshold: Ppm  # the median accuracy that a candidate must reach
    max_regression: Ppm  # how far below the model in use it may fall
    minimum_owners: Count
    quorum_part: Count  # ppm of the elected stake that must confirm, and approve; 0: there is no such task
    last_round: Count
    deployment: Count  # number of the model in use; 0 before M0
    model: Digest
    policy: Digest  # that the next round will be held to


class RoundRecord(msgspec.Struct, frozen=True):
    """A round as the chain has it."""

    state: RoundState
    base: Digest
    policy: Digest
    roster_root: Digest
    updates_root: Digest
    sum_digest: Digest
    owners: Count
    weight: Count
    opened: Digest
    model: Digest
    explanation: Digest
    deployment: Count
    accuracy: Ppm
    baseline: Ppm
    epoch: Count  # whose electorate confirms, votes and is counted
    opened_block: Count  # the block that the round was opened in


class Verdict(IntEnum):
    """What the gate says of a ballot that is closed; in the contract's words (contracts/src/QualityGate.sol)."""

    APPROVED = 0
    NO_QUORUM = 1
    BELOW_THRESHOLD = 2
    REGRESSION = 3


class BallotRecord(msgspec.Struct, frozen=True):
    """The vote on a candidate: committed, then revealed, then closed (contracts/src/QualityVotes.sol)."""

    epoch: Count  # 0: there is no such ballot
    commit_until_s: Count
    reveal_until_s: Count
    seats: Count  # elected for the epoch
    committed: Count
    revealed: Count
    closed: bool
    verdict: Verdict  # once it is closed

    def is_committing(self, now_s: int) -> bool:
        """Whether commitments are still taken, and therefore no vote is shown yet."""
        return now_s < self.commit_until_s and self.committed < self.seats

    def can_close(self, now_s: int) -> bool:
        """Whether nothing that is still to come could count."""
        complete = not self.is_committing(now_s) and self.revealed == self.committed
        return self.epoch > 0 and (complete or now_s >= self.reveal_until_s)


class VoteRecord(msgspec.Struct, frozen=True):
    """What one validator has put into a ballot."""

    commitment: str  # 44 hex digits, as in SealedVote; all zeros: there is none
    revealed: bool

    @property
    def committed(self) -> bool:
        """Whether there is a commitment."""
        return self.commitment.strip("0") != ""


class ChainHead(msgspec.Struct, frozen=True):
    """The last block."""

    block: Count
    time_s: Count


class LineageRecord(msgspec.Struct, frozen=True):
    """Where an approved model comes from."""

    parent: Digest  # zeros for M0
    round: Count
    deployment: Count  # 0 if the model was never approved
    rolled_back: bool


class ChainEvent(msgspec.Struct, frozen=True):
    """One contract event. `id` is deterministic: block hash and log index.

    Where its block was lost and came back, the event comes again with `.2`, `.3` behind its id.
    """

    id: str
    name: str
    values: Mapping[str, object]  # digests and addresses as text, numbers as int
    block: Count
    block_hash: Digest
    transaction: Digest
    retracted: bool = False  # its block was reorganised away after it had been delivered


class Sent(msgspec.Struct, frozen=True):
    """A transaction that is in a block."""

    transaction: Digest
    block: Count
    gas: Count


class Chain(Protocol):
    """The contracts, as a service sees them. Writes are signed with the service's own key.

    Every method raises ChainUnavailable while no node answers; writes raise ChainReverted with the contract's
    custom error. `task` is always the task's text.
    """

    async def create_task(
        self, task: str, *, threshold: Ppm, max_regression: Ppm, minimum_owners: int, quorum_part: Ppm, policy: Digest
    ) -> Sent:
        """Operator: define a task, its gate and its first policy."""
        ...

    async def set_policy(self, task: str, policy: Digest) -> Sent:
        """Administration: what rounds are held to from the next one on; a round that is open keeps its own."""
        ...

    async def register(self, party: PartyRecord, proof: Signature) -> Sent:
        """Operator: enter a party into the device registry. `proof` is its own signature (wire/registration.py)."""
        ...

    async def suspend(self, address: Address) -> Sent:
        """Operator: a party counts no more."""
        ...

    async def propose_genesis(self, task: str, *, model: Digest, policy: Digest) -> Sent:
        """Coordinator: round 0 with M0 as its candidate, straight to MEASURED; validators attest it as any other."""
        ...

    async def open_round(self, task: str, round_: int, *, base: Digest, policy: Digest) -> Sent:
        """Coordinator: only one above the last round, from the model in use, when the last round is final.

        `policy` must be the task's: the round is held to it from now on, whatever becomes of the task's.
        """
        ...

    async def close_list(self, task: str, round_: int, *, root: Digest) -> Sent:
        """Coordinator: OPEN → LISTED."""
        ...

    async def propose_sum(
        self, task: str, round_: int, *, updates_root: Digest, sum_digest: Digest, owners: int, weight: int
    ) -> Sent:
        """Coordinator: LISTED → AGGREGATED. Refused below the task's minimum of owners."""
        ...

    async def attest_sums(self, task: str, round_: int, confirmations: Sequence[Confirmation]) -> Sent:
        """Anybody, with validators' signatures: at quorum AGGREGATED → CONFIRMED. What stands is passed over."""
        ...

    async def record_opening(self, task: str, round_: int, *, opened: Digest) -> Sent:
        """Custodian: CONFIRMED → OPENED, once."""
        ...

    async def propose_candidate(
        self, task: str, round_: int, *, model: Digest, explanation: Digest, accuracy: Ppm
    ) -> Sent:
        """Coordinator: OPENED → MEASURED, with what it measured itself (for the record; it has no vote)."""
        ...

    async def commit_votes(self, task: str, round_: int, sealed: Sequence[SealedVote]) -> Sent:
        """Anybody, with validators' signatures, until all elected have committed or the time is over."""
        ...

    async def reveal_votes(self, task: str, round_: int, votes: Sequence[Vote]) -> Sent:
        """Anybody, after that, until all who committed have revealed or the time is over."""
        ...

    async def finalise(self, task: str, round_: int) -> Sent:
        """Anybody, once the vote is over: MEASURED → APPROVED or REJECTED."""
        ...

    async def record_deployed(self, task: str, round_: int, *, agents: int) -> Sent:
        """Listener: APPROVED → DEPLOYED."""
        ...

    async def roll_back(self, task: str, round_: int, *, agents: int, report: Digest) -> Sent:
        """Listener (APPROVED), operator (DEPLOYED, the last round): → ROLLED_BACK, the parent is in use again.

        `report` is the digest of what the canaries said.
        """
        ...

    async def abort(self, task: str, round_: int, *, reason: str) -> Sent:
        """Coordinator: any state before a verdict → ABORTED."""
        ...

    async def task(self, task: str) -> TaskRecord:
        """The task's gate and the model in use."""
        ...

    async def round(self, task: str, round_: int) -> RoundRecord:
        """One round; state NONE if there is none."""
        ...

    async def ballot(self, task: str, round_: int) -> BallotRecord:
        """The vote on a round's candidate; epoch 0 if there is none."""
        ...

    async def vote(self, task: str, round_: int, validator: Address) -> VoteRecord:
        """What a validator has put into the ballot of a round."""
        ...

    async def head(self) -> ChainHead:
        """The last block. Where nobody sends anything, a chain may make none for a long time."""
        ...

    async def lineage(self, task: str, model: Digest) -> LineageRecord:
        """Where a model comes from; deployment 0 if it was never approved."""
        ...

    async def epoch(self) -> int:
        """The epoch that is running; 0 before the first election."""
        ...

    async def electorate(self, task: str, epoch: int) -> Electorate:
        """Who was elected for an epoch, with the quorum of the task."""
        ...

    async def party(self, address: Address) -> PartyRecord:
        """One party; role NONE if it is unknown."""
        ...

    async def parties(self) -> Sequence[PartyRecord]:
        """All registered parties, in order of registration."""
        ...

    @property
    def lag_blocks(self) -> int:
        """Blocks from the last whose events are finished to the head, as `events` saw it last."""
        ...

    def events(self, checkpoint: Path) -> AsyncIterator[ChainEvent]:
        """Every event of all contracts from the first block on: never missed, never repeated.

        The checkpoint (a SQLite file) moves on when the consumer asks for the next event, so an event whose effect
        was not finished comes again after a crash. Reorganised events come as `retracted`.
        """
        ...
