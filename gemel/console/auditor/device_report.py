"""One registered party: who it is, what it gave to rounds, how far it is trusted, what its owner earned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from gemel.adapters.contract_abi import TRUST
from gemel.console.auditor.ledger import Ledger, Mark, RoundLine, TaskLine
from gemel.console.auditor.orders import AuditedOrder, report_orders
from gemel.console.auditor.round_report import DeviceLine, device_lines
from gemel.console.auditor.source import Source, one_of
from gemel.console.fleet_files import read
from gemel.errors import ConfigError, PeerError
from gemel.exchange import admission
from gemel.exchange.round_folder import RoundFolder
from gemel.ports import RoundRecord
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.messages import Aggregate, Entry, Roster, decode
from gemel.wire.types import Address, BoxKey, Count, Ppm


class DeviceRound(msgspec.Struct, frozen=True):
    """A round that the device has to do with. What is kept counts only where it makes the root that is on chain."""

    task: str
    round: Count
    listed: bool | None  # it promised an update; None: the list is not kept
    level: Count | None  # that its update went into the sum with, 0 for none; None: that is not kept
    samples: Count | None  # that it says it learnt from
    reported: DeviceLine | None  # what validators said of it


class OwnerRewards(msgspec.Struct, frozen=True):
    """What all devices of the owner earned, in the token's smallest unit."""

    earned: int
    claimed: int
    waiting: int


class DeviceReport(msgspec.Struct, frozen=True):
    """One party as the chain has it."""

    address: Address
    role: str
    owner: Address
    box: BoxKey
    registered: Mark
    suspended: Mark | None
    score: Ppm  # as of the last kept transaction's block
    is_left_out: bool  # its score is below the floor
    rounds: tuple[DeviceRound, ...]
    earned: int  # by this device
    rewards: OwnerRewards
    orders: tuple[AuditedOrder, ...]  # that it opened


def report_device(source: Source, start: str) -> DeviceReport:
    """The party whose address begins so. Raises ConfigError where none does, or several."""
    ledger = source.ledger
    address = one_of(start, ledger.parties, "device")
    if address is None:
        raise ConfigError("device", start, f"a registered address; there are {len(ledger.parties)} on this chain")
    party = ledger.parties[address]
    rounds = tuple(_rounds(source, address))
    return DeviceReport(
        address=address,
        role=party.role.name.lower(),
        owner=party.owner,
        box=party.box,
        registered=_marks(ledger, "PartyRegistered", address)[0],
        suspended=next(iter(_marks(ledger, "PartySuspended", address)), None),
        score=ledger.view(TRUST, "scoreOf", address),
        is_left_out=ledger.view(TRUST, "isSuspended", address),
        rounds=rounds,
        earned=sum(each.reported.reward for each in rounds if each.reported is not None),
        rewards=_rewards(ledger, party.owner),
        orders=tuple(order for order in report_orders(ledger) if order.steps[0].by == address),
    )


def _rounds(source: Source, device: Address) -> Iterator[DeviceRound]:
    """Of every task: a score is not of one; lists are kept of the fleet's own."""
    for task in source.ledger.tasks.values():
        directory = source.directory if task is source.task else None
        for number, line in sorted(task.rounds.items()):
            found = _round(task, number, line, directory, device)
            if found.listed or found.level or found.reported is not None:
                yield found


def _round(task: TaskLine, number: int, line: RoundLine, directory: Path | None, device: Address) -> DeviceRound:
    listed = summed = None
    if directory is not None:
        folder = RoundFolder(directory / "coordinator", number).path
        listed = _entries(folder / "roster", Roster, line.record)
        summed = _entries(folder / "aggregate", Aggregate, line.record)
    entry = None if summed is None else summed.get(device)
    return DeviceRound(
        task=task.name,
        round=number,
        listed=None if listed is None else device in listed,
        level=None if summed is None else (entry.level if entry is not None else 0),
        samples=None if entry is None else entry.weight,
        reported=next((each for each in device_lines(line) if each.device == device), None),
    )


def _entries(path: Path, kind: type[Roster | Aggregate], record: RoundRecord) -> dict[Address, Entry] | None:
    """What a kept list says, if it makes the root on chain: `gemel audit verify` says what is wrong with one."""
    if not path.exists():
        return None
    root = record.roster_root if kind is Roster else record.updates_root
    try:
        entries = decode(kind, read(path)[HEADER_BYTES:]).entries
    except PeerError:
        return None
    return {each.device: each for each in entries} if entries and admission.root_of(entries) == root else None


def _marks(ledger: Ledger, name: str, account: Address) -> list[Mark]:
    return [ledger.mark(each) for each in ledger.events if each.name == name and each.values["account"] == account]


def _rewards(ledger: Ledger, owner: Address) -> OwnerRewards:
    def total(name: str) -> int:
        found: Iterator[Any] = (each.values for each in ledger.events if each.name == name)
        return sum(values["tokens"] for values in found if values["owner"] == owner)

    return OwnerRewards(total("RewardEarned"), total("RewardClaimed"), ledger.view(TRUST, "claimOf", owner))
