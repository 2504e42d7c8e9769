"""The auditor: recomputes, from what a fleet has kept and from the chain's signed transactions, all that was decided.

    evidence.py    what lies in the audited directory; the only file here that reads a disk
    book.py        findings, what was not kept, and how many things held
    machine.py     an EVM of our own
    chain.py       the kept chain: bytes against hashes; every signed call run once more, against the kept logs
    ledger.py      what the contracts hold then: parties, tasks, rounds, votes
    fleet.py       pinned files against the chain
    case.py        one round: what is kept of it, what the chain says of it
    messages.py    its invitation, roster, aggregate and opening
    ciphertexts.py its frames and their sum
    rounds.py      all of it, with the opened sum and the candidate
    lineage.py     approved models from any of them back to M0, and what was given up
    deployment_log.py   what the listener told the fleet, against the chain and its anchors
    contradictions.py   kept votes against those on chain
    verify.py      all of it

Reports of one thing, from an export alone or with what is kept around it (source.py): lineage.py, round_report.py,
device_report.py, orders.py. broker.py compares a broker's rights with a chain's, and is the one that asks a node.

Nothing else here talks to a chain, a broker or a service.
"""
