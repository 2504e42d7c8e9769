"""The noise that an opening adds, so that what is opened says nothing about the key. plan.py says how much, and why.

An opened CKKS value is the message and its ciphertext's noise, and c0 + c1 · s is just that: whoever knows ciphertext
and message solves for the key s (Li and Micciancio, Eurocrypt 2021). The noise is therefore drowned in more noise
before anything is decoded, in whole numbers, on the ciphertext itself: decoding in floating point comes after.

Noise is expanded by SHAKE-256 from a seed that lives with the key and from the sum it is for. The same sum opened
again has the same noise: an opening that was interrupted may be repeated and gives no second look.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from tenseal import sealapi

from gemel.sealing.ckks.frames import PRIMES, Words
from gemel.sealing.ckks.plan import LARGEST_SIGMA, MODULI, RING_DEGREE
from gemel.sealing.packing import Integers
from gemel.wire.types import Digest

SEED_BYTES = 32

_UTIL = sealapi._sealapi_cpp.util  # noqa: SLF001  the transform is not re-exported
_TABLES = tuple(_UTIL.NTTTables(RING_DEGREE.bit_length() - 1, sealapi.Modulus(prime)) for prime in MODULI)
_COARSE = 2.0**26
_FINE_SIGMA = 8 * _COARSE  # wide enough that the coarse part's grid does not show: a distance below 2^-100
_DOMAIN = b"gemel ckks flooding v1"


def gaussian(count: int, sigma: float, stream: bytes) -> Integers:
    """`count` (even) whole numbers, Gaussian of deviation `sigma` (2^30 to 2^58), from 16 bytes of `stream` each.

    A double has 53 bits, which is too few for 2^58 and its lowest bit. So it is a coarse one on a grid of 2^26 and a
    fine one that fills the grid, of the same sum of variances.
    """
    if not 2 * _FINE_SIGMA <= sigma <= LARGEST_SIGMA:
        raise ValueError(f"sigma is {sigma:.3g}")
    coarse, fine = np.split(_normal(np.frombuffer(stream, "<u8", 2 * count)), 2)
    grid = np.rint(coarse * (math.sqrt(sigma**2 - _FINE_SIGMA**2) / _COARSE)).astype(np.int64)
    noise: Integers = grid * np.int64(_COARSE) + np.rint(fine * _FINE_SIGMA).astype(np.int64)
    return noise


def flooded(words: Words, sigma: float, seed: bytes, sum_digest: Digest, index: int) -> Words:
    """The ciphertext of a sum's chunk `index` with noise added to its message."""
    shake = hashlib.shake_256(_DOMAIN + seed + bytes.fromhex(sum_digest) + index.to_bytes(8, "little"))
    noise = gaussian(RING_DEGREE, sigma, shake.digest(16 * RING_DEGREE))
    result = words.copy()
    result[0] = (result[0] + transform(noise)) % PRIMES
    return result


def transform(values: Integers) -> Words:
    """A polynomial of whole numbers as ciphertexts hold it: transformed, under each prime. Shape (2, 4096)."""
    return np.array(
        [
            _UTIL.ntt_negacyclic_harvey((values % prime).tolist(), tables)
            for prime, tables in zip(MODULI, _TABLES, strict=True)
        ],
        np.uint64,
    )


def _normal(words: Words) -> np.ndarray:
    """Standard normals from so many uniform words, by Box and Muller's method, cut off at 8.6 deviations."""
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.split(uniform, 2)
    radius, angle = np.sqrt(-2 * np.log(radius)), 2 * np.pi * angle
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
