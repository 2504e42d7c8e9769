"""What validators report of a device, signed by a quorum."""

from __future__ import annotations

from eth_abi.abi import encode
from eth_hash.auto import keccak

from gemel.adapters.contract_abi import TRUST
from gemel.ports import Sent
from gemel.wire.eip712 import task_id
from gemel.wire.types import Address
from tests.support.chains import Fleet
from tests.support.parties import VALIDATORS

_TYPE = "TrustReport(bytes32 task,uint64 round,bytes32 results)"


async def report_worst(fleet: Fleet, device: Address, *, task: str = "condition", round_: int = 1) -> Sent:
    """All validators sign that the device's update was not admitted."""
    results = [(device, 0, 0)]
    digest = bytes(keccak(encode(["(address,uint32,uint32)[]"], [results])))
    signed = fleet.place.domain(TRUST).hash(_TYPE, task_id(task), round_, digest)
    signers = sorted(VALIDATORS, key=lambda validator: validator.address)
    signatures = [validator.sign(signed) for validator in signers]
    return await fleet.operator.calls.send(TRUST, "report", task_id(task), round_, results, signatures)
