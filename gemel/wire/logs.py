"""Logs whose roots are anchored on chain (contracts/src/AuditAnchors.sol), by name."""

from __future__ import annotations

from eth_hash.auto import keccak

from gemel.wire.types import Digest

DEPLOYMENT_LOG = "deployments"  # every deployment and rollback message that the chain listener sent
ACCESS_LOG = "accesses"  # every read of the twin registry


def log_id(name: str) -> Digest:
    """A log's name on chain: keccak of its text."""
    return bytes(keccak(name.encode())).hex()
