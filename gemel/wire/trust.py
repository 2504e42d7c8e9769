"""What an agent is installed with: whom it believes. It asks neither broker nor coordinator for any of this."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gemel.errors import ConfigError
from gemel.wire.eip712 import Domain
from gemel.wire.messages import Collector
from gemel.wire.types import Address, Count


class Trust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pinned parties of one task: `trust.json`, written by the operator when the fleet is founded."""

    fleet: str
    task: str
    chain_id: Count
    registry: Address
    coordinator: Collector
    custodians: tuple[Collector, ...]  # one, or three of whom any two suffice (policy.sealing.scheme)
    listener: Address
    validators: tuple[Collector, ...]
    quorum: Annotated[int, msgspec.Meta(ge=1)]

    @property
    def domain(self) -> Domain:
        """What every signature of this fleet is bound to."""
        return Domain(self.chain_id, self.registry)

    @property
    def collectors(self) -> tuple[Collector, ...]:
        """Whom frames and opened sums are wrapped for: the coordinator and the validators, not the custodians."""
        return (self.coordinator, *self.validators)

    @property
    def custodian_addresses(self) -> frozenset[Address]:
        """The pinned custodians."""
        return frozenset(c.address for c in self.custodians)

    @property
    def validator_addresses(self) -> frozenset[Address]:
        """The pinned validators."""
        return frozenset(v.address for v in self.validators)


def load_trust(data: bytes, source: str) -> Trust:
    """Read `trust.json`. Raises ConfigError naming the file and the field."""
    try:
        trust = msgspec.json.decode(data, type=Trust)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(source, "trust", str(error)) from error
    if not 1 <= trust.quorum <= len(trust.validators):
        raise ConfigError(source, "quorum", f"1 to {len(trust.validators)}, the number of validators")
    if len(trust.validator_addresses) != len(trust.validators):
        raise ConfigError(source, "validators", "each address once")
    if len(trust.custodians) not in (1, 3) or len(trust.custodian_addresses) != len(trust.custodians):
        raise ConfigError(source, "custodians", f"one, or three different ones; {len(trust.custodians)} given")
    return trust
