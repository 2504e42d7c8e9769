"""The listener's kept log of deployments: what the chain says of each entry, and against the roots on chain."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from gemel.adapters.sqlite_records import read_copy
from gemel.console.auditor.book import Book, DoesNotFit, require
from gemel.console.auditor.evidence import Evidence
from gemel.console.auditor.ledger import Ledger, TaskLine
from gemel.exchange.deployment_log import KIND, DeploymentEntry
from gemel.ports import ChainEvent
from gemel.wire.logs import DEPLOYMENT_LOG, AnchorRecord, log_id, number_of, verify_range
from gemel.wire.messages import decode


def check_deployment_log(evidence: Evidence, ledger: Ledger, task: TaskLine, book: Book) -> None:
    """Each entry follows from the chain; all that an anchor covers are there, as they were."""
    anchors = [_anchor(ledger, event) for event in ledger.events if _is_anchor(event)]
    path = evidence.directory / "listener" / "records.sqlite"
    where = evidence.name(path)
    if not path.exists():
        if anchors:
            book.absent(where, f"not kept: {anchors[-1].last} anchored entries of the log of deployments")
        return
    try:
        entries = read_copy(path, KIND)
    except sqlite3.Error as error:
        book.fault(where, f"cannot be read: {error}")
        return
    numbered = {number: entry for entry in entries if (number := number_of(entry)) is not None}
    for entry in entries:
        with book.checking("deployment log entries", where):
            _check_entry(task, decode(DeploymentEntry, entry))
    for anchor in anchors:
        _check_anchor(anchor, numbered, where, book)
    anchored = anchors[-1].last if anchors else 0
    waiting = sorted(number for number in numbered if number > anchored)
    if waiting:
        book.absent(where, f"not anchored yet: nothing on chain holds {_range(waiting[0], waiting[-1])}")


def _check_entry(task: TaskLine, entry: DeploymentEntry) -> None:
    what = f"entry {entry.sequence}"
    name = "RolledBack" if entry.restored else "RoundApproved"
    line = task.rounds.get(entry.round)
    event = None if line is None else line.event(name)
    require(entry.task == task.name, f"{what} is of task {entry.task}")
    if event is None:
        raise DoesNotFit(f"{what} tells of round {entry.round}, of which the chain has no {name}")
    values: Any = event.values
    due = (values["deployment"], values["model"], event.transaction, event.block)
    told = (entry.deployment, entry.model, entry.transaction, entry.block)
    require(told == due, f"{what} tells of another deployment, model or transaction than the chain's {name}")


def _check_anchor(anchor: AnchorRecord, numbered: Mapping[int, bytes], where: str, book: Book) -> None:
    missing = [number for number in range(anchor.first, anchor.last + 1) if number not in numbered]
    for number in missing:
        book.fault(where, f"entry {number} is missing, though its root is on chain")
    if missing:
        return
    entries = [numbered[number] for number in range(anchor.first, anchor.last + 1)]
    with book.checking("anchored logs", where):
        what = _range(anchor.first, anchor.last)
        require(verify_range(entries, anchor), f"{what}: not what was anchored, their root is {anchor.root[:12]}")


def _is_anchor(event: ChainEvent) -> bool:
    return event.name == "RootAnchored" and event.values["log"] == log_id(DEPLOYMENT_LOG)


def _anchor(ledger: Ledger, event: ChainEvent) -> AnchorRecord:
    values: Any = event.values
    return AnchorRecord(values["root"], values["first"], values["last"], ledger.mark(event).time_s, values["by"])


def _range(first: int, last: int) -> str:
    return f"entry {first}" if first == last else f"entries {first} to {last}"
