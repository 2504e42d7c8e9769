"""`chain.json`: which chain a fleet stands on, and where its contracts are. Imports no chain client."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gemel.adapters.contract_abi import CONTRACTS, DEVICE_REGISTRY, QUALITY_VOTES, ROUND_REGISTRY
from gemel.errors import ConfigError
from gemel.wire.eip712 import Domain
from gemel.wire.types import Address, Count, Digest


class ChainPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Written when the fleet is founded; every service that talks to the chain reads it."""

    rpc_url: str
    chain_id: Count
    first_block: Count  # nothing of ours is below it
    contracts: dict[str, Address]  # by the contract's name
    created_in: dict[str, Digest]  # the transaction that created each

    def __post_init__(self) -> None:
        if not set(CONTRACTS) == self.contracts.keys() == self.created_in.keys():
            raise ValueError(f"contracts, created_in: exactly {', '.join(CONTRACTS)}")

    @property
    def rounds(self) -> Domain:
        """What attestations and messages are bound to."""
        return self.domain(ROUND_REGISTRY)

    @property
    def votes(self) -> Domain:
        """What commitments of votes are bound to."""
        return self.domain(QUALITY_VOTES)

    @property
    def devices(self) -> Domain:
        """What proofs of key possession are bound to."""
        return self.domain(DEVICE_REGISTRY)

    def domain(self, contract: str) -> Domain:
        """What signatures for one of the contracts are bound to."""
        return Domain(self.chain_id, self.contracts[contract])


def read_chain_place(path: Path) -> ChainPlace:
    """Raises ConfigError naming the file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ChainPlace)
    except OSError as error:
        raise ConfigError(str(path), "file", f"a readable file ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "chain place", str(error)) from error
