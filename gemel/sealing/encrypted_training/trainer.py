"""Trains a logistic head on ciphertexts: whoever runs it sees no feature, no label, no weight and no gradient.

A run: `request` computes a step and masks what comes out, for the custodian to refresh; `accept` takes the fresh
ciphertexts that come back. After the last step `release` masks the change of the weights, for the custodian to round
to integers and to seal as an update of the round (release.py). Masks are drawn here and never leave.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from gemel.errors import Malformed
from gemel.sealing.encrypted_training.context import encrypt, load_public, loader, sealed_zero, words_of
from gemel.sealing.encrypted_training.frames import Kind, Shape
from gemel.sealing.encrypted_training.plan import (
    HIDING_BITS,
    LARGEST_VALUE_BITS,
    LARGEST_WEIGHT_BITS,
    LOW,
    P1,
    RING_DEGREE,
    SCALE_BITS,
    SLOTS,
    WEIGHT_SCALE,
    HeadPlan,
)
from gemel.sealing.encrypted_training.ring import MODULI, PRIMES, Words, residues, transform, transform_back
from gemel.wire.types import Digest, sha256

Randomness = Callable[[int], int]  # so many random bits, as secrets.randbits
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SealedRows:
    """An owner's rows: features, the same times the learning rate, and what labels add to every step's gradient."""

    features: list[list[ts.CKKSVector]]  # [block][feature]
    scaled: list[list[ts.CKKSVector]]
    constant: list[ts.CKKSVector]  # [feature]: the sum over blocks of scaled times (1/2 - label)

    def to_bytes(self) -> tuple[bytes, ...]:
        """Every ciphertext, for another call of the same process's workers; not for anybody else's bytes."""
        parts = (*self.features, *self.scaled, self.constant)
        return tuple(bytes(vector.serialize()) for part in parts for vector in part)

    @classmethod
    def from_bytes(cls, context: ts.Context, plan: HeadPlan, data: Sequence[bytes]) -> SealedRows:
        """The inverse of `to_bytes`."""
        vectors = [ts.ckks_vector_from(context, each) for each in data]
        parts = [vectors[start : start + plan.features] for start in range(0, len(vectors), plan.features)]
        return cls(parts[: plan.blocks], parts[plan.blocks : -1], parts[-1])


def seal_rows(context: ts.Context, plan: HeadPlan, features: Floats, labels: Floats) -> SealedRows:
    """Encrypt `features` (rows, features), each in -1..1, and `labels` (rows, outputs), 0 or 1.

    Raises ValueError for other shapes or values.
    """
    if features.shape != (plan.rows, plan.features) or labels.shape != (plan.rows, plan.outputs):
        raise ValueError(f"features {features.shape}, labels {labels.shape}: not those of the plan")
    if not (np.abs(features) <= 1).all() or not ((labels == 0) | (labels == 1)).all():
        raise ValueError("features outside -1..1, or labels other than 0 and 1")
    rate = plan.rate * plan.rows_at_once / plan.rows
    sealed = SealedRows([], [], [])
    totals: list[ts.CKKSVector] = []
    for start in range(0, plan.rows, plan.rows_at_once):
        rows = features[start : start + plan.rows_at_once]
        target = np.zeros((plan.rows_at_once, plan.lanes))
        target[: len(rows), : plan.outputs] = WEIGHT_SCALE * (0.5 - labels[start : start + plan.rows_at_once])
        sealed_target = encrypt(context, target.reshape(-1))
        columns = [_spread(plan, column) for column in rows.T]
        sealed.features.append([encrypt(context, column) for column in columns])
        sealed.scaled.append([encrypt(context, rate * column) for column in columns])
        parts = [scaled * sealed_target for scaled in sealed.scaled[-1]]
        totals = parts if not totals else [total + part for total, part in zip(totals, parts, strict=True)]
    sealed.constant.extend(totals)
    return sealed


def _spread(plan: HeadPlan, column: Floats) -> Floats:
    """A feature's rows, once for every lane; rows that are not there are 0."""
    padded = np.zeros(plan.rows_at_once)
    padded[: len(column)] = column
    return np.repeat(padded, plan.lanes)


class Trainer:
    """One run over one owner's sealed rows."""

    def __init__(
        self, context: bytes, plan: HeadPlan, base: Floats, randomness: Randomness = secrets.randbits
    ) -> None:
        """`base`: the weights to begin with, (features, outputs).

        Raises ConfigError and Refused as `load_public`, ValueError for another shape, Malformed for weights that
        steps could carry beyond what masks hide.
        """
        plan.check()
        if base.shape != (plan.features, plan.outputs):
            raise ValueError(f"base {base.shape}, ({plan.features}, {plan.outputs}) expected")
        if not np.abs(base).max() < 2**LARGEST_WEIGHT_BITS - plan.bound:
            raise Malformed(
                "base", f"a weight is beyond {2**LARGEST_WEIGHT_BITS - plan.bound:.3g}: no room for steps"
            )
        self._context = load_public(context)
        self._digest: Digest = sha256(context)
        self._plan, self._randomness = plan, randomness
        self._form = loader(self._context)
        self._base = base
        self._weights = [encrypt(self._context, self._in_lanes(row)) for row in base]
        self._masks: list[list[int]] = []

    @property
    def context(self) -> ts.Context:
        """The public context, to seal rows with."""
        return self._context

    @property
    def masks(self) -> list[list[int]]:
        """Of the last request: all that a trainer must keep until the answer comes."""
        return self._masks

    def _in_lanes(self, row: Floats) -> Floats:
        lanes = np.pad(WEIGHT_SCALE * row, (0, self._plan.lanes - self._plan.outputs))
        return np.tile(lanes, self._plan.rows_at_once)

    def request(self, rows: SealedRows) -> bytes:
        """One step of gradient descent; what comes out, masked, for the custodian to refresh."""
        plan = self._plan
        updated = [weight - constant for weight, constant in zip(self._weights, rows.constant, strict=True)]
        for features, scaled in zip(rows.features, rows.scaled, strict=True):
            products = (feature * weight for feature, weight in zip(features, self._weights, strict=True))
            z = next(products)
            for product in products:
                z = z + product
            slope = -(z * z) + P1
            for index, column in enumerate(scaled):
                updated[index] = updated[index] - (column * z) * slope
        stride = RING_DEGREE // plan.coefficients
        self._masks = [[self._mask() for _ in range(plan.coefficients)] for _ in updated]
        items = [
            self._masked(vector, slice(None, None, stride), mask)
            for vector, mask in zip(updated, self._masks, strict=True)
        ]
        return Shape(plan, self._digest, Kind.REQUEST).pack(np.array(items, np.uint64))

    def _mask(self) -> int:
        bits = SCALE_BITS + LARGEST_WEIGHT_BITS + HIDING_BITS
        return self._randomness(bits + 1) - (1 << bits)

    def _masked(self, vector: ts.CKKSVector, kept: slice, mask: list[int]) -> Words:
        """c1, and those coefficients of c0 plus their masks; an encryption of nothing in between hides c1's past."""
        size = vector.ciphertext()[0].coeff_modulus_size()
        words = (words_of(vector, size)[:, :LOW] + sealed_zero(self._context, LOW)) % PRIMES[:LOW]
        coefficients = transform_back(words[0])[:, kept]
        masked = (coefficients + residues(mask, LOW)) % PRIMES[:LOW]
        return np.concatenate([words[1], masked], axis=1)

    def accept(self, answer: bytes, masks: list[list[int]] | None = None) -> None:
        """Take the refreshed weights; `masks` are those of another trainer's request that this one goes on from.

        Raises Refused as `Shape.parse`.
        """
        plan = self._plan
        self._masks = self._masks if masks is None else masks
        fresh = Shape(plan, self._digest, Kind.ANSWER).parse(answer)
        stride = RING_DEGREE // plan.coefficients
        for index, (words, mask) in enumerate(zip(fresh, self._masks, strict=True)):
            polynomial = np.zeros((len(MODULI), RING_DEGREE), np.uint64)
            polynomial[:, ::stride] = residues(mask, len(MODULI))
            unmasked = (words[:, :RING_DEGREE] + PRIMES - transform(polynomial)) % PRIMES
            ciphertext = np.concatenate([unmasked, words[:, RING_DEGREE:]]).reshape(-1)
            self._weights[index] = ts.ckks_vector_from(self._context, self._form.around(ciphertext))

    def release(self, factor: float) -> tuple[bytes, list[int]]:
        """The change of each weight times `factor`, dithered and masked, for the custodian to round to integers.

        Returns the message, and what was added to each integer (features · outputs of them). The custodian sees a
        uniform number: its low bits are the dither, its high bits the mask.
        """
        plan = self._plan
        items, masks = [], []
        for weight, row in zip(self._weights, self._base, strict=True):
            change = weight - self._in_lanes(row)
            for output in range(plan.outputs):
                lane = np.zeros(plan.lanes)
                lane[output] = plan.lanes * factor / WEIGHT_SCALE
                mask = self._randomness(LARGEST_VALUE_BITS + HIDING_BITS)
                dither = self._randomness(SCALE_BITS)
                items.append(
                    self._masked(
                        change * np.tile(lane, SLOTS // plan.lanes), slice(0, 1), [(mask << SCALE_BITS) + dither]
                    )
                )
                masks.append(mask)
        return Shape(plan, self._digest, Kind.RELEASE).pack(np.array(items, np.uint64)), masks
