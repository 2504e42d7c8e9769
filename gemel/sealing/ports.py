"""The three ports of sealing, split by key possession: who can seal cannot open, who adds cannot either.

`policy.scheme` selects what stands behind them; today that is "bfv-packed". Everything here is synchronous CPU work:
services call it through gemel.sealing.work in a worker process, because TenSEAL holds the GIL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gemel.wire.tensors import Vector


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed update, and the rounding residual to keep if (and only if) the update enters a model."""

    body: bytes
    residual: Vector


class SealerPort(Protocol):
    """An agent's side: the round's public context."""

    def seal(self, update: Vector, weight: int, residual: Vector) -> Sealed:
        """Seal `update` (float32, one value a parameter) with weight n_k.

        `residual` is what the last sealed update left over (zeros at first). Raises Refused(overweight) for a weight
        outside 1..weight_cap, ValueError for another length or values that are not finite.
        """
        ...


class SummerPort(Protocol):
    """The coordinator's and the validators' side: the public context, and no way to open anything."""

    def add(self, body: bytes) -> None:
        """Add a sealed update whole, or refuse it (Refused with its reason) and stay as before."""
        ...

    def sum(self) -> bytes:
        """The sealed sum. The same updates give the same bytes, in any order. ValueError before the first `add`."""
        ...


class OpenerPort(Protocol):
    """The custodian's side: the secret key of one round."""

    def public_context(self) -> bytes:
        """What agents seal with; named by its SHA-256 in every sealed body."""
        ...

    def open(self, sum_body: bytes, contributors: int) -> bytes:
        """The opened sum's bytes (frames.OpenedSum). Refuses single updates and whatever was not sealed for this key.

        Whether a sum may be opened at all (confirmed on chain, enough owners, once) is for the custodian to decide.
        """
        ...

    def to_bytes(self) -> bytes:
        """The secret, so that a custodian survives a restart within the round: for a file of mode 0600."""
        ...

    def destroy(self) -> None:
        """Forget the key; nothing opens afterwards."""
        ...
