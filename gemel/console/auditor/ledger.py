"""What a replayed chain says of its parties, tasks and rounds. Pure.

The rules are the contracts': `chain.py` has run their code over every signed call before anything is read here. So
this file only puts together what views answer and what events said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import msgspec

from gemel.adapters.chain_export import Call
from gemel.adapters.contract_abi import DEVICE_REGISTRY, ELECTION, ROUND_REGISTRY, load
from gemel.adapters.contract_records import party_record, round_record, task_record
from gemel.console.auditor.machine import Machine
from gemel.ports import ChainEvent, PartyRecord, RoundRecord, TaskRecord
from gemel.wire.attestations import Vote
from gemel.wire.electorate import WHOLE_PPM, Electorate, Member
from gemel.wire.types import Address, Count, Digest, Ppm

TrustScores = Mapping[tuple[Digest, int], Mapping[Address, Ppm]]  # by task and round


class Mark(msgspec.Struct, frozen=True):
    """Where something stands on chain, and who brought it there."""

    transaction: Digest
    block: Count
    time_s: Count  # of the block, by the node's word
    sender: Address


@dataclass(frozen=True, slots=True)
class Replay:
    """What running the kept transactions once more has left."""

    machine: Machine
    contracts: Mapping[str, Address]
    events: tuple[ChainEvent, ...]
    calls: tuple[Call, ...]  # that were signed and that the contracts took
    scores: TrustScores
    times_s: Mapping[int, int]  # by block


class Verdict(IntEnum):
    """The contract's enum: the first condition that fails, or APPROVED."""

    APPROVED = 0
    NO_QUORUM = 1
    BELOW_THRESHOLD = 2
    REGRESSION = 3


@dataclass(slots=True)
class RoundLine:
    """A round as it stands, with the votes behind it."""

    record: RoundRecord
    confirmed_by: list[Address] = field(default_factory=list)
    committed_by: list[Address] = field(default_factory=list)
    votes: list[Vote] = field(default_factory=list)  # those that were revealed
    verdict: Verdict | None = None
    trust_scores: Mapping[Address, Ppm] = field(default_factory=dict)  # as of the block that it was opened in
    events: list[ChainEvent] = field(default_factory=list)  # that name it

    @property
    def verdict_name(self) -> str:
        """For people: approved, no_quorum, below_threshold, regression, or none yet."""
        return "none" if self.verdict is None else self.verdict.name.lower()

    def event(self, name: str) -> ChainEvent | None:
        """The event of this name, of those that a round has once at most."""
        return next((event for event in self.events if event.name == name), None)


@dataclass(slots=True)
class TaskLine:
    """A task, its rounds by number, in which round each approved model came to be, and which were given up again."""

    id: Digest
    name: str
    record: TaskRecord
    rounds: dict[int, RoundLine] = field(default_factory=dict)
    approved: dict[Digest, int] = field(default_factory=dict)
    rolled_back: set[Digest] = field(default_factory=set)

    def quorum_weight(self, total: int) -> int:
        """What a quorum weighs of a stake of `total`, rounded up as the contracts do."""
        return max(1, -(-total * self.record.quorum_part // WHOLE_PPM))


class Ledger:
    """What the contracts hold at the end, and how each round came to what it is."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._senders = {call.transaction: call.sender for call in replay.calls}
        self.events, self.calls = replay.events, replay.calls
        self.parties: dict[Address, PartyRecord] = {}
        self.tasks: dict[Digest, TaskLine] = {}
        for event in self.events:
            self._read(event)
            self._keep(event)

    def view(self, contract: str, function: str, *arguments: object) -> Any:
        """What a contract answers at the end."""
        entry = load(contract).functions[function]
        answer = self._replay.machine.call(self._replay.contracts[contract], entry.encode(*arguments))
        return entry.decode_result(answer)

    def mark(self, event: ChainEvent) -> Mark:
        """Where an event stands. Every event is of a call: what creates a contract leaves none that is decoded."""
        time_s = self._replay.times_s[event.block]
        return Mark(event.transaction, event.block, time_s, self._senders[event.transaction])

    def electorate(self, task: TaskLine, epoch: int) -> Electorate:
        """Who was elected for an epoch, by the registered keys."""
        seats = zip(*self.view(ELECTION, "seatsAt", epoch), strict=True)
        members = tuple(Member(address, self.parties[address].box, weight) for address, weight in seats)
        return Electorate(epoch, task.record.quorum_part, members)

    def _read(self, event: ChainEvent) -> None:
        values: Any = event.values
        match event.name:
            case "PartyRegistered" | "PartySuspended":
                party = party_record(self.view(DEVICE_REGISTRY, "party", values["account"]))
                self.parties[party.address] = party
            case "TaskCreated":
                record = task_record(self.view(ROUND_REGISTRY, "task", values["task"]))
                self.tasks[values["task"]] = TaskLine(values["task"], values["name"], record)
            case "RoundOpened":
                of = values["task"], values["round"]
                found = round_record(self.view(ROUND_REGISTRY, "round", *of))
                line = RoundLine(found, trust_scores=self._replay.scores.get(of, {}))
                self.tasks[values["task"]].rounds[values["round"]] = line
            case "SumAttested":
                self._line(event).confirmed_by.append(values["validator"])
            case "VoteCommitted":
                self._line(event).committed_by.append(values["validator"])
            case "VoteRevealed":
                vote = (values[name] for name in ("validator", "accuracy", "baseline", "approved", "signature"))
                self._line(event).votes.append(Vote(*vote))
            case "RoundApproved":
                self.tasks[values["task"]].approved[values["model"]] = values["round"]
                self._line(event).verdict = Verdict.APPROVED
            case "RoundRejected":
                self._line(event).verdict = Verdict(values["reason"])
            case "RolledBack":
                self.tasks[values["task"]].rolled_back.add(values["failed"])

    def _keep(self, event: ChainEvent) -> None:
        """Beside the round that it names, for whoever reports of it."""
        values: Any = event.values
        task = self.tasks.get(values.get("task", ""))
        if task is not None and values.get("round") in task.rounds:  # validators may report of a round that never was
            task.rounds[values["round"]].events.append(event)

    def _line(self, event: ChainEvent) -> RoundLine:
        values: Any = event.values
        return self.tasks[values["task"]].rounds[values["round"]]
