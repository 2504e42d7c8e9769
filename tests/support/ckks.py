"""Reading the key out of what CKKS opens: the attack of Li and Micciancio (Eurocrypt 2021), on real slots.

What is opened of a ciphertext (c0, c1) of a known message is, unflooded, m' = c0 + c1 · s, exactly. Only the real
parts of slots are opened, which is m'(X) + m'(1/X) = h. Under the transform, with w and 1/w a pair of roots, that is
one equation for s(w) and s(1/w); two chunks make two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tenseal import sealapi

from gemel.sealing.ckks.context import Slots, create_context
from gemel.sealing.ckks.flooding import transform
from gemel.sealing.ckks.frames import Words
from gemel.sealing.ckks.plan import MODULI, RING_DEGREE
from gemel.sealing.packing import Integers

PRIME = MODULI[0]
_UTIL = sealapi._sealapi_cpp.util
_TABLES = _UTIL.NTTTables(RING_DEGREE.bit_length() - 1, sealapi.Modulus(PRIME))
_CONTEXT = create_context()  # only its parameters matter: what follows needs no key


def encoded(slots: Slots, scale: float) -> Words:
    """The polynomial whose slots these are, times the scale, rounded; transformed, under the first prime."""
    plain = sealapi.Plaintext()
    sealapi.CKKSEncoder(_CONTEXT.seal_context().data).encode(slots.tolist(), scale, plain)
    return np.array([plain[i] for i in range(RING_DEGREE)], np.uint64)


def coefficients(words: Words) -> Integers:
    """A transformed polynomial's coefficients, centred, under the first prime."""
    values = np.array(_UTIL.inverse_ntt_negacyclic_harvey(words.tolist(), _TABLES), np.int64) % PRIME
    return np.where(values > PRIME // 2, values - PRIME, values)


def key_from(opened: Sequence[Slots], chunks: Sequence[Words], scale_bits: int) -> Integers:
    """What two opened chunks of zeros say that the key is: its coefficients, if nothing has flooded them."""
    pairs = _conjugates()
    rows = []
    for slots, words in zip(opened, chunks, strict=True):
        c0, c1 = (words[index, 0].astype(object) for index in (0, 1))
        h = encoded(slots, 2.0 ** (scale_bits + 1)).astype(object)
        rows.append((c1, c1[pairs], (h - c0 - c0[pairs]) % PRIME))
    (a, b, e), (c, d, f) = rows
    determinant = (a * d - b * c) % PRIME
    inverse = np.array([pow(int(value), -1, PRIME) if value else 0 for value in determinant], object)
    return coefficients(((e * d - b * f) * inverse % PRIME).astype(np.uint64))


def _conjugates() -> Integers:
    """For each place of a transformed polynomial, the place of the inverse root."""
    x = np.zeros(RING_DEGREE, np.int64)
    x[1] = 1
    inverse = np.zeros(RING_DEGREE, np.int64)
    inverse[-1] = -1
    places = {int(root): place for place, root in enumerate(transform(x)[0])}
    return np.array([places[int(root)] for root in transform(inverse)[0]], np.int64)
