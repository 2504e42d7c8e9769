"""Chunks: an announced transfer is put together in any order, across restarts, and takes nothing else."""

from __future__ import annotations

import struct
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.errors import Malformed, PeerError, Refused
from gemel.wire.chunks import CHUNK_BYTES, Assembly, Transfer, pack_chunk
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256

PAYLOAD = bytes(range(256)) * 1200  # 307,200 bytes: two whole chunks and a part
TRANSFER = Transfer(sha256(PAYLOAD), len(PAYLOAD))
HEAD_BYTES = 56


def chunk(index: int) -> bytes:
    return pack_chunk(TRANSFER, index, PAYLOAD[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])


@pytest.mark.parametrize(
    ("length", "chunks"), [(0, 0), (1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (3 * CHUNK_BYTES, 3)]
)
def test_transfer_has_so_many_chunks(length: int, chunks: int) -> None:
    assert Transfer("ab" * 32, length).chunks == chunks


@given(st.permutations(range(3)), st.lists(st.integers(0, 2), max_size=4))
def test_chunks_in_any_order_and_more_than_once_make_the_payload(order: list[int], again: list[int]) -> None:
    assembly, spool = Assembly(TRANSFER), bytearray(len(PAYLOAD))
    for index in (*order, *again):
        accepted = assembly.accept(chunk(index))
        if accepted is not None:
            offset, data = accepted
            spool[offset : offset + len(data)] = data
    assert assembly.complete
    assert bytes(spool) == PAYLOAD


def test_chunk_that_is_already_here_is_taken_once() -> None:
    assembly = Assembly(TRANSFER)
    assert assembly.accept(chunk(1)) is not None
    assert assembly.accept(chunk(1)) is None


@given(st.sets(st.integers(0, 9)))
def test_missing_ranges_are_what_is_not_here(have: set[int]) -> None:
    assembly = Assembly(Transfer("ab" * 32, 10 * CHUNK_BYTES), set(have))
    ranges = assembly.missing
    assert {index for start, stop in ranges for index in range(start, stop)} == set(range(10)) - have
    assert all(start < stop for start, stop in ranges)
    assert all(stop < start for (_, stop), (start, _) in pairwise(ranges))
    assert assembly.complete == (len(have) == 10)


def test_assembly_goes_on_after_a_restart_where_it_was() -> None:
    resumed = Assembly(TRANSFER, {0, 2})
    assert resumed.missing == [(1, 2)]
    resumed.accept(chunk(1))
    assert resumed.complete


def test_empty_transfer_is_complete_and_takes_no_chunk() -> None:
    empty = Transfer(sha256(b""), 0)
    assert Assembly(empty).complete
    with pytest.raises(Refused) as refusal:
        Assembly(empty).accept(pack_chunk(empty, 0, b""))
    assert refusal.value.reason == Reason.WRONG_LENGTH


def test_chunk_of_another_transfer_is_refused() -> None:
    other = Transfer(sha256(b"other"), len(PAYLOAD))
    with pytest.raises(Refused) as refusal:
        Assembly(TRANSFER).accept(pack_chunk(other, 0, PAYLOAD[:CHUNK_BYTES]))
    assert refusal.value.reason == Reason.DIGEST_MISMATCH


def forged(index: int, size: int, total: int, data: bytes) -> bytes:
    return struct.pack(">4sB3s32sIIQ", b"GCHK", 1, b"", bytes.fromhex(TRANSFER.digest), index, size, total) + data


@pytest.mark.parametrize(
    "message",
    [
        forged(3, 0, len(PAYLOAD), b""),
        forged(2**32 - 1, CHUNK_BYTES, len(PAYLOAD), bytes(CHUNK_BYTES)),
        forged(0, CHUNK_BYTES, len(PAYLOAD) + 1, bytes(CHUNK_BYTES)),
        forged(0, CHUNK_BYTES, 2**64 - 1, bytes(CHUNK_BYTES)),
        forged(0, CHUNK_BYTES - 1, len(PAYLOAD), bytes(CHUNK_BYTES - 1)),
        forged(0, CHUNK_BYTES, len(PAYLOAD), bytes(CHUNK_BYTES - 1)),
        forged(0, CHUNK_BYTES, len(PAYLOAD), bytes(CHUNK_BYTES + 1)),
        forged(0, 2**32 - 1, len(PAYLOAD), bytes(CHUNK_BYTES)),
        forged(2, CHUNK_BYTES, len(PAYLOAD), bytes(CHUNK_BYTES)),
    ],
    ids=["behind", "far", "total", "huge-total", "short", "cut", "padded", "huge", "long-last"],
)
def test_forged_index_size_or_total_is_refused_and_changes_nothing(message: bytes) -> None:
    assembly = Assembly(TRANSFER)
    with pytest.raises(Refused) as refusal:
        assembly.accept(message)
    assert refusal.value.reason == Reason.WRONG_LENGTH
    assert assembly.have == set()


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_are_refused(data: bytes, true_magic: bool) -> None:
    with pytest.raises(PeerError):
        Assembly(TRANSFER).accept((b"GCHK\x01" if true_magic else b"") + data)


@pytest.mark.parametrize("length", [0, HEAD_BYTES - 1])
def test_chunk_cut_inside_its_header_is_malformed(length: int) -> None:
    with pytest.raises(Malformed, match="too short"):
        Assembly(TRANSFER).accept(chunk(0)[:length])


@given(st.integers(0, HEAD_BYTES - 1), st.integers(1, 255))
def test_changed_header_is_refused_or_names_another_chunk_of_that_length(offset: int, mask: int) -> None:
    message = bytearray(chunk(0))
    message[offset] ^= mask
    assembly = Assembly(TRANSFER)
    with suppress(PeerError):
        assembly.accept(bytes(message))
    # Chunks are not signed: what was changed inside them is found by the digest of the whole.
    assert assembly.have <= {0, 1}
