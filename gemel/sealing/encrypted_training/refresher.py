"""The custodian's side of training on encrypted data: refreshes what it cannot read. Only custodian/ imports this.

Everything it decrypts carries a mask that only the trainer knows, 2^40 times as wide as what it hides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tenseal as ts

from gemel.errors import Malformed
from gemel.sealing.bfv import secret_bytes
from gemel.sealing.encrypted_training.context import (
    create_context,
    load_context,
    load_public,
    loader,
    public_bytes,
    sealed_zero,
    secret_words,
)
from gemel.sealing.encrypted_training.frames import Kind, Shape
from gemel.sealing.encrypted_training.plan import LOW, RING_DEGREE, SCALE_BITS, HeadPlan
from gemel.sealing.encrypted_training.release import seal_masked
from gemel.sealing.encrypted_training.ring import (
    MODULI,
    PRIMES,
    Words,
    multiply,
    residues,
    transform,
    transform_back,
    whole,
)
from gemel.wire.messages import SealingPolicy
from gemel.wire.types import sha256


class Refresher:
    """Holds the secret key of one round's training context."""

    def __init__(self, public: bytes, secret: bytes) -> None:
        """Raises Malformed if `secret` holds no secret key, Refused for another ring."""
        context = load_context(secret)
        if not context.has_secret_key():
            raise Malformed("training key", "there is no secret key in it")
        self._public, self._secret = public, secret
        self._digest = sha256(public)
        self._context: ts.Context = load_public(public)
        self._key = secret_words(context, loader(self._context))

    @classmethod
    def create(cls) -> Refresher:
        """A fresh key for one round."""
        context = create_context()
        return cls(public_bytes(context), secret_bytes(context))

    def public_context(self) -> bytes:
        """What trainers encrypt and compute with."""
        return self._public

    def to_bytes(self) -> bytes:
        """Public context and secret, for a file of mode 0600."""
        return len(self._public).to_bytes(4, "little") + self._public + self._secret

    @classmethod
    def from_bytes(cls, data: bytes) -> Refresher:
        """What `to_bytes` wrote down. Raises as the constructor."""
        end = 4 + int.from_bytes(data[:4], "little")
        return cls(data[4:end], data[end:])

    def refresh(self, plan: HeadPlan, request: bytes) -> bytes:
        """Fresh ciphertexts of the masked weights in a request. Raises Refused as `Shape.parse`."""
        items = Shape(plan, self._digest, Kind.REQUEST).parse(request)
        stride = RING_DEGREE // plan.coefficients
        fresh = [self._sealed(self._numbers(item, stride), stride) for item in items]
        return Shape(plan, self._digest, Kind.ANSWER).pack(np.array(fresh, np.uint64))

    def round_off(self, plan: HeadPlan, release: bytes) -> list[int]:
        """The masked integers in a release, one for each feature and output. Raises Refused as `Shape.parse`."""
        items = Shape(plan, self._digest, Kind.RELEASE).parse(release)
        return [self._numbers(item, RING_DEGREE)[0] >> SCALE_BITS for item in items]

    def _numbers(self, item: Words, stride: int) -> list[int]:
        """The coefficients, `stride` apart, of what a masked item holds."""
        product = transform_back(multiply(item[:, :RING_DEGREE], self._key[:LOW]))[:, ::stride]
        return whole((product + item[:, RING_DEGREE:]) % PRIMES[:LOW])

    def _sealed(self, numbers: list[int], stride: int) -> Words:
        """A fresh ciphertext, c0 beside c1, of the polynomial that has these coefficients, `stride` apart."""
        polynomial = np.zeros((len(MODULI), RING_DEGREE), np.uint64)
        polynomial[:, ::stride] = residues(numbers, len(MODULI))
        words = sealed_zero(self._context, len(MODULI))
        return np.concatenate([(words[0] + transform(polynomial)) % PRIMES, words[1]], axis=1)


# --- for the custodian's worker processes ---


@dataclass(frozen=True, slots=True)
class TrainingKey:
    """A round's training key as bytes: `secret` for the custodian's own store, `public` for trainers."""

    secret: bytes
    public: bytes


def create_key() -> TrainingKey:
    """A fresh key for one round."""
    refresher = Refresher.create()
    return TrainingKey(refresher.to_bytes(), refresher.public_context())


def public_context_of(secret: bytes) -> bytes:
    """The public half of a stored key."""
    return Refresher.from_bytes(secret).public_context()


def refresh(secret: bytes, plan: HeadPlan, request: bytes) -> bytes:
    """`Refresher.refresh` with a stored key."""
    return Refresher.from_bytes(secret).refresh(plan, request)


def release(secret: bytes, plan: HeadPlan, request: bytes, context: bytes, policy: SealingPolicy) -> bytes:
    """The masked integers of a release, sealed with the round's own public context."""
    return seal_masked(context, policy, Refresher.from_bytes(secret).round_off(plan, request))
