"""What a custodian holds ready for others, and until when."""

from __future__ import annotations

from dataclasses import dataclass

from gemel.exchange.transfers import Transfers, describe
from gemel.ports import Records
from gemel.wire.chunks import Transfer
from gemel.wire.messages import decode, encode

_OFFERED = "offered"  # round/digest → a transfer that is held ready until the next round opens


@dataclass(frozen=True, slots=True)
class Offers:
    """The public context, and the opened sum for collectors."""

    transfers: Transfers
    records: Records

    async def hold(self, number: int, payload: bytes) -> Transfer:
        """Hold a payload ready until the round is final; written down first, so that a crash leaves no orphan."""
        transfer = describe(payload)
        await self.records.put(_OFFERED, f"{number}/{transfer.digest}", encode(transfer))
        return await self.transfers.offer(payload)

    async def withdraw(self, number: int, transfer: Transfer) -> None:
        """Hold it no longer."""
        await self.transfers.withdraw(transfer)
        await self.records.drop(_OFFERED, f"{number}/{transfer.digest}")

    async def withdraw_before(self, number: int) -> None:
        """The contract opens a round when the one before is final: what that one was offered goes."""
        for key, stored in await self.records.items(_OFFERED):
            if int(key.split("/", 1)[0]) < number:
                await self.transfers.withdraw(decode(Transfer, stored))
                await self.records.drop(_OFFERED, key)
