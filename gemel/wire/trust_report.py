"""What validators sign of a round's devices (EIP-712), for contracts/src/Trust.sol. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from eth_hash.auto import keccak

from gemel.wire.attestations import Confirmation
from gemel.wire.eip712 import Domain, task_id, word
from gemel.wire.identity import Identity
from gemel.wire.messages import DeviceResult

_TYPE = "TrustReport(bytes32 task,uint64 round,bytes32 results)"
_ARRAY_AT = 32  # where the one dynamic argument of abi.encode(results) begins


def report_hash(results: Sequence[DeviceResult], task: str, round_: int, trust: Domain) -> bytes:
    """The 32 bytes to sign; `trust` is the domain of the trust contract."""
    return trust.hash(_TYPE, task_id(task), round_, results_digest(results))


def results_digest(results: Sequence[DeviceResult]) -> bytes:
    """keccak(abi.encode(Result[])): another order is another digest."""
    words = [word(_ARRAY_AT), word(len(results))]
    for each in results:
        words += [word(each.device), word(each.outcome), word(each.share)]
    return bytes(keccak(b"".join(words)))


def sign_report(
    results: Sequence[DeviceResult], task: str, round_: int, trust: Domain, validator: Identity
) -> Confirmation:
    """A validator's word for these results."""
    signature = validator.sign(report_hash(results, task, round_, trust)).hex()
    return Confirmation(validator.address, signature)
