"""Updates as integers, and several integers in one plaintext slot. Pure numpy.

A value is quantised to -qmax..qmax. A slot holds `lanes` of them as the digits of one number in base
B = 2 · qmax · contributors + 1: sum of value_j · B^j. A sum of up to `contributors` such numbers keeps every digit
within ± qmax · contributors, so digits never carry into each other and come back exactly (balanced digits, so
that unpacking does not depend on how many were added).

Layout: chunk c, lane j, slot i hold parameter (c · lanes + j) · slots + i; what lies past the last parameter is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.errors import Malformed
from gemel.wire.tensors import Vector

Integers = NDArray[np.int64]

MOST_CARRIED = 4  # clips: an update far outside is an accident, and must not drive the model for rounds


def largest_value(bits: int) -> int:
    """qmax: the largest magnitude of a value of `bits` bits, symmetric about zero."""
    return int(2 ** (bits - 1)) - 1


@dataclass(frozen=True, slots=True)
class Quantised:
    """Integers to seal, and what clipping and rounding left over, in units of the weighted update."""

    values: Integers
    residual: Vector


def quantise(update: Vector, residual: Vector, *, clip: float, bits: int, share: float) -> Quantised:
    """Scale `update` by `share` (n_k / weight_cap), add the last residual, clip to ± clip and round to integers.

    One integer step is clip / qmax. Rounding is to the nearest step, ties to even, so equal inputs give equal
    integers. The residual returned belongs into the next call once this update has entered a model: over rounds
    nothing is lost, but for what exceeds `MOST_CARRIED` clips. Within the clip it is half a step at most. Raises
    ValueError for other shapes or values that are not finite.
    """
    if update.ndim != 1 or residual.shape != update.shape:
        raise ValueError(f"update {update.shape} and residual {residual.shape} must be vectors of one length")
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share lies in 0..1, got {share}")
    if not (np.isfinite(update).all() and np.isfinite(residual).all()):
        raise ValueError("update or residual has values that are not finite")
    qmax = largest_value(bits)
    step = clip / qmax
    target = update.astype(np.float64) * share + residual
    values = np.clip(np.rint(target / step), -qmax, qmax)
    return Quantised(values.astype(np.int64), left_over(target, values * step, clip))


def left_over(target: NDArray[np.float64], sent: NDArray[np.float64], clip: float) -> Vector:
    """What of `target` was not sent, at most `MOST_CARRIED` clips of each value: the next update's residual."""
    return np.clip(target - sent, -MOST_CARRIED * clip, MOST_CARRIED * clip).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Packing:
    """How values share slots: `lanes` digits in `base`, `slots` slots a chunk."""

    base: int
    lanes: int
    slots: int

    def chunks(self, parameters: int) -> int:
        """How many chunks hold so many parameters."""
        return -(-parameters // (self.lanes * self.slots))

    def pack(self, values: Integers) -> Integers:
        """Values of shape (n,) as slots of shape (chunks, slots)."""
        chunks = self.chunks(values.size)
        padded = np.zeros(chunks * self.lanes * self.slots, np.int64)
        padded[: values.size] = values
        digits = padded.reshape(chunks, self.lanes, self.slots)
        packed = digits[:, self.lanes - 1].copy()
        for lane in range(self.lanes - 2, -1, -1):
            packed *= self.base
            packed += digits[:, lane]
        return packed

    def unpack(self, packed: Integers, parameters: int) -> Integers:
        """The inverse of `pack` on packed values or on sums of them: shape (parameters,).

        Raises Malformed for a slot that no honest sum can reach.
        """
        half_range = (self.base**self.lanes - 1) // 2
        if packed.shape != (self.chunks(parameters), self.slots):
            raise Malformed("packed sum", f"shape {packed.shape} for {parameters} parameters")
        if packed.min() < -half_range or packed.max() > half_range:
            raise Malformed("packed sum", "a slot is outside what contributors can add up to")
        rest = packed + half_range
        digits = np.empty((packed.shape[0], self.lanes, self.slots), np.int64)
        for lane in range(self.lanes):
            rest, digits[:, lane] = np.divmod(rest, self.base)
        return digits.reshape(-1)[:parameters] - (self.base - 1) // 2
