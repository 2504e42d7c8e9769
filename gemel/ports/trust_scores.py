"""How far each device is trusted, and what its owner earned, as the chain has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from gemel.ports.chain import Sent
from gemel.ports.suspensions import Suspensions
from gemel.wire.attestations import Confirmation
from gemel.wire.messages import DeviceResult
from gemel.wire.types import Address, Ppm


class TrustScores(Suspensions, Protocol):
    """contracts/src/Trust.sol. Raises as `Chain` does."""

    async def report(
        self, task: str, round_: int, results: Sequence[DeviceResult], signatures: Iterable[Confirmation]
    ) -> Sent:
        """Anybody, with the signatures of a quorum of who is elected now (wire/trust_report.py)."""
        ...

    async def claim(self, owner: Address) -> Sent:
        """Anybody: pay an owner what its devices earned."""
        ...

    async def fund(self, amount: int) -> Sent:
        """Give 10^-18 tokens for rewards."""
        ...

    async def is_reported(self, task: str, round_: int, device: Address) -> bool:
        """Whether a round's result of this device is entered."""
        ...

    async def scores(self, devices: Sequence[Address], block: int | None = None) -> dict[Address, Ppm]:
        """Each one's score, now or as of a block: whoever asks of the same block gets the same.

        Whoever was never reported has the contract's initial one. Of a block that is long gone only a node knows
        that keeps old state.
        """
        ...

    async def earned(self, owner: Address) -> int:
        """What an owner can claim, 10^-18 tokens."""
        ...
