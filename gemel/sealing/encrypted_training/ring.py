"""Residues at this ring's primes: products, transforms, whole numbers. Pure, but for SEAL's transform."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenseal import sealapi

from gemel.sealing.encrypted_training.plan import KEY_MODULUS_BITS, MODULUS_BITS, RING_DEGREE

Words = NDArray[np.uint64]

_UTIL = sealapi._sealapi_cpp.util  # noqa: SLF001  the transform is not re-exported
_CHOSEN = sealapi.CoeffModulus.Create(RING_DEGREE, [*MODULUS_BITS, KEY_MODULUS_BITS])
ALL_MODULI = tuple(int(modulus.value()) for modulus in _CHOSEN)  # the key's prime is the last
MODULI = ALL_MODULI[:-1]
PRIMES: Words = np.array(MODULI, np.uint64)[:, None]
_PIECE = np.uint64(15)


@lru_cache(maxsize=len(MODULI))
def _tables(index: int) -> Any:
    return _UTIL.NTTTables(RING_DEGREE.bit_length() - 1, sealapi.Modulus(MODULI[index]))


def transform(polynomial: Words) -> Words:
    """Coefficients (primes, 8192) as ciphertexts hold them."""
    rows = (_UTIL.ntt_negacyclic_harvey(row.tolist(), _tables(index)) for index, row in enumerate(polynomial))
    return np.array(list(rows), np.uint64)


def transform_back(words: Words) -> Words:
    """The inverse of `transform`."""
    rows = [_UTIL.inverse_ntt_negacyclic_harvey(row.tolist(), _tables(index)) for index, row in enumerate(words)]
    return np.array(rows, np.uint64) % PRIMES[: len(words)]  # SEAL may return the prime for 0


def multiply(left: Words, right: Words) -> Words:
    """Products of residues of at most 44 bits, 15 bits at a time: 59 bits fit a word."""
    primes = PRIMES[: len(left)]
    mask = np.uint64((1 << 15) - 1)
    total = (left >> np.uint64(30)) * right % primes
    for shift in (np.uint64(15), np.uint64(0)):
        total = ((total << _PIECE) + ((left >> shift) & mask) * right) % primes
    return total


def residues(numbers: list[int], primes: int) -> Words:
    """Whole numbers modulo the first so many primes: shape (primes, numbers)."""
    return np.array([[number % prime for number in numbers] for prime in MODULI[:primes]], np.uint64)


def whole(words: Words) -> list[int]:
    """The whole numbers between ± half the product of the primes that have these residues."""
    product = 1
    for prime in MODULI[: len(words)]:
        product *= prime
    numbers = [0] * words.shape[1]
    for row, prime in zip(words.tolist(), MODULI, strict=False):
        rest = product // prime
        weight = rest * pow(rest, -1, prime) % product
        numbers = [(number + weight * int(residue)) % product for number, residue in zip(numbers, row, strict=True)]
    return [number - product if number > product // 2 else number for number in numbers]
