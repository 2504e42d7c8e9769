"""Bodies under CKKS. Pure.

The header is that of gemel.sealing.frames with scheme 3, plain modulus = log2 of the scale, ring degree 4096. A chunk
is c0 and then c1, each under the first prime and then under the second: 4096 values, transformed (SEAL keeps them
so), each 5 bytes little-endian and below its prime.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from gemel.errors import Refused
from gemel.sealing.budget import BODY_HEADER_BYTES
from gemel.sealing.ckks.plan import CHUNK_BYTES, MODULI, RING_DEGREE, WORD_BYTES, WORDS, Plan
from gemel.sealing.frames import BodyHead, BodyKind, check_head
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest

Words = NDArray[np.uint64]  # one ciphertext: shape (polynomials, 2 primes, 4096), each below its prime
PRIMES: Words = np.array(MODULI, np.uint64)[:, None]  # to be taken as a modulus of Words
_SHAPE = (2, len(MODULI), RING_DEGREE)


def head_of(plan: Plan, context: Digest, kind: BodyKind, contributors: int = 1) -> BodyHead:
    """The only header that such a body can have."""
    return BodyHead.of(
        plan.policy,
        kind,
        context,
        contributors=contributors,
        parameters=plan.parameters,
        chunks=plan.chunks,
        chunk_bytes=CHUNK_BYTES,
        plain_modulus=plan.scale_bits,
        ring_degree=RING_DEGREE,
    )


def pack_body(head: BodyHead, chunks: Iterable[Words]) -> bytes:
    """A body from its ciphertexts' words."""
    parts = [head.pack()]
    parts.extend(words.astype("<u8").reshape(-1, 1).view(np.uint8)[:, :WORD_BYTES].tobytes() for words in chunks)
    return b"".join(parts)


def body_words(body: bytes) -> Iterator[Words]:
    """The ciphertexts of a body of the right length, one after the other."""
    chunk = np.zeros((WORDS, 8), np.uint8)
    for start in range(BODY_HEADER_BYTES, len(body), CHUNK_BYTES):
        chunk[:, :WORD_BYTES] = np.frombuffer(body, np.uint8, CHUNK_BYTES, start).reshape(-1, WORD_BYTES)
        yield chunk.view("<u8").reshape(_SHAPE).astype(np.uint64)


def check_body(body: bytes, plan: Plan, head: BodyHead) -> None:
    """Return only if `body` is whole and has this header. Raises Refused as gemel.sealing.frames.check_body."""
    for _ in checked_words(body, plan, head):
        pass


def checked_words(body: bytes, plan: Plan, head: BodyHead) -> Iterator[Words]:
    """`body_words`, each of which holds. Raises Refused as `check_body`, on the way: what came before may be lost."""
    check_head(body, head, plan.body_bytes)
    for index, words in enumerate(body_words(body)):
        if (words >= PRIMES).any():
            raise Refused(Reason.MALFORMED, f"chunk {index} has a value that is not below its prime")
        if not words[1].any():
            raise Refused(Reason.PLAINTEXT, f"chunk {index} hides nothing: its c1 is zero")
        yield words
