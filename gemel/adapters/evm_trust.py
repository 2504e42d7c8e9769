"""Trust scores on any EVM chain: `gemel.ports.trust_scores.TrustScores`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gemel.adapters.contract_abi import STAKE_TOKEN, TRUST
from gemel.adapters.contract_calls import ContractCalls
from gemel.adapters.evm_suspensions import EvmSuspensions
from gemel.ports import Sent
from gemel.wire.attestations import Confirmation
from gemel.wire.eip712 import task_id
from gemel.wire.messages import DeviceResult
from gemel.wire.types import Address, Ppm

_PAGE = 200  # scores in one answer


class EvmTrust(EvmSuspensions):
    """Over an open connection."""

    def __init__(self, calls: ContractCalls) -> None:
        super().__init__(calls)
        self._calls = calls

    async def report(
        self, task: str, round_: int, results: Sequence[DeviceResult], signatures: Iterable[Confirmation]
    ) -> Sent:
        """See `TrustScores`."""
        entered = [(each.device, each.outcome, each.share) for each in results]
        ordered = sorted(signatures, key=lambda each: each.validator)  # the contract counts a rising row of signers
        signed = [each.signature for each in ordered]
        return await self._calls.send(TRUST, "report", task_id(task), round_, entered, signed)

    async def claim(self, owner: Address) -> Sent:
        """See `TrustScores`."""
        return await self._calls.send(TRUST, "claim", owner)

    async def fund(self, amount: int) -> Sent:
        """See `TrustScores`."""
        await self._calls.send(STAKE_TOKEN, "approve", self._calls.place.contracts[TRUST], amount)
        return await self._calls.send(TRUST, "fund", amount)

    async def is_reported(self, task: str, round_: int, device: Address) -> bool:
        """See `TrustScores`."""
        reported: bool = await self._calls.call(TRUST, "isReported", task_id(task), round_, device)
        return reported

    async def scores(self, devices: Sequence[Address], block: int | None = None) -> dict[Address, Ppm]:
        """See `TrustScores`."""
        found: dict[Address, Ppm] = {}
        for start in range(0, len(devices), _PAGE):
            page = list(devices[start : start + _PAGE])
            found |= zip(page, await self._calls.call(TRUST, "scoresOf", page, block=block), strict=True)
        return found

    async def earned(self, owner: Address) -> int:
        """See `TrustScores`."""
        tokens: int = await self._calls.call(TRUST, "claimOf", owner)
        return tokens
