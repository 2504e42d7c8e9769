"""The two formats of this room: sealed bodies and opened sums. Pure.

A sealed body holds an update (with its signed header in front it travels as a frame) or a sum. Every number but the
words follows from policy, model size and context:

    offset  size  field
    0       4     magic b"GSEL"
    4       1     version (1)
    5       1     scheme (1 = bfv-packed; 2 = one-time-keys, 3 = ckks: frames.py in their folders says what differs)
    6       1     kind (1 update, 2 sum)
    7       1     reserved, zero
    8       4     contributors: 1 in an update; in a sum how many were added, one of level 3 as three
    12      4     parameters
    16      4     chunks
    20      4     bytes of a chunk
    24      8     plain modulus t
    32      4     ring degree
    36      32    SHA-256 of the round's public context
    68            chunks: 2 x 4096 coefficients (c0, then c1), each 7 bytes little-endian and below the modulus

No serialisation of TenSEAL or SEAL travels. Their forms carry sizes, versions, compressed streams and parameter
digests that a hostile sender can forge (a forged `sizes` reads past the heap, a small zstd stream may unfold without
bound). Here such fields do not exist: after `check_body` has seen exact numbers and an exact length, all that
is left is words below the modulus, and every choice of those is a ciphertext. They are 7 % smaller, too.

An opened sum: magic b"GOPN", version 1, scheme 1, reserved 2, contributors u32, parameters u32 | sums, each i32.

All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gemel.errors import Malformed, Refused
from gemel.sealing.budget import BODY_HEADER_BYTES, CHUNK_BYTES, MODULUS, RING_DEGREE, WORD_BYTES, Budget
from gemel.sealing.packing import Integers, largest_value
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest

Words = NDArray[np.uint64]  # one ciphertext: shape (2, 4096), each below MODULUS

_HEAD = struct.Struct("<4sBBBBIIIIQI32s")
MAGIC, VERSION = b"GSEL", 1
_SCHEMES = {"bfv-packed": 1, "one-time-keys": 2, "ckks": 3}
_OPENED_HEAD = struct.Struct("<4sBBHII")
_OPENED_MAGIC, _OPENED_VERSION = b"GOPN", 1


def scheme_number(policy: SealingPolicy) -> int:
    """How a policy's scheme stands in headers."""
    return _SCHEMES[policy.scheme]


class BodyKind(IntEnum):
    """What a body's ciphertexts hold."""

    UPDATE = 1
    SUM = 2


class BodyHead(NamedTuple):
    """A body's header, field by field."""

    magic: bytes
    version: int
    scheme: int
    kind: int
    reserved: int
    contributors: int
    parameters: int
    chunks: int
    chunk_bytes: int
    plain_modulus: int
    ring_degree: int
    context: bytes

    @classmethod
    def of(
        cls,
        policy: SealingPolicy,
        kind: BodyKind,
        context: Digest,
        *,
        contributors: int,
        parameters: int,
        chunks: int,
        chunk_bytes: int,
        plain_modulus: int,
        ring_degree: int,
    ) -> Self:
        """The only header that such a body can have, whatever its scheme."""
        return cls(
            magic=MAGIC,
            version=VERSION,
            scheme=scheme_number(policy),
            kind=kind,
            reserved=0,
            contributors=contributors,
            parameters=parameters,
            chunks=chunks,
            chunk_bytes=chunk_bytes,
            plain_modulus=plain_modulus,
            ring_degree=ring_degree,
            context=bytes.fromhex(context),
        )

    def pack(self) -> bytes:
        """The header's 68 bytes."""
        return _HEAD.pack(*self)

    @property
    def form(self) -> tuple[int, ...]:
        """Version to reserved."""
        return self[1:5]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Contributors to ring degree."""
        return self[5:11]


@dataclass(frozen=True, slots=True)
class BodyShape:
    """Everything that a body's header must say: known before it arrives."""

    budget: Budget
    context: Digest
    kind: BodyKind = BodyKind.UPDATE
    contributors: int = 1

    def head(self) -> BodyHead:
        """The only header that a body of this shape can have."""
        return BodyHead.of(
            self.budget.policy,
            self.kind,
            self.context,
            contributors=self.contributors,
            parameters=self.budget.parameters,
            chunks=self.budget.chunks,
            chunk_bytes=CHUNK_BYTES,
            plain_modulus=self.budget.plain_modulus,
            ring_degree=RING_DEGREE,
        )


def pack_body(shape: BodyShape, chunks: Iterable[Words]) -> bytes:
    """A sealed body of this shape from its ciphertexts' words."""
    parts = [shape.head().pack()]
    parts.extend(words.astype("<u8").reshape(-1, 1).view(np.uint8)[:, :WORD_BYTES].tobytes() for words in chunks)
    return b"".join(parts)


def check_head(body: bytes, due: BodyHead, due_bytes: int) -> None:
    """Return only if `body` has exactly this header and length. Raises Refused as `check_body`."""
    if len(body) < BODY_HEADER_BYTES or body[:4] != MAGIC:
        raise Refused(Reason.PLAINTEXT, "not a sealed update")
    given = BodyHead(*_HEAD.unpack_from(body))
    if given.form != due.form:
        raise Refused(Reason.MALFORMED, f"version, scheme and kind are {given.form}, {due.form} expected")
    if given.context != due.context:
        raise Refused(Reason.DIGEST_MISMATCH, f"sealed for the context {given.context.hex()[:12]}")
    if given.sizes != due.sizes:
        raise Refused(Reason.FORGED_SIZE, f"counts and sizes are {given.sizes}, {due.sizes} expected")
    if len(body) != due_bytes:
        raise Refused(Reason.WRONG_LENGTH, f"{len(body)} bytes, {due_bytes} needed")


def check_body(body: bytes, shape: BodyShape) -> None:
    """Return only if `body` is whole and of this shape; nothing of TenSEAL has seen a byte of it by then.

    Raises Refused: plaintext (nothing sealed, or a ciphertext that hides nothing), malformed (version, scheme,
    kind, a coefficient not below the modulus), digest_mismatch (sealed for another context), forged_size (counts or
    sizes are not those of policy and model), wrong_length.
    """
    check_head(body, shape.head(), shape.budget.body_bytes)
    for index, words in enumerate(body_words(body)):
        if words.max() >= MODULUS:
            raise Refused(Reason.MALFORMED, f"chunk {index} has a coefficient that is not below the modulus")
        if not words[1].any():
            raise Refused(Reason.PLAINTEXT, f"chunk {index} hides nothing: its c1 is zero")


def body_words(body: bytes) -> Iterator[Words]:
    """The ciphertexts of a body that `check_body` has passed, one after the other."""
    chunk = np.zeros((2 * RING_DEGREE, 8), np.uint8)
    for start in range(BODY_HEADER_BYTES, len(body), CHUNK_BYTES):
        raw = np.frombuffer(body, np.uint8, CHUNK_BYTES, start)
        chunk[:, :WORD_BYTES] = raw.reshape(-1, WORD_BYTES)
        yield chunk.view("<u8").reshape(2, RING_DEGREE).astype(np.uint64)


def times(level: int, words: Words) -> Words:
    """A ciphertext multiplied by a small integer: exactly, and with its noise grown by that factor."""
    return words if level == 1 else words * np.uint64(level) % np.uint64(MODULUS)


@dataclass(frozen=True, slots=True)
class OpenedSum:
    """The quantised sum of a round: `sums` holds, for each parameter, the contributors' integers added up.

    An update of level 3 counts as three contributors.
    """

    contributors: int
    sums: Integers

    def pack(self, policy: SealingPolicy) -> bytes:
        """The bytes whose digest the custodian records on chain."""
        head = _OPENED_HEAD.pack(
            _OPENED_MAGIC, _OPENED_VERSION, scheme_number(policy), 0, self.contributors, self.sums.size
        )
        return head + self.sums.astype("<i4").tobytes()

    @classmethod
    def parse(cls, data: bytes, policy: SealingPolicy, parameters: int) -> OpenedSum:
        """Raises Malformed unless `data` is an opened sum for so many parameters, with values its policy allows."""
        if len(data) != _OPENED_HEAD.size + 4 * parameters:
            raise Malformed("opened sum", f"{len(data)} bytes for {parameters} parameters")
        magic, version, scheme, reserved, contributors, given = _OPENED_HEAD.unpack_from(data)
        form = (_OPENED_MAGIC, _OPENED_VERSION, scheme_number(policy), 0, parameters)
        most = policy.contributors * policy.levels
        if (magic, version, scheme, reserved, given) != form or not 1 <= contributors <= most:
            raise Malformed("opened sum", "its header is not one of this round")
        opened = cls(contributors, np.frombuffer(data, "<i4", parameters, _OPENED_HEAD.size).astype(np.int64))
        opened.check_range(policy)
        return opened

    def check_range(self, policy: SealingPolicy) -> None:
        """Raises Malformed if a sum is larger than its contributors can make it."""
        limit = largest_value(policy.bits) * self.contributors
        if np.abs(self.sums).max(initial=0) > limit:
            raise Malformed("opened sum", f"a value is outside ± {limit}")
