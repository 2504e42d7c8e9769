"""Bodies under one-time keys. Pure.

The header is that of gemel.sealing.frames with scheme 2, chunks = words, bytes of a chunk = bytes of a word, plain
modulus = delta, ring degree 2048, context = SHA-256 of the round's public string. Behind it stand the words in
planes: all low 32-bit parts, then all 16-bit parts, then all 8-bit parts, as the word's bytes need (7 = 4 + 2 + 1,
6 = 4 + 2, 5 = 4 + 1). An update's words are coefficients with their low bits rounded off, a sum's are whole.
Little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gemel.errors import Refused
from gemel.sealing.budget import BODY_HEADER_BYTES
from gemel.sealing.frames import BodyHead, BodyKind, check_head
from gemel.sealing.onetime.plan import MODULUS, RING_DEGREE, SUM_WORD_BYTES, Plan
from gemel.sealing.onetime.ring import Words
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest

_PLANES = {7: (4, 2, 1), 6: (4, 2), 5: (4, 1)}  # bytes of a word → bytes of its parts, low ones first


def head_of(plan: Plan, context: Digest, kind: BodyKind, contributors: int) -> BodyHead:
    """The only header that such a body can have."""
    return BodyHead.of(
        plan.policy,
        kind,
        context,
        contributors=contributors,
        parameters=plan.parameters,
        chunks=plan.words,
        chunk_bytes=plan.word_bytes if kind == BodyKind.UPDATE else SUM_WORD_BYTES,
        plain_modulus=plan.delta,
        ring_degree=RING_DEGREE,
    )


def pack_body(head: BodyHead, words: Words) -> bytes:
    """A body from its words."""
    parts = [head.pack()]
    shift = 0
    for size in _PLANES[head.chunk_bytes]:
        parts.append((words >> np.uint64(shift)).astype(f"<u{size}").tobytes())
        shift += 8 * size
    return b"".join(parts)


def planes(body: bytes, head: BodyHead) -> Iterator[NDArray[np.unsignedinteger]]:
    """The parts of a body's words, low ones first."""
    start = BODY_HEADER_BYTES
    for size in _PLANES[head.chunk_bytes]:
        yield np.frombuffer(body, f"<u{size}", head.chunks, start)
        start += size * head.chunks


def join_planes(parts: Iterator[NDArray[np.unsignedinteger]], word_bytes: int) -> Words:
    """Words, or sums of words, from their parts or from sums of those."""
    shift = 0
    words: Words | np.uint64 = np.uint64(0)
    for size, part in zip(_PLANES[word_bytes], parts, strict=True):
        words = words + (part.astype(np.uint64) << np.uint64(shift))
        shift += 8 * size
    return np.asarray(words, np.uint64)


def check_body(body: bytes, plan: Plan, context: Digest, kind: BodyKind, contributors: int = 1) -> BodyHead:
    """The header of `body`, if it is whole and of this round. Raises Refused as gemel.sealing.frames.check_body."""
    head = head_of(plan, context, kind, contributors)
    check_head(body, head, BODY_HEADER_BYTES + head.chunks * head.chunk_bytes)
    # Rounded words have no room for anything illegal; whole coefficients leave some above the modulus.
    if head.chunk_bytes == SUM_WORD_BYTES and join_planes(planes(body, head), SUM_WORD_BYTES).max() >= MODULUS:
        raise Refused(Reason.MALFORMED, "a coefficient is not below the modulus")
    return head
