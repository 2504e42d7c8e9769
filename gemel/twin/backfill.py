"""Revisions of a twin that could not be published when they arose: the document `gemel.twin.backfill/1`.

They are history: whoever takes them in leaves the twin that stands as it is. The same revision may come twice. So may
its events, which the agent also says as soon as there is a link, to those who hear it then.

A registry answers each document with `gemel.twin.backfill-answer/1`, once what it holds is committed, or with why it
takes nothing of it. Until then an agent keeps the revisions: docs/decisions/0011-history-after-an-outage.md.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from gemel.errors import Malformed
from gemel.twin.alerts import AlertEvent
from gemel.twin.state import Twin
from gemel.wire.messages import decode, encode
from gemel.wire.topics import TopicLevel
from gemel.wire.types import Count, Digest, Millis, sha256

SCHEMA: Final = "gemel.twin.backfill/1"
ANSWER_SCHEMA: Final = "gemel.twin.backfill-answer/1"
MAX_REVISIONS = 100
MAX_BACKFILL_BYTES = 1_000_000
MAX_REFUSAL = 500  # characters


class Kept(msgspec.Struct, frozen=True):
    """A revision, and when the agent would have published it, by the agent's clock.

    `events`: the alerts that were raised and cleared in it, or since the one before.
    """

    at_ms: Millis
    twin: Twin
    events: tuple[AlertEvent, ...] = ()


class Backfill(msgspec.Struct, frozen=True):
    """Some revisions of one twin, oldest first. `dropped`: how many this agent ever had no room for."""

    schema: Literal["gemel.twin.backfill/1"]
    site: TopicLevel
    asset: TopicLevel
    dropped: Count
    revisions: Annotated[tuple[Kept, ...], msgspec.Meta(min_length=1, max_length=MAX_REVISIONS)]


class Answer(msgspec.Struct, frozen=True):
    """The registry's word on the document with this digest; `refusal` is empty where it is committed."""

    schema: Literal["gemel.twin.backfill-answer/1"]
    digest: Digest
    refusal: Annotated[str, msgspec.Meta(max_length=MAX_REFUSAL)] = ""


def to_json(backfill: Backfill) -> bytes:
    """Canonical JSON."""
    return encode(backfill)


def from_json(data: bytes) -> Backfill:
    """Raises Malformed for anything else, for more than MAX_BACKFILL_BYTES, and for revisions of another twin."""
    if len(data) > MAX_BACKFILL_BYTES:
        raise Malformed("Backfill", f"{len(data)} bytes, at most {MAX_BACKFILL_BYTES}")
    backfill = decode(Backfill, data)
    for kept in backfill.revisions:
        told: tuple[Twin | AlertEvent, ...] = (kept.twin, *kept.events)
        for one in told:
            if (one.site, one.asset) != (backfill.site, backfill.asset):
                raise Malformed("Backfill", f"a {type(one).__name__} of {one.site}/{one.asset} among another's")
    return backfill


def answer_to(document: bytes, refusal: str = "") -> bytes:
    """The answer to a document, as JSON."""
    return encode(Answer(ANSWER_SCHEMA, sha256(document), refusal[:MAX_REFUSAL]))


def answer_from_json(data: bytes) -> Answer:
    """Raises Malformed for anything else."""
    return decode(Answer, data)
