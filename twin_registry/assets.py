"""What may be declared about an asset, and the tree that the declarations make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from gemel.errors import Malformed
from gemel.ports import AssetRecord
from gemel.twin.state import Name
from gemel.wire.messages import decode

MAX_BYTES = 64 * 1024

PLACE = r"^[a-z0-9][a-z0-9._-]{0,63}/[a-z0-9][a-z0-9._-]{0,63}$"
Place = Annotated[str, msgspec.Meta(pattern=PLACE.replace("$", r"\Z"))]


class Relation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an asset has to do with another: kind `feeds`, to `north/tank-2`."""

    kind: Name
    to: Place


class Asset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A declared asset: a machine with a twin, or a line or hall without one. `parent`: where it belongs."""

    title: Annotated[str, msgspec.Meta(max_length=200)] = ""
    parent: Place | None = None
    relations: Annotated[tuple[Relation, ...], msgspec.Meta(max_length=256)] = ()


class Node(msgspec.Struct, frozen=True):
    """A line of the tree: `depth` says how far below its root the asset stands."""

    site: str
    asset: str
    title: str
    parent: str | None
    depth: int


class Link(msgspec.Struct, frozen=True):
    """One relation: `source` (north/pump-1) is what declared it, `target` what it has to do with."""

    source: str
    kind: str
    target: str


def from_json(data: bytes) -> Asset:
    """Raises Malformed."""
    if len(data) > MAX_BYTES:
        raise Malformed("Asset", f"{len(data)} bytes, at most {MAX_BYTES}")
    return decode(Asset, data)


def closes_a_circle(site: str, asset: str, parent: str | None, records: Iterable[AssetRecord]) -> bool:
    """Whether the asset would belong to itself, directly or through others."""
    parents = {f"{r.site}/{r.asset}": from_json(bytes(r.document)).parent for r in records}
    own = f"{site}/{asset}"
    while parent is not None and parent != own:
        parent = parents.get(parent)
    return parent == own


def tree(records: Iterable[AssetRecord]) -> Sequence[Node]:
    """The assets, each followed by what belongs to it; those whose parent is not among `records` are roots."""
    known = {f"{r.site}/{r.asset}": (r, from_json(bytes(r.document))) for r in records}
    children: dict[str | None, list[str]] = defaultdict(list)
    for place, (_, declared) in sorted(known.items(), reverse=True):  # the last of a list is taken first
        children[declared.parent if declared.parent in known else None].append(place)
    lines = []
    waiting = [(place, 0) for place in children[None]]
    while waiting:
        place, depth = waiting.pop()
        record, declared = known[place]
        lines.append(Node(record.site, record.asset, declared.title, declared.parent, depth))
        waiting += [(child, depth + 1) for child in children[place]]
    return lines


def links(records: Iterable[AssetRecord]) -> Sequence[Link]:
    """Every relation that was declared, by source."""
    return [
        Link(f"{record.site}/{record.asset}", relation.kind, relation.to)
        for record in records
        for relation in from_json(bytes(record.document)).relations
    ]
