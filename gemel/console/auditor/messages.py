"""A round's signed messages: invitation, roster, aggregate and opening, against the chain."""

from __future__ import annotations

from collections.abc import Container, Sequence

from gemel.console.auditor.book import require
from gemel.console.auditor.case import RoundCase
from gemel.exchange import admission
from gemel.exchange.post import SMALL_BODY_BYTES
from gemel.ports import Role
from gemel.wire import envelope
from gemel.wire.envelope import Envelope, Expected, Kind
from gemel.wire.messages import Aggregate, Entry, Invitation, Opened, Roster, decode
from gemel.wire.types import Address, sha256


def check_invitation(case: RoundCase) -> None:
    """Signed by the coordinator, under the pinned policy, naming the sealing context that is kept."""
    message = _open(case, "invitation", Kind.INVITATION, {case.trust.coordinator.address})
    if message is None:
        return
    with case.checking("messages", "invitation"):
        invitation = decode(Invitation, message.body)
        require(invitation.policy == case.policy, "invites under another policy than policy.json")
        context = case.part("context")
        if context is not None:
            require(sha256(context) == invitation.context.digest, "names another sealing context than the kept one")


def check_roster(case: RoundCase) -> dict[Address, Entry]:
    """The list of commitments by device, if it holds; empty otherwise."""
    message = _open(case, "roster", Kind.ROSTER, {case.trust.coordinator.address})
    if message is None:
        return {}
    with case.checking("Merkle roots", "roster"):
        roster = decode(Roster, message.body)
        _require_agents(case, roster.entries)
        root = admission.root_of(roster.entries)
        require(root == roster.root, "its root is not that of its entries")
        require(root == case.record.roster_root, f"its root {root[:12]} is not the one on chain")
        return {entry.device: entry for entry in roster.entries}
    return {}


def check_aggregate(case: RoundCase, roster: dict[Address, Entry]) -> dict[Address, Entry]:
    """Which updates are in the sum, by device, if that holds; empty otherwise."""
    message = _open(case, "aggregate", Kind.AGGREGATE, {case.trust.coordinator.address})
    if message is None:
        return {}
    record = case.record
    with case.checking("Merkle roots", "aggregate"):
        aggregate = decode(Aggregate, message.body)
        entries = aggregate.entries
        _require_agents(case, entries)
        listed = set(map(admission.listed, entries))
        require(not roster or listed <= set(roster.values()), "adds an update that was not listed")
        weighed = admission.weighed(entries, case.policy, case.line.trust_scores)
        require(entries == weighed, "weighs updates otherwise than policy and trust scores say")
        root = admission.root_of(entries)
        require(root == aggregate.updates_root, "its root is not that of its entries")
        require(root == record.updates_root, f"its root {root[:12]} is not the one on chain")
        require(aggregate.sum.digest == record.sum_digest, "names another sum than the one on chain")
        weight = admission.weight_of(entries)
        require(weight == aggregate.weight == record.weight, "its weights do not add up to the one on chain")
        owners = len({case.ledger.parties[entry.device].owner for entry in entries})
        require(owners == record.owners, f"{owners} owners stand behind it, {record.owners} on chain")
        return {entry.device: entry for entry in entries}
    return {}


def check_opening(case: RoundCase) -> None:
    """A custodian's announcement names the opened sum that it recorded on chain."""
    message = _open(case, "opening", Kind.OPENED, case.trust.custodian_addresses)
    if message is not None:
        with case.checking("messages", "opening"):
            opened = decode(Opened, message.body).opened
            require(opened == case.record.opened, "names another opened sum than the one on chain")


def _open(case: RoundCase, part: str, kind: Kind, senders: Container[Address]) -> Envelope | None:
    data, record = case.part(part), case.record
    if data is None:
        case.missing(part, "its signature was not checked")
        return None
    expected = Expected(
        domain=case.trust.domain,
        task=case.trust.task,
        kind=kind,
        senders=senders,
        max_body_bytes=SMALL_BODY_BYTES,
        round=case.number,
        base=record.base,
        policy=record.policy,
    )
    with case.checking("signed messages", part):
        return envelope.open_envelope(data, expected)
    return None


def _require_agents(case: RoundCase, entries: Sequence[Entry]) -> None:
    require(bool(entries), "lists nobody")
    require(len({entry.device for entry in entries}) == len(entries), "names a device twice")
    for entry in entries:
        party = case.ledger.parties.get(entry.device)
        require(party is not None and party.role == Role.AGENT, f"{entry.device} is no registered agent")
