"""Merkle trees over a round's updates, as OpenZeppelin's MerkleProof verifies them.

Leaves are hashed twice (keccak(keccak(words))), so that no inner node can pass for a leaf; pairs are sorted, so
that a proof needs no directions; an odd node moves up unpaired. Leaves are sorted: order carries no meaning.
"""

from __future__ import annotations

from collections.abc import Sequence

from eth_hash.auto import keccak

from gemel.wire.eip712 import word
from gemel.wire.types import Address, Digest


def leaf(device: Address, digest: Digest, weight: int, level: int) -> bytes:
    """keccak(keccak(abi.encode(device, digest, weight, level))): one update of a round."""
    return bytes(keccak(keccak(word(device) + word(digest) + word(weight) + word(level))))


def _pair(a: bytes, b: bytes) -> bytes:
    return bytes(keccak(a + b if a <= b else b + a))


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    if not leaves:
        raise ValueError("a Merkle tree needs at least one leaf")
    levels = [sorted(leaves)]
    while len(levels[-1]) > 1:
        row = levels[-1]
        levels.append([_pair(*row[i : i + 2]) if i + 1 < len(row) else row[i] for i in range(0, len(row), 2)])
    return levels


def root(leaves: Sequence[bytes]) -> Digest:
    """The root in hex. Raises ValueError without leaves."""
    return _levels(leaves)[-1][0].hex()


def proof(leaves: Sequence[bytes], member: bytes) -> list[bytes]:
    """The sibling hashes from `member` up to the root. Raises ValueError if it is not among the leaves."""
    levels = _levels(leaves)
    return _path(levels, levels[0].index(member))


def _path(levels: list[list[bytes]], index: int) -> list[bytes]:
    path = []
    for row in levels[:-1]:
        sibling = index ^ 1
        if sibling < len(row):
            path.append(row[sibling])
        index //= 2
    return path


def proofs(leaves: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """`proof` for every leaf, at the price of one tree. Raises ValueError without leaves."""
    levels = _levels(leaves)
    return {member: _path(levels, index) for index, member in enumerate(levels[0])}


def verify(expected_root: Digest, member: bytes, path: Sequence[bytes]) -> bool:
    """Whether `path` leads from `member` to the root."""
    for sibling in path:
        member = _pair(member, sibling)
    return member.hex() == expected_root
