"""Large payloads as chunks that can be resumed. Pure: `Assembly` keeps the book, the caller keeps the bytes.

    magic b"GCHK", version 1, reserved 3 | transfer digest 32 | index u32 | chunk bytes u32 | total bytes u64 | data

A transfer is named by the SHA-256 of its whole payload and announced, with its length, in a signed message
(`Transfer`). The receiver pulls: it subscribes, then asks the sender for the chunks that it lacks. So nothing is
lost to a late subscription, a restart goes on where it was, and nobody can push bytes that were not announced.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import msgspec

from gemel.errors import Malformed, Refused
from gemel.wire.reasons import Reason
from gemel.wire.types import Count, Digest

CHUNK_BYTES = 128 * 1024
_HEAD = struct.Struct(">4sB3s32sIIQ")
_MAGIC, _VERSION = b"GCHK", 1


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a signed message says of a payload that follows in chunks."""

    digest: Digest
    length: Count

    @property
    def chunks(self) -> int:
        """How many chunks the payload has; an empty one has none."""
        return -(-self.length // CHUNK_BYTES)


def pack_chunk(transfer: Transfer, index: int, data: bytes) -> bytes:
    """Chunk `index` as it travels."""
    head = _HEAD.pack(_MAGIC, _VERSION, b"\0\0\0", bytes.fromhex(transfer.digest), index, len(data), transfer.length)
    return head + data


@dataclass(slots=True)
class Assembly:
    """Which chunks of one announced transfer are here. Raises on anything that was not announced."""

    transfer: Transfer
    have: set[int] = field(default_factory=set)

    def accept(self, message: bytes) -> tuple[int, bytes] | None:
        """(offset, data) to write for a chunk message, or None where that chunk is already here.

        Raises Malformed for what is no chunk, Refused(wrong_length | digest_mismatch) for one of something else.
        """
        if len(message) < _HEAD.size:
            raise Malformed("chunk", "too short")
        magic, version, _, digest, index, size, total = _HEAD.unpack_from(message)
        if magic != _MAGIC or version != _VERSION:
            raise Malformed("chunk", "magic or version is not ours")
        if digest.hex() != self.transfer.digest:
            raise Refused(Reason.DIGEST_MISMATCH, "chunk of another transfer")
        offset = index * CHUNK_BYTES
        due = min(CHUNK_BYTES, self.transfer.length - offset)
        if total != self.transfer.length or due <= 0 or size != due or len(message) - _HEAD.size != due:
            raise Refused(Reason.WRONG_LENGTH, f"chunk {index} does not fit {self.transfer.length} bytes")
        if index in self.have:
            return None
        self.have.add(index)
        return offset, message[_HEAD.size :]

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Half-open ranges of chunk indices that are not here yet."""
        ranges: list[tuple[int, int]] = []
        for index in range(self.transfer.chunks):
            if index in self.have:
                continue
            if ranges and ranges[-1][1] == index:
                ranges[-1] = (ranges[-1][0], index + 1)
            else:
                ranges.append((index, index + 1))
        return ranges

    @property
    def complete(self) -> bool:
        """Whether every chunk is here (the digest is for the keeper of the bytes to check)."""
        return len(self.have) == self.transfer.chunks
