"""Arithmetic modulo (x^2048 + 1, q), the round's public elements, and discrete Gaussians.

SEAL does the number-theoretic transform. Made here, and held by tests: the product of two 54-bit words (`multiply`),
the Gaussian sampler, and the expansion of the public string. None of it runs in constant time.
"""

from __future__ import annotations

import hashlib
import struct
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray
from tenseal import sealapi

from gemel.sealing.onetime.plan import MODULUS, MODULUS_BITS, RING_DEGREE, SIGMA
from gemel.sealing.packing import Integers
from gemel.sealing.ports import Randomness
from gemel.wire.types import Digest

Words = NDArray[np.uint64]  # residues modulo q

_Q = np.uint64(MODULUS)
_UTIL = sealapi._sealapi_cpp.util  # noqa: SLF001  the transform is not re-exported
_TABLES = _UTIL.NTTTables(RING_DEGREE.bit_length() - 1, sealapi.Modulus(MODULUS))
_TAIL = 64  # ten deviations: what is cut off weighs less than 2^-70
_PUBLIC = b"gemel one-time-keys v1 public element"
_SPARE_WORDS = 16  # one word in 2^37 is rejected


def residues(values: Integers) -> Words:
    """Signed integers, each above -q and below q, as residues."""
    return np.where(values < 0, values + MODULUS, values).astype(np.uint64)


def centred(words: Words) -> Integers:
    """Residues as integers in -q/2..q/2."""
    values = words.astype(np.int64)
    return np.where(values > MODULUS // 2, values - MODULUS, values)


def transform(words: Words) -> Words:
    """A polynomial's values, in SEAL's order, where products are taken point by point."""
    return np.array(_UTIL.ntt_negacyclic_harvey(words.tolist(), _TABLES), np.uint64) % _Q


def transform_back(words: Words) -> Words:
    """The inverse of `transform`. SEAL may give q for 0, hence the remainder."""
    return np.array(_UTIL.inverse_ntt_negacyclic_harvey(words.tolist(), _TABLES), np.uint64) % _Q


def multiply(left: Words, right: Words) -> Words:
    """Products modulo q, exact.

    The quotient is estimated in floating point, off by less than 16, so the true remainder, known modulo 2^64,
    lies within ± 16 q < 2^59 and fits a signed word.
    """
    quotient = (left.astype(np.float64) * right.astype(np.float64) / MODULUS).astype(np.uint64)
    rest = (left * right - quotient * _Q).view(np.int64)
    return (rest % np.int64(MODULUS)).view(np.uint64)


def public_element(context: Digest, index: int) -> Words:
    """a_i, transformed: from SHAKE-256 over the round's public string, so that nobody chooses it.

    Little-endian words of 8 bytes, their low 54 bits, those not below q left out, the first 2048 that remain.
    """
    seed = _PUBLIC + bytes.fromhex(context) + struct.pack("<Q", index)
    stream = hashlib.shake_256(seed).digest(8 * (RING_DEGREE + _SPARE_WORDS))
    words = np.frombuffer(stream, "<u8").astype(np.uint64) & np.uint64(2**MODULUS_BITS - 1)
    return words[words < _Q][:RING_DEGREE]


def _cumulative() -> Words:
    """The discrete Gaussian's cumulative distribution on -_TAIL.._TAIL in units of 2^-64, without its last entry."""
    with localcontext() as decimals:
        decimals.prec = 50
        spread = 2 * Decimal(str(SIGMA)) ** 2
        weights = [(-Decimal(k * k) / spread).exp() for k in range(-_TAIL, _TAIL + 1)]
        total, below, table = sum(weights), Decimal(0), []
        for weight in weights[:-1]:
            below += weight
            table.append(min(int(below / total * 2**64), 2**64 - 1))
    return np.array(table, np.uint64)


_CUMULATIVE = _cumulative()


def gaussian(count: int, randomness: Randomness) -> Integers:
    """Discrete Gaussians of deviation SIGMA by inversion, 64 random bits each."""
    uniform = np.frombuffer(randomness(8 * count), "<u8")
    return np.searchsorted(_CUMULATIVE, uniform, side="right").astype(np.int64) - _TAIL
