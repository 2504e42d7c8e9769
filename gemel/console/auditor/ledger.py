"""What a replayed chain says of its parties, tasks and rounds. Pure.

The rules are the contracts': `chain.py` has run their code over every signed call before anything is read here. So
this file only puts together what views answer and what events said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from gemel.adapters.contract_abi import DEVICE_REGISTRY, ELECTION, ROUND_REGISTRY, load
from gemel.adapters.contract_records import party_record, round_record, task_record
from gemel.console.auditor.machine import Machine
from gemel.ports import ChainEvent, PartyRecord, RoundRecord, TaskRecord
from gemel.wire.attestations import Vote
from gemel.wire.electorate import Electorate, Member
from gemel.wire.types import Address, Count, Digest, Ppm

TrustScores = Mapping[tuple[Digest, int], Mapping[Address, Ppm]]  # by task and round


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
    decided_in: tuple[Digest, Count] | None = None  # transaction and block of the verdict
    trust_scores: Mapping[Address, Ppm] = field(default_factory=dict)  # as of the block that it was opened in


@dataclass(slots=True)
class TaskLine:
    """A task, its rounds by number, in which round each approved model came to be, and which were given up again."""

    name: str
    record: TaskRecord
    rounds: dict[int, RoundLine] = field(default_factory=dict)
    approved: dict[Digest, int] = field(default_factory=dict)
    rolled_back: set[Digest] = field(default_factory=set)


class Ledger:
    """What the contracts hold at the end, and how each round came to what it is."""

    def __init__(
        self, machine: Machine, contracts: Mapping[str, Address], events: Iterable[ChainEvent], scores: TrustScores
    ) -> None:
        self._machine, self._contracts, self._scores = machine, contracts, scores
        self.events = tuple(events)
        self.parties: dict[Address, PartyRecord] = {}
        self.tasks: dict[Digest, TaskLine] = {}
        for event in self.events:
            self._read(event)

    def view(self, contract: str, function: str, *arguments: object) -> Any:
        """What a contract answers at the end."""
        entry = load(contract).functions[function]
        return entry.decode_result(self._machine.call(self._contracts[contract], entry.encode(*arguments)))

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
                self.tasks[values["task"]] = TaskLine(
                    values["name"], task_record(self.view(ROUND_REGISTRY, "task", values["task"]))
                )
            case "RoundOpened":
                record = round_record(self.view(ROUND_REGISTRY, "round", values["task"], values["round"]))
                line = RoundLine(record, trust_scores=self._scores.get((values["task"], values["round"]), {}))
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
                self._decide(event, Verdict.APPROVED)
            case "RoundRejected":
                self._decide(event, Verdict(values["reason"]))
            case "RolledBack":
                self.tasks[values["task"]].rolled_back.add(values["failed"])

    def _decide(self, event: ChainEvent, verdict: Verdict) -> None:
        line = self._line(event)
        line.verdict, line.decided_in = verdict, (event.transaction, event.block)

    def _line(self, event: ChainEvent) -> RoundLine:
        values: Any = event.values
        return self.tasks[values["task"]].rounds[values["round"]]
