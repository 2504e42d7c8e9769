"""What a trainer and the custodian send each other. Pure.

    magic b"GREF", version 1, kind u8 (1 request, 2 answer, 3 release), features u16, outputs u16, reserved u16
    | SHA-256 of the training context 32 | items

    request   for each feature: c1 (2 primes x 8192 words, transformed), then the 2C coefficients of c0, masked
    answer    for each feature: c0 and c1 of a fresh ciphertext (5 primes x 8192 words each)
    release   for each feature and output: c1, then one coefficient of c0, masked

Words are 6 bytes, little-endian, below their prime. All lengths follow from the plan, so nothing that is parsed says
how long it is; after `parse` every choice of words is a ciphertext.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from gemel.errors import Refused
from gemel.sealing.encrypted_training.plan import LOW, RING_DEGREE, WORD_BYTES, HeadPlan
from gemel.sealing.encrypted_training.ring import MODULI, PRIMES, Words
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest

_HEAD = struct.Struct("<4sBBHHH32s")
_MAGIC, _VERSION = b"GREF", 1


class Kind(IntEnum):
    """What a message holds."""

    REQUEST = 1
    ANSWER = 2
    RELEASE = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything about a message that its receiver knows before it comes."""

    plan: HeadPlan
    context: Digest
    kind: Kind

    @property
    def items(self) -> int:
        """Sealed polynomials, or numbers, in it."""
        return self.plan.features * (self.plan.outputs if self.kind == Kind.RELEASE else 1)

    @property
    def primes(self) -> int:
        """Primes that words are given under."""
        return len(MODULI) if self.kind == Kind.ANSWER else LOW

    @property
    def columns(self) -> int:
        """Words of an item under each prime."""
        behind = {Kind.REQUEST: self.plan.coefficients, Kind.ANSWER: RING_DEGREE, Kind.RELEASE: 1}
        return RING_DEGREE + behind[self.kind]

    @property
    def size(self) -> int:
        """Bytes: exact."""
        return _HEAD.size + self.items * self.primes * self.columns * WORD_BYTES

    def _head(self) -> bytes:
        context = bytes.fromhex(self.context)
        return _HEAD.pack(_MAGIC, _VERSION, self.kind, self.plan.features, self.plan.outputs, 0, context)

    def pack(self, words: Words) -> bytes:
        """A message of words (items, primes, columns)."""
        if words.shape != (self.items, self.primes, self.columns):
            raise ValueError(f"{words.shape} words for a {self.kind.name.lower()}")
        return self._head() + words.astype("<u8").reshape(-1, 1).view(np.uint8)[:, :WORD_BYTES].tobytes()

    def parse(self, data: bytes) -> Words:
        """The words (items, primes, columns). Raises Refused: malformed, digest_mismatch, wrong_length."""
        if len(data) != self.size:
            raise Refused(Reason.WRONG_LENGTH, f"{len(data)} bytes, {self.size} needed")
        if data[: _HEAD.size - 32] != self._head()[:-32]:
            raise Refused(Reason.MALFORMED, f"not a {self.kind.name.lower()} of this task")
        if data[: _HEAD.size] != self._head():
            raise Refused(Reason.DIGEST_MISMATCH, "sealed for another context")
        raw = np.zeros((self.items * self.primes * self.columns, 8), np.uint8)
        raw[:, :WORD_BYTES] = np.frombuffer(data, np.uint8, offset=_HEAD.size).reshape(-1, WORD_BYTES)
        words = raw.view("<u8").reshape(self.items, self.primes, self.columns).astype(np.uint64)
        if (words >= PRIMES[: self.primes]).any():
            raise Refused(Reason.MALFORMED, "a word is not below its prime")
        return words
