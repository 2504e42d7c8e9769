"""What agents are pinned to, against what the chain says; and that no sealing key was kept."""

from __future__ import annotations

from gemel.adapters.contract_abi import ROUND_REGISTRY
from gemel.console.auditor.book import Book, require
from gemel.console.auditor.evidence import Evidence
from gemel.console.auditor.ledger import Ledger, TaskLine
from gemel.console.fleet_files import CHAIN_FILE, POLICY_FILE, TRUST_FILE
from gemel.ports import Role
from gemel.wire.eip712 import task_id
from gemel.wire.messages import encode
from gemel.wire.trust import Trust
from gemel.wire.types import Address, BoxKey

NOT_COVERED = ("names: the fleet's name and the node's address are signed by nobody",)


def check_fleet(evidence: Evidence, ledger: Ledger, book: Book) -> TaskLine | None:
    """The task's line in the ledger, or None (and a finding) where the pinned task is not on this chain."""
    trust, policy, place, export = evidence.trust, evidence.policy, evidence.place, evidence.export
    with book.checking("pins", CHAIN_FILE):
        require((place.chain_id, place.contracts) == (export.chain_id, export.contracts), "names other contracts")
        creations = {transaction.hash for transaction in export.transactions}
        require(creations >= set(place.created_in.values()), "names creations that are not on this chain")
    with book.checking("pins", TRUST_FILE):
        pinned = (export.chain_id, export.contracts.get(ROUND_REGISTRY))
        require((trust.chain_id, trust.registry) == pinned, "pins another chain or registry")
    with book.checking("pins", POLICY_FILE):
        require(encode(policy) == evidence.policy_bytes, "not in the canonical form that its digest is taken of")
    _check_parties(trust, ledger, book)
    for path in evidence.sealing_keys():
        book.fault(evidence.name(path), "a sealing key beside the frames that it opens")
    task = ledger.tasks.get(task_id(trust.task))
    if task is None:
        book.fault(TRUST_FILE, f"there is no task {trust.task} on this chain")
        return None
    with book.checking("pins", TRUST_FILE):
        epoch = trust.electorate.epoch
        require(trust.electorate == ledger.electorate(task, epoch), f"pins others than epoch {epoch} elected")
    with book.checking("pins", POLICY_FILE):
        minimum = task.record.minimum_owners
        require(policy.minimum_owners == minimum, f"asks for {policy.minimum_owners} owners, the contract {minimum}")
    return task


def _check_parties(trust: Trust, ledger: Ledger, book: Book) -> None:
    pinned: list[tuple[Address, BoxKey | None, Role]] = [
        (trust.coordinator.address, trust.coordinator.box, Role.COORDINATOR),
        *((custodian.address, custodian.box, Role.CUSTODIAN) for custodian in trust.custodians),
        (trust.listener, None, Role.LISTENER),
        *((validator.address, validator.box, Role.VALIDATOR) for validator in trust.validators),
    ]
    for address, box, role in pinned:
        with book.checking("pins", TRUST_FILE, device=address):
            party = ledger.parties.get(address)
            require(party is not None and party.role == role, f"is registered as no {role.name.lower()}")
            require(box is None or (party is not None and party.box == box), "its box key is not the registered one")
