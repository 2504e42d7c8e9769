"""The serialised forms of TenSEAL and SEAL, for ciphertexts of this process's own making.

Ciphertexts travel as words (see frames.py). The forms that TenSEAL's public functions give and take are made and
taken apart here, around a ciphertext made on the spot, so no byte of them, words apart, ever comes from outside.

TenSEAL writes a vector of one ciphertext in protobuf: field 1 `sizes`, packed, the slots of each ciphertext; field 2
each ciphertext, as SEAL saves it; whatever the scheme puts behind. SEAL writes a header and its members, compressed
or not; the words are the members' end.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

_SEAL_HEAD = struct.Struct("<HBBBBHQ")  # magic, header bytes, version major and minor, compression, reserved, size
_UNCOMPRESSED, _ZSTD = 0, 2


class _Parts(NamedTuple):
    head: bytes
    members: bytes
    tail: bytes


def _varint(number: int) -> bytes:
    """Protobuf's base-128 integer."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _lead(slots: int) -> bytes:
    return b"\x0a" + _varint(len(_varint(slots))) + _varint(slots) + b"\x12"


def words_of(serialised: bytes, slots: int, words: int) -> NDArray[np.uint64]:
    """The so many words of the one ciphertext in a serialised vector of so many slots."""
    members = _split(serialised, slots).members
    return np.frombuffer(members, "<u8", words, len(members) - 8 * words)


class Form:
    """What stands around the words of a ciphertext, taken from an example."""

    def __init__(self, example: bytes, slots: int, words: int) -> None:
        head, members, self._tail = _split(example, slots)
        magic, head_bytes, major, minor, _, reserved, _ = _SEAL_HEAD.unpack(head)
        total = _SEAL_HEAD.size + len(members)
        seal_head = _SEAL_HEAD.pack(magic, head_bytes, major, minor, _UNCOMPRESSED, reserved, total)
        self._prefix = _lead(slots) + _varint(total) + seal_head + members[: -8 * words]

    def around(self, words: NDArray[np.uint64]) -> bytes:
        """The serialised vector with these words."""
        return self._prefix + words.astype("<u8").tobytes() + self._tail


def _split(serialised: bytes, slots: int) -> _Parts:
    """SEAL's header and uncompressed members out of a serialised vector, and what the scheme put behind."""
    start = len(_lead(slots))
    length = shift = 0
    while True:  # the varint that gives the ciphertext's length
        length |= (serialised[start] & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if not serialised[start - 1] & 0x80:
            break
    head = serialised[start : start + _SEAL_HEAD.size]
    _, _, _, _, compression, _, size = _SEAL_HEAD.unpack(head)
    if not serialised.startswith(_lead(slots)) or compression != _ZSTD or size != length:
        raise RuntimeError("this TenSEAL writes ciphertexts in a form that Gemel does not know")
    members = serialised[start + _SEAL_HEAD.size : start + length]
    return _Parts(
        head, zstandard.ZstdDecompressor().decompressobj().decompress(members), serialised[start + length :]
    )
