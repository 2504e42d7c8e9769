"""Everything that the chain says of one round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from eth_hash.auto import keccak

from gemel.console.auditor.ledger import Ledger, Mark, RoundLine, TaskLine, Verdict
from gemel.console.auditor.lineage import RollBack, rollback_of
from gemel.console.auditor.source import Source
from gemel.errors import ConfigError
from gemel.ports import ChainEvent, RoundRecord
from gemel.wire.eip712 import word
from gemel.wire.types import NO_DIGEST, Address, Count, Digest, Ppm


class Seat(msgspec.Struct, frozen=True):
    """One of the electorate: what it weighs, and what it said."""

    validator: Address
    weight: int
    confirmed: bool  # the sum
    committed: bool
    vote: Revealed | None  # None: it has shown nothing
    points: Count | None  # credited for its vote; None: none were


class Revealed(msgspec.Struct, frozen=True):
    """A vote."""

    accuracy: Ppm
    baseline: Ppm
    approved: bool


class DeviceLine(msgspec.Struct, frozen=True):
    """What validators reported of one device, and what that did."""

    device: Address
    outcome: Ppm
    before: Ppm
    score: Ppm
    reward: int  # in the token's smallest unit


class Slash(msgspec.Struct, frozen=True):
    """A validator was punished: it had signed what contradicts itself or the chain."""

    validator: Address
    kind: str  # sum, or model
    tokens: int
    mark: Mark


class Step(msgspec.Struct, frozen=True):
    """One transaction of the round, and what it did here."""

    mark: Mark
    events: tuple[str, ...]


class RoundReport(msgspec.Struct, frozen=True):
    """One round. Digests that are not there yet are zeros."""

    task: str
    round: Count
    state: str
    chain: RoundRecord
    electorate: tuple[Seat, ...]  # of chain.epoch, heaviest first
    total_weight: int
    quorum_weight: int
    confirmed_weight: int
    approved_weight: int | None  # as it was counted; None: it was not
    claimed: Ppm | None  # what the coordinator says that it measured; it has no vote
    verdict: str
    why: str
    trust: tuple[DeviceLine, ...]
    deployed: Count | None  # how many agents ran it when that was recorded
    rolled_back: RollBack | None
    slashed: tuple[Slash, ...]
    steps: tuple[Step, ...]


def report_round(source: Source, number: int) -> RoundReport:
    """Raises ConfigError where there is no such round."""
    ledger, task = source.ledger, source.task
    line = task.rounds.get(number)
    if line is None:
        raise ConfigError(task.name, f"round {number}", f"one of the chain's: {_numbers(task)}")
    members = ledger.electorate(task, line.record.epoch).members
    ballot, candidate, deployed = (
        _values(line, name) for name in ("BallotClosed", "CandidateProposed", "RoundDeployed")
    )
    total = sum(member.weight for member in members)
    points = _points(ledger, line)
    votes = {vote.validator: Revealed(vote.accuracy, vote.baseline, vote.approved) for vote in line.votes}
    return RoundReport(
        task=task.name,
        round=number,
        state=line.record.state.name.lower(),
        chain=line.record,
        electorate=tuple(
            Seat(
                validator=member.address,
                weight=member.weight,
                confirmed=member.address in line.confirmed_by,
                committed=member.address in line.committed_by,
                vote=votes.get(member.address),
                points=points.get(member.address),
            )
            for member in members
        ),
        total_weight=total,
        quorum_weight=task.quorum_weight(total),
        confirmed_weight=sum(member.weight for member in members if member.address in line.confirmed_by),
        approved_weight=ballot.get("approved"),
        claimed=candidate.get("accuracy") if number else None,  # of M0 it says nothing
        verdict=line.verdict_name,
        why=_why(task, line, ballot),
        trust=tuple(device_lines(line)),
        deployed=deployed.get("agents"),
        rolled_back=rollback_of(ledger, line),
        slashed=slashes_of(ledger, task, number),
        steps=tuple(_steps(ledger, line)),
    )


def slashes_of(ledger: Ledger, task: TaskLine, number: int) -> tuple[Slash, ...]:
    """Who was punished for what it signed of a round."""
    names = {_offence(party, kind, task.id, number): kind for party in ledger.parties for kind in ("sum", "model")}
    return tuple(
        Slash(values["validator"], names[values["offence"]], values["tokens"], ledger.mark(event))
        for event in ledger.events
        if event.name == "Slashed" and (values := _any(event))["offence"] in names
    )


def _offence(validator: Address, kind: str, task: Digest, number: int) -> Digest:
    """As Election._slash names it: keccak(abi.encode(validator, kind, task, round))."""
    text = word(len(kind)) + kind.encode().ljust(32, b"\0")
    return bytes(keccak(word(validator) + word(4 * 32) + word(task) + word(number) + text)).hex()


def _why(task: TaskLine, line: RoundLine, ballot: dict[str, Any]) -> str:
    """The verdict in words."""
    gate, record = task.record, line.record
    aborted = line.event("RoundAborted")
    if aborted is not None:
        return f"given up by the coordinator: {aborted.values['reason']}"
    match line.verdict:
        case None:
            return "not decided"
        case Verdict.NO_QUORUM:
            return f"{ballot['approved']} of the stake approve, {task.quorum_weight(ballot['total'])} needed"
        case Verdict.BELOW_THRESHOLD:
            return f"the median of {record.accuracy} ppm is below the threshold of {gate.threshold}"
        case Verdict.REGRESSION:
            most = gate.max_regression
            return (
                f"the median of {record.accuracy} ppm is more than {most} below {record.baseline} of the model in use"
            )
        case Verdict.APPROVED:
            said = f"{ballot['approved']} of the stake approve, {task.quorum_weight(ballot['total'])} needed"
            return f"{said}; M0's accuracy is not asked for" if record.base == NO_DIGEST else said


def _points(ledger: Ledger, line: RoundLine) -> dict[Address, int]:
    """Credited where the ballot was closed, in the same transaction."""
    closed = line.event("BallotClosed")
    credited = (
        _any(event)
        for event in ledger.events
        if closed is not None and event.name == "PointsCredited" and event.transaction == closed.transaction
    )
    return {values["validator"]: values["points"] for values in credited}


def device_lines(line: RoundLine) -> Iterator[DeviceLine]:
    """What validators reported of devices, in the order in which the chain learnt of it."""
    rewards = {
        values["device"]: values["tokens"]
        for event in line.events
        if event.name == "RewardEarned" and (values := _any(event))
    }
    for event in line.events:
        if event.name == "ScoreMoved":
            moved = _any(event)
            device = moved["device"]
            yield DeviceLine(device, moved["outcome"], moved["before"], moved["score"], rewards.get(device, 0))


def _steps(ledger: Ledger, line: RoundLine) -> Iterator[Step]:
    by_transaction: dict[Digest, list[ChainEvent]] = {}
    for event in line.events:
        by_transaction.setdefault(event.transaction, []).append(event)
    for events in by_transaction.values():
        yield Step(ledger.mark(events[0]), tuple(dict.fromkeys(event.name for event in events)))


def _values(line: RoundLine, name: str) -> dict[str, Any]:
    event = line.event(name)
    return {} if event is None else _any(event)


def _any(event: ChainEvent) -> dict[str, Any]:
    return dict(event.values)


def _numbers(task: TaskLine) -> str:
    return f"0 to {max(task.rounds)}" if task.rounds else "there is none"
