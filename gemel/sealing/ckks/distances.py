"""How far sealed updates lie apart, without opening one: squared Euclidean distances. No round uses this yet.

Agents seal their clipped updates at a scale of their own (`seal`), because a square must fit the modulus; the bodies
of a round's sum will not do. Whoever holds the ciphertexts computes the sum of (a - b)^2 over all chunks
(`distance`): three polynomials, neither relinearised nor rotated. Of the sum's coefficients only the constant one is
wanted: it is the sum of the slots, times 2 / N. So all others are masked by uniform ones, and the two polynomials
that go with the key by encryptions of zero (without that, a square of one chunk would give its mask away). The key
holder, who opens it (`open_distance`), learns the distance and nothing else.

What the key holder says is flooded as an opened sum is (plan.py), by as much as the modulus has room for: 20 bits.
For 45 pairs that is 2^-14.5, where a sum has 2^-40. A larger ring would give more, at twice the bytes. With so little
room, say distances only to those who see the round's sum as well, and use a key for one round.

`krum_scores` (Blanchard et al., NeurIPS 2017) ranks agents by their distances.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tenseal as ts
from numpy.typing import NDArray
from tenseal import sealapi

from gemel.errors import ConfigError
from gemel.sealing.ckks.context import encrypt, words_of
from gemel.sealing.ckks.flooding import gaussian
from gemel.sealing.ckks.frames import PRIMES, Words
from gemel.sealing.ckks.plan import MODULI, MODULUS_BITS, RING_DEGREE, SLOTS, WORDS, coefficient_noise
from gemel.sealing.packing import Integers
from gemel.sealing.serialised import Form
from gemel.wire.tensors import Vector

Randomness = Callable[[int], bytes]  # so many bytes, the operating system's

FLOODING_BITS = 20  # what one distance says about the key: nothing, but with probability 2^-20
_BOUND_SIGMAS = 10
_SPARE_WORDS = 16  # one word in 2^22 is rejected
_POLYNOMIALS = 3  # of a square
_PRIMES: Integers = PRIMES.astype(np.int64)


@dataclass(frozen=True, slots=True)
class DistancePlan:
    """The figures at one clip and model size."""

    clip: float
    parameters: int

    @property
    def chunks(self) -> int:
        """Ciphertexts of an update."""
        return -(-self.parameters // SLOTS)

    @property
    def scale_bits(self) -> int:
        """log2 of the scale: the largest at which the farthest updates (2 clips apart) stay below q / 4."""
        return math.floor((MODULUS_BITS - 2 - math.log2(4 * self.parameters / SLOTS)) / 2)

    @property
    def flooding_sigma(self) -> float:
        """Of the noise added to the constant coefficient.

        What is drowned is 2 · m · e for the noise e of a difference and the farthest m there can be. The rest, e · e
        and what hides the polynomials, is less by far.
        """
        message = math.ldexp(math.sqrt(4 * self.parameters * 2 / RING_DEGREE), self.scale_bits)
        return math.ldexp(_BOUND_SIGMAS * 2 * message * coefficient_noise(2), FLOODING_BITS - 1)

    @property
    def sigma(self) -> float:
        """Deviation of an opened squared distance, in the update's unit squared."""
        return math.ldexp(self.flooding_sigma * SLOTS, -2 * self.scale_bits) * self.clip**2


def seal(context: ts.Context, plan: DistancePlan, update: Vector) -> list[Words]:
    """A clipped update, for distances, with the context's public key. Raises ValueError for another length."""
    if update.shape != (plan.parameters,) or not np.isfinite(update).all():
        raise ValueError(f"update {update.shape}, {plan.parameters} finite parameters expected")
    slots = np.zeros((plan.chunks, SLOTS))
    slots.reshape(-1)[: plan.parameters] = np.clip(update.astype(np.float64) / plan.clip, -1, 1)
    return [words_of(encrypt(context, chunk, plan.scale_bits)) for chunk in slots]


def distance(
    context: ts.Context,
    plan: DistancePlan,
    left: Sequence[Words],
    right: Sequence[Words],
    randomness: Randomness = secrets.token_bytes,
) -> Words:
    """The sealed squared distance of two sealed updates, masked: shape (3, 2, 4096). `context` is the public one."""
    if not len(left) == len(right) == plan.chunks:
        raise ValueError(f"{len(left)} and {len(right)} chunks, {plan.chunks} expected")
    total = np.zeros((_POLYNOMIALS, len(MODULI), RING_DEGREE), np.int64)
    for one, other in zip(left, right, strict=True):
        _add_square(total, one.astype(np.int64) - other.astype(np.int64))
    words = (total % _PRIMES).astype(np.uint64)
    words[0] = (words[0] + _mask(randomness)) % PRIMES
    for polynomials in (slice(0, 2), slice(1, 3)):
        words[polynomials] = (
            words[polynomials] + words_of(encrypt(context, np.zeros(SLOTS), plan.scale_bits))
        ) % PRIMES
    return words


def open_distance(
    context: ts.Context, plan: DistancePlan, sealed: Words, randomness: Randomness = secrets.token_bytes
) -> float:
    """The squared distance in a sealed one, flooded. `context` holds the secret key.

    Each call draws new noise: open a distance once. Raises ConfigError without a key. The result may lie a little
    below 0.
    """
    if not context.has_secret_key():
        raise ConfigError("sealing context", "secret key", "needed to open a distance")
    residues = [
        int(words.astype(object).sum()) * pow(RING_DEGREE, -1, prime) % prime
        for words, prime in zip(_decrypted(context, plan, sealed), MODULI, strict=True)
    ]
    first, second = MODULI
    constant = residues[0] + first * ((residues[1] - residues[0]) * pow(first, -1, second) % second)
    constant -= first * second if constant > first * second // 2 else 0
    flooded = constant + _noise(plan.flooding_sigma, randomness)
    return math.ldexp(flooded * SLOTS, -2 * plan.scale_bits) * plan.clip**2


def krum_scores(distances: NDArray[np.float64], corrupt: int) -> NDArray[np.float64]:
    """Each agent's sum of squared distances to its nearest K - corrupt - 2 others: the higher, the worse.

    `distances` is (K, K) and symmetric. Raises ConfigError for fewer agents than 2 · corrupt + 3.
    """
    count = len(distances)
    if count < 2 * corrupt + 3:
        raise ConfigError("krum", "agents", f"at least {2 * corrupt + 3} with {corrupt} corrupt, got {count}")
    others = distances.astype(np.float64, copy=True)
    np.fill_diagonal(others, np.inf)
    scores: NDArray[np.float64] = np.sort(others, axis=1)[:, : count - corrupt - 2].sum(axis=1)
    return scores


def _add_square(total: Integers, words: Integers) -> None:
    """Add (c0 + c1 · s)^2, as a polynomial in s, to `total`, for words between plus and minus a prime.

    Products of 80 bits: their low 64 less a multiple of the prime, which is estimated in floating point and off by
    one at most. So what is added lies within twice a prime, and is reduced by whoever has added everything.
    """
    floats = words.astype(np.float64)
    for power, (left, right) in enumerate(((0, 0), (0, 1), (1, 1))):
        quotient = np.rint(floats[left] * floats[right] / _PRIMES).astype(np.int64)
        product = words[left] * words[right] - quotient * _PRIMES
        total[power] += product if left == right else 2 * product


def _mask(randomness: Randomness) -> Words:
    """A uniform polynomial whose constant coefficient is 0, transformed: values whose sum is 0."""
    mask = np.empty((len(MODULI), RING_DEGREE), np.uint64)
    for row, prime in zip(mask, MODULI, strict=True):
        drawn = np.frombuffer(randomness(8 * (RING_DEGREE + _SPARE_WORDS)), "<u8") >> np.uint64(24)
        row[:] = drawn[drawn < prime][:RING_DEGREE]
        row[-1] = -int(row[:-1].astype(object).sum()) % prime
    return mask


def _decrypted(context: ts.Context, plan: DistancePlan, sealed: Words) -> Words:
    """The plaintext polynomial of a sealed distance, transformed, under each prime."""
    words = _POLYNOMIALS * WORDS // 2
    context.auto_relin = context.auto_rescale = False
    example = encrypt(context, np.zeros(SLOTS), plan.scale_bits).square()
    vector = ts.ckks_vector_from(context, Form(bytes(example.serialize()), SLOTS, words).around(sealed))
    plain = sealapi.Plaintext()
    decryptor = sealapi.Decryptor(context.seal_context().data, context.secret_key().data)
    decryptor.decrypt(vector.ciphertext()[0], plain)
    values = [plain[index] for index in range(len(MODULI) * RING_DEGREE)]
    return np.array(values, np.uint64).reshape(len(MODULI), RING_DEGREE)


def _noise(sigma: float, randomness: Randomness) -> int:
    """One Gaussian whole number; above what a sampler of 63 bits makes, with low bits that are uniform."""
    excess = max(0, math.ceil(math.log2(sigma)) - 57)
    coarse = int(gaussian(2, math.ldexp(sigma, -excess), randomness(32))[0])
    return (coarse << excess) + int.from_bytes(randomness(16), "little") % (1 << excess)
