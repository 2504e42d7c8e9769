"""What validators report of a device, signed by a quorum."""

from __future__ import annotations

from gemel.adapters.contract_abi import TRUST
from gemel.adapters.evm_trust import EvmTrust
from gemel.ports import Sent
from gemel.wire.messages import DeviceResult
from gemel.wire.trust_report import sign_report
from gemel.wire.types import Address
from tests.support.chains import Fleet
from tests.support.parties import VALIDATORS


async def report_worst(fleet: Fleet, device: Address, *, task: str = "condition", round_: int = 1) -> Sent:
    """All validators sign that the device's update was not admitted."""
    results = (DeviceResult(device, outcome=0, share=0),)
    trust = fleet.place.domain(TRUST)
    signed = [sign_report(results, task, round_, trust, validator) for validator in VALIDATORS]
    return await EvmTrust(fleet.operator.calls).report(task, round_, results, signed)
