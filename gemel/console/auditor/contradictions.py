"""Votes that the coordinator keeps, against those on chain: two different ones of one validator are slashable.

The contracts take one vote of each; what else was signed only those have who heard it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from gemel.adapters.sqlite_records import read_copy
from gemel.console.auditor.book import Book
from gemel.console.auditor.evidence import Evidence
from gemel.console.auditor.ledger import Ledger, TaskLine
from gemel.errors import PeerError
from gemel.wire.attestations import ModelAttestation, Vote
from gemel.wire.envelope import HEADER_BYTES, Header
from gemel.wire.identity import recover
from gemel.wire.messages import SignedVote, decode_ballot

BALLOTS = "ballot"  # as the coordinator keeps them among its records: packed envelopes


def check_contradictions(evidence: Evidence, ledger: Ledger, task: TaskLine, book: Book) -> None:
    """Each vote that is kept is the validator's on chain, or nobody's: one that it signed, too, is named."""
    path = evidence.directory / "coordinator" / "records.sqlite"
    if not path.exists():
        return
    where = evidence.name(path)
    try:
        kept = read_copy(path, BALLOTS)
    except sqlite3.Error as error:
        book.fault(where, f"cannot be read: {error}")
        return
    for number, vote in _votes(kept):
        said = _on_chain(task, number, vote)
        if said == vote:
            book.held["kept votes"] += 1
        elif said is not None and _is_signed(evidence, ledger, task, number, vote):
            told = f"{said.accuracy} ppm on chain, {vote.accuracy} ppm here"
            what = f"signed two votes, {told}: slashable (Election.slashContradictingVotes)"
            book.fault(where, what, number, vote.validator)


def _votes(kept: Sequence[bytes]) -> Iterator[tuple[int, Vote]]:
    for raw in kept:
        try:
            header, ballot = Header.parse(raw), decode_ballot(raw[HEADER_BYTES:])
        except PeerError:
            continue
        if isinstance(ballot, SignedVote):
            yield header.round, ballot.vote


def _on_chain(task: TaskLine, number: int, vote: Vote) -> Vote | None:
    line = task.rounds.get(number)
    return None if line is None else next((v for v in line.votes if v.validator == vote.validator), None)


def _is_signed(evidence: Evidence, ledger: Ledger, task: TaskLine, number: int, vote: Vote) -> bool:
    record = task.rounds[number].record
    said = (vote.accuracy, vote.baseline, vote.approved)
    statement = ModelAttestation(
        task.name, number, _deployment(ledger, task, number), record.base, record.model, *said
    )
    try:
        return recover(statement.hash(evidence.trust.domain), bytes.fromhex(vote.signature)) == vote.validator
    except PeerError:
        return False


def _deployment(ledger: Ledger, task: TaskLine, number: int) -> int:
    """The number that the round's candidate was voted on for: one above the last before its verdict."""
    last = 0
    for event in ledger.events:
        if event.values.get("task") != task.id:
            continue
        if event.name == "BallotClosed" and event.values["round"] == number:
            break
        if event.name in ("RoundApproved", "RolledBack"):
            last = int(str(event.values["deployment"]))
    return last + 1
