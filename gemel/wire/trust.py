"""What an agent is installed with: whom it believes. It asks neither broker nor coordinator for any of this."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from gemel.errors import ConfigError
from gemel.wire.eip712 import Domain
from gemel.wire.electorate import Electorate, Member
from gemel.wire.messages import Collector
from gemel.wire.types import Address, Count


class Trust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pinned parties of one task: `trust.json`, written by the operator when the fleet is founded.

    The electorate is that of the founding; gemel/exchange/electorates.py knows the one in force.
    """

    fleet: str
    task: str
    chain_id: Count
    registry: Address
    coordinator: Collector
    custodians: tuple[Collector, ...]  # one, or three of whom any two suffice (policy.sealing.scheme)
    listener: Address
    electorate: Electorate
    maintenance: Address | None = None  # the contract that orders stand in; None: agents' alerts open none

    @property
    def domain(self) -> Domain:
        """What every signature of this fleet is bound to."""
        return Domain(self.chain_id, self.registry)

    @property
    def validators(self) -> tuple[Member, ...]:
        """Who votes."""
        return self.electorate.members

    def under(self, electorate: Electorate) -> Trust:
        """The same parties with another electorate."""
        return replace(self, electorate=electorate)

    @property
    def collectors(self) -> tuple[Collector, ...]:
        """Whom frames and opened sums are wrapped for: the coordinator and the validators, not the custodians."""
        return (self.coordinator, *(Collector(seat.address, seat.box) for seat in self.validators))

    @property
    def custodian_addresses(self) -> frozenset[Address]:
        """The pinned custodians."""
        return frozenset(c.address for c in self.custodians)

    @property
    def validator_addresses(self) -> frozenset[Address]:
        """Who votes."""
        return self.electorate.addresses


def load_trust(data: bytes, source: str) -> Trust:
    """Read `trust.json`. Raises ConfigError naming the file and the field."""
    try:
        trust = msgspec.json.decode(data, type=Trust)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(source, "trust", str(error)) from error
    if len(trust.custodians) not in (1, 3) or len(trust.custodian_addresses) != len(trust.custodians):
        raise ConfigError(source, "custodians", f"one, or three different ones; {len(trust.custodians)} given")
    return trust
