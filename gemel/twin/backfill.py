"""Revisions of a twin that could not be published when they arose: the document `gemel.twin.backfill/1`.

They are history: whoever takes them in leaves the twin that stands as it is. The same revision may come twice.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from gemel.errors import Malformed
from gemel.twin.state import TopicLevel, Twin
from gemel.wire.messages import decode, encode
from gemel.wire.types import Count, Millis

SCHEMA: Final = "gemel.twin.backfill/1"
MAX_REVISIONS = 100
MAX_BACKFILL_BYTES = 1_000_000


class Kept(msgspec.Struct, frozen=True):
    """A revision, and when the agent would have published it, by the agent's clock."""

    at_ms: Millis
    twin: Twin


class Backfill(msgspec.Struct, frozen=True):
    """Some revisions of one twin, oldest first. `dropped`: how many this agent ever had no room for."""

    schema: Literal["gemel.twin.backfill/1"]
    site: TopicLevel
    asset: TopicLevel
    dropped: Count
    revisions: Annotated[tuple[Kept, ...], msgspec.Meta(min_length=1, max_length=MAX_REVISIONS)]


def to_json(backfill: Backfill) -> bytes:
    """Canonical JSON."""
    return encode(backfill)


def from_json(data: bytes) -> Backfill:
    """Raises Malformed for anything else, for more than MAX_BACKFILL_BYTES, and for revisions of another twin."""
    if len(data) > MAX_BACKFILL_BYTES:
        raise Malformed("Backfill", f"{len(data)} bytes, at most {MAX_BACKFILL_BYTES}")
    backfill = decode(Backfill, data)
    for kept in backfill.revisions:
        if (kept.twin.site, kept.twin.asset) != (backfill.site, backfill.asset):
            raise Malformed("Backfill", f"a revision of {kept.twin.site}/{kept.twin.asset} among those of another")
    return backfill
