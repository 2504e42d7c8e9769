"""The log of reads: written before the answer goes out, and gathered under a Merkle root once an interval.

A leaf is keccak(keccak(canonical JSON of the entry)), and the tree is that of gemel/wire/merkle.py, so a root that
the chain holds proves an entry to anybody. Entries are numbered without a gap, and each root says which it covers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from eth_hash.auto import keccak

from gemel.ports import Access, AccessRoot, AccessStore
from gemel.wire import merkle
from gemel.wire.messages import encode
from gemel.wire.types import Digest

MAX_UNDER_A_ROOT = 10_000


class AccessProof(msgspec.Struct, frozen=True):
    """An entry, the root that covers it, and the sibling hashes (hex) from the one to the other."""

    entry: Access
    root: AccessRoot
    path: Sequence[Digest]


def leaf(entry: Access) -> bytes:
    """The entry's leaf."""
    return bytes(keccak(keccak(encode(entry))))


async def seal(store: AccessStore, now_ms: int) -> AccessRoot | None:
    """Put the entries since the last root under a new one, or as many as one may cover; None where there are none."""
    last, sealed = await store.access_state()
    if last == sealed:
        return None
    entries = await store.accesses(after=sealed, limit=min(last - sealed, MAX_UNDER_A_ROOT))
    digest = await asyncio.to_thread(_root, entries)
    root = AccessRoot(entries[0].sequence, entries[-1].sequence, now_ms, digest)
    await store.put_access_root(root)
    return root


async def prove(store: AccessStore, sequence: int) -> AccessProof | None:
    """The proof of one entry; None where it is not kept, or under no root yet."""
    roots = await store.access_roots(after=max(0, sequence - MAX_UNDER_A_ROOT), limit=MAX_UNDER_A_ROOT)
    root = next((r for r in roots if r.first <= sequence <= r.last), None)
    if root is None:
        return None
    entries = await store.accesses(after=root.first - 1, limit=root.last - root.first + 1)
    if not entries or entries[0].sequence != root.first:
        return None  # forgotten
    entry = entries[sequence - root.first]
    return AccessProof(entry, root, await asyncio.to_thread(_path, entries, entry))


def holds(proof: AccessProof) -> bool:
    """Whether the proof leads from its entry to its root: what an auditor asks, who has the root from elsewhere."""
    return merkle.verify(proof.root.root, leaf(proof.entry), [bytes.fromhex(sibling) for sibling in proof.path])


def _root(entries: Sequence[Access]) -> Digest:
    return merkle.root([leaf(entry) for entry in entries])


def _path(entries: Sequence[Access], entry: Access) -> Sequence[Digest]:
    return [sibling.hex() for sibling in merkle.proof([leaf(e) for e in entries], leaf(entry))]
