"""Proof that whoever is to be registered holds the key: the device registry takes nobody's word for it."""

from __future__ import annotations

from gemel.wire.eip712 import Domain
from gemel.wire.identity import Identity
from gemel.wire.types import Address, BoxKey, Signature

_TYPE = "Registration(address account,address owner,uint8 role,bytes32 box)"


def prove_possession(identity: Identity, devices: Domain, *, owner: Address, role: int, box: BoxKey) -> Signature:
    """The party's signature over its own record; `devices` is the domain of the device registry."""
    return identity.sign(devices.hash(_TYPE, identity.address, owner, role, box)).hex()
