"""The round ledger on any EVM chain, through one JSON-RPC endpoint: `gemel.ports.Chain`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.contract_abi import (
    CONTRACTS,
    DEVICE_REGISTRY,
    ELECTION,
    QUALITY_VOTES,
    ROUND_REGISTRY,
    Values,
    decode_event,
)
from gemel.adapters.contract_calls import ContractCalls
from gemel.adapters.contract_records import party_record, round_record, task_record
from gemel.adapters.event_follower import Follower
from gemel.adapters.evm_node import Log, Patience
from gemel.adapters.evm_transactions import SendingPolicy
from gemel.ports import (
    BallotRecord,
    ChainEvent,
    ChainHead,
    LineageRecord,
    PartyRecord,
    Role,
    RoundRecord,
    Sent,
    TaskRecord,
    Verdict,
    VoteRecord,
)
from gemel.wire.attestations import Confirmation, SealedVote, Vote
from gemel.wire.eip712 import task_id
from gemel.wire.electorate import Electorate, Member
from gemel.wire.identity import Identity
from gemel.wire.types import Address, Digest, Ppm, Signature

_PARTIES_PAGE = 200


class EvmChain:
    """One service's view of the contracts. Open it with `async with`; entering checks chain id and contracts.

    Without an identity it only reads. `confirmations` is how many blocks must lie above an event's before it is
    handed out: 0 where the chain has finality (QBFT, the embedded chain), more where blocks may still be replaced.
    `ws_url` wakes `events` sooner than `poll_s`: None derives it from the place, "" only polls. `calls` is the
    connection, for the adapters of the other ports.
    """

    def __init__(
        self,
        place: ChainPlace,
        identity: Identity | None,
        *,
        confirmations: int = 0,
        poll_s: float = 0.25,
        ws_url: str | None = None,
        patience: Patience | None = None,
        sending: SendingPolicy | None = None,
    ) -> None:
        self.calls = ContractCalls(place, identity, patience=patience, sending=sending)
        names = {place.contracts[name]: name for name in CONTRACTS}

        def decode(log: Log) -> tuple[str, Values] | None:
            return decode_event(names[log.address], log.topics, log.data)

        self._follower = Follower(
            self.calls.node, tuple(names), place.first_block, confirmations, poll_s, decode=decode, ws_url=ws_url
        )

    async def __aenter__(self) -> Self:
        """Raises ConfigError for another chain or a place without a contract, ChainUnavailable."""
        await self.calls.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.calls.__aexit__(kind, error, trace)

    # --- writing: what each does, and who may, stands in gemel.ports.Chain ------------------------

    async def create_task(
        self, task: str, *, threshold: Ppm, max_regression: Ppm, minimum_owners: int, quorum_part: Ppm, policy: Digest
    ) -> Sent:
        """See `Chain`."""
        gate = (threshold, max_regression, minimum_owners, quorum_part)
        return await self._rounds("createTask", task, *gate, policy)

    async def set_policy(self, task: str, policy: Digest) -> Sent:
        """See `Chain`."""
        return await self._rounds("setPolicy", task_id(task), policy)

    async def register(self, party: PartyRecord, proof: Signature) -> Sent:
        """See `Chain`."""
        record = (party.address, party.owner, int(party.role), party.box)
        return await self.calls.send(DEVICE_REGISTRY, "register", *record, proof)

    async def suspend(self, address: Address) -> Sent:
        """See `Chain`."""
        return await self.calls.send(DEVICE_REGISTRY, "suspend", address)

    async def propose_genesis(self, task: str, *, model: Digest, policy: Digest) -> Sent:
        """See `Chain`."""
        return await self._rounds("proposeGenesis", task_id(task), model, policy)

    async def open_round(self, task: str, round_: int, *, base: Digest, policy: Digest) -> Sent:
        """See `Chain`."""
        return await self._rounds("openRound", task_id(task), round_, base, policy)

    async def close_list(self, task: str, round_: int, *, root: Digest) -> Sent:
        """See `Chain`."""
        return await self._rounds("closeList", task_id(task), round_, root)

    async def propose_sum(
        self, task: str, round_: int, *, updates_root: Digest, sum_digest: Digest, owners: int, weight: int
    ) -> Sent:
        """See `Chain`."""
        return await self._rounds("proposeSum", task_id(task), round_, updates_root, sum_digest, owners, weight)

    async def attest_sums(self, task: str, round_: int, confirmations: Sequence[Confirmation]) -> Sent:
        """See `Chain`."""
        signed = [(each.validator, each.signature) for each in confirmations]
        return await self._rounds("attestSums", task_id(task), round_, signed)

    async def record_opening(self, task: str, round_: int, *, opened: Digest) -> Sent:
        """See `Chain`."""
        return await self._rounds("recordOpening", task_id(task), round_, opened)

    async def propose_candidate(
        self, task: str, round_: int, *, model: Digest, explanation: Digest, accuracy: Ppm
    ) -> Sent:
        """See `Chain`."""
        return await self._rounds("proposeCandidate", task_id(task), round_, model, explanation, accuracy)

    async def commit_votes(self, task: str, round_: int, sealed: Sequence[SealedVote]) -> Sent:
        """See `Chain`."""
        commitments = [(each.validator, each.commitment, each.signature) for each in sealed]
        return await self.calls.send(QUALITY_VOTES, "commit", task_id(task), round_, commitments)

    async def reveal_votes(self, task: str, round_: int, votes: Sequence[Vote]) -> Sent:
        """See `Chain`."""
        reveals = [(v.validator, v.accuracy, v.baseline, v.approved, v.signature) for v in votes]
        return await self.calls.send(QUALITY_VOTES, "reveal", task_id(task), round_, reveals)

    async def finalise(self, task: str, round_: int) -> Sent:
        """See `Chain`."""
        return await self._rounds("finalise", task_id(task), round_)

    async def record_deployed(self, task: str, round_: int, *, agents: int) -> Sent:
        """See `Chain`."""
        return await self._rounds("recordDeployed", task_id(task), round_, agents)

    async def roll_back(self, task: str, round_: int, *, agents: int, report: Digest) -> Sent:
        """See `Chain`."""
        return await self._rounds("rollBack", task_id(task), round_, agents, report)

    async def abort(self, task: str, round_: int, *, reason: str) -> Sent:
        """See `Chain`."""
        return await self._rounds("abort", task_id(task), round_, reason)

    # --- reading --------------------------------------------------------------------------------

    async def task(self, task: str) -> TaskRecord:
        """See `Chain`."""
        return task_record(await self.calls.call(ROUND_REGISTRY, "task", task_id(task)))

    async def round(self, task: str, round_: int) -> RoundRecord:
        """See `Chain`; `accuracy` and `baseline` are the validators' medians, 0 until there is a verdict."""
        return round_record(await self.calls.call(ROUND_REGISTRY, "round", task_id(task), round_))

    async def ballot(self, task: str, round_: int) -> BallotRecord:
        """See `Chain`."""
        found = await self.calls.call(QUALITY_VOTES, "ballotOf", task_id(task), round_)
        return BallotRecord(
            epoch=found["epoch"],
            commit_until_s=found["commitUntil"],
            reveal_until_s=found["revealUntil"],
            seats=found["seats"],
            committed=found["committed"],
            revealed=found["revealed"],
            closed=found["closed"],
            verdict=Verdict(found["verdict"]),
        )

    async def vote(self, task: str, round_: int, validator: Address) -> VoteRecord:
        """See `Chain`."""
        found = await self.calls.call(QUALITY_VOTES, "voteOf", task_id(task), round_, validator)
        return VoteRecord(found["commitment"], found["revealed"])

    async def head(self) -> ChainHead:
        """See `Chain`."""
        header = await self.calls.node.head()
        return ChainHead(header.number, header.timestamp_s)

    async def lineage(self, task: str, model: Digest) -> LineageRecord:
        """See `Chain`."""
        found = await self.calls.call(ROUND_REGISTRY, "lineage", task_id(task), model)
        return LineageRecord(found["parent"], found["round"], found["deployment"], found["rolledBack"])

    async def epoch(self) -> int:
        """See `Chain`."""
        running: int = await self.calls.call(ELECTION, "epoch")
        return running

    async def electorate(self, task: str, epoch: int) -> Electorate:
        """See `Chain`."""
        quorum_part = (await self.task(task)).quorum_part
        addresses, weights = await self.calls.call(ELECTION, "seatsAt", epoch)
        boxes = [(await self.party(address)).box for address in addresses]
        seats = zip(addresses, boxes, weights, strict=True)
        return Electorate(epoch, quorum_part, tuple(Member(a, box, weight) for a, box, weight in seats))

    async def party(self, address: Address) -> PartyRecord:
        """See `Chain`."""
        found = party_record(await self.calls.call(DEVICE_REGISTRY, "party", address))
        return (
            found if found.role is not Role.NONE else PartyRecord(address, found.owner, Role.NONE, found.box, False)
        )

    async def parties(self) -> Sequence[PartyRecord]:
        """See `Chain`."""
        found: list[PartyRecord] = []
        while True:
            page = await self.calls.call(DEVICE_REGISTRY, "parties", len(found), _PARTIES_PAGE)
            found.extend(map(party_record, page))
            if len(page) < _PARTIES_PAGE:
                return found

    @property
    def lag_blocks(self) -> int:
        """See `Chain`."""
        return self._follower.lag_blocks

    def events(self, checkpoint: Path) -> AsyncIterator[ChainEvent]:
        """See `Chain`; while no node answers it waits instead of raising."""
        return self._follower.events(checkpoint)

    async def _rounds(self, function: str, *arguments: object) -> Sent:
        return await self.calls.send(ROUND_REGISTRY, function, *arguments)
