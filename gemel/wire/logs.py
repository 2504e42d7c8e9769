"""Logs whose roots are anchored on chain (contracts/src/AuditAnchors.sol): names, leaves, proofs. Pure.

An entry is canonical JSON that says its own number (`sequence`), from 1 on without a gap; its leaf is
keccak(keccak(entry)), and the tree is that of gemel/wire/merkle.py. So whoever has an entry, its path and the anchor
needs to believe nobody who keeps the log. Roots can be gathered under a further root (`root_of_roots`): pairs are
sorted and proofs name no directions, so the two paths, one behind the other, are the path from entry to anchor.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from eth_hash.auto import keccak

from gemel.wire import merkle
from gemel.wire.types import Address, Count, Digest

DEPLOYMENT_LOG = "deployments"  # every deployment and rollback message that the chain listener sent
ACCESS_LOG = "accesses"  # every read of the twin registry


class AnchorRecord(msgspec.Struct, frozen=True):
    """A root as the chain has it, with the entries that it covers."""

    root: Digest
    first: Count
    last: Count
    anchored_at_s: Count  # of the block
    by: Address


class _Numbered(msgspec.Struct, frozen=True):
    sequence: Count


def log_id(name: str) -> Digest:
    """A log's name on chain: keccak of its text."""
    return bytes(keccak(name.encode())).hex()


def leaf(entry: bytes) -> bytes:
    """The leaf of an entry's bytes; hashed twice, so that no inner node passes for one."""
    return bytes(keccak(keccak(entry)))


def root_of(entries: Sequence[bytes]) -> Digest:
    """The root over entries. Raises ValueError where there are none."""
    return merkle.root([leaf(entry) for entry in entries])


def prove(entries: Sequence[bytes], entry: bytes) -> list[bytes]:
    """The path from `entry` to the root over all `entries`. Raises ValueError if it is not among them."""
    return merkle.proof([leaf(each) for each in entries], leaf(entry))


def root_of_roots(roots: Sequence[Digest]) -> Digest:
    """One root over several. Raises ValueError where there are none."""
    return merkle.root([bytes.fromhex(each) for each in roots])


def prove_root(roots: Sequence[Digest], root: Digest) -> list[bytes]:
    """The path from `root` on to the root over all `roots`. Raises ValueError if it is not among them."""
    return merkle.proof([bytes.fromhex(each) for each in roots], bytes.fromhex(root))


def number_of(entry: bytes) -> Count | None:
    """Which number an entry says that it has; None for bytes that are no entry."""
    try:
        return msgspec.json.decode(entry, type=_Numbered).sequence
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def verify_entry(entry: bytes, number: int, path: Sequence[bytes], anchor: AnchorRecord) -> bool:
    """Whether `entry` is the log's entry `number` under the anchor that covers it."""
    covered = anchor.first <= number <= anchor.last
    return covered and number_of(entry) == number and merkle.verify(anchor.root, leaf(entry), path)


def verify_range(entries: Sequence[bytes], anchor: AnchorRecord) -> bool:
    """Whether these are all the entries under an anchor: none left out, none added, none twice."""
    numbers = [number_of(entry) for entry in entries]
    return numbers == list(range(anchor.first, anchor.last + 1)) and root_of(entries) == anchor.root
