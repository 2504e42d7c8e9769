"""What an edge agent says about itself on `agent/<name>/status`: the document `gemel.agent/1`, canonical JSON."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from gemel.errors import Malformed
from gemel.twin.state import RunningModel, TopicLevel
from gemel.wire.messages import decode, encode
from gemel.wire.types import Count, Millis

SCHEMA: Final = "gemel.agent/1"
ONLINE, OFFLINE = b"online", b"offline"  # the whole payload of `agent/<name>/availability`
MAX_STATUS_BYTES = 16 * 1024


class Refusal(msgspec.Struct, frozen=True):
    """The last thing that the agent refused: a member of gemel.wire.reasons.Reason, and what it was about."""

    reason: str
    detail: str
    time_ms: Millis


class AgentStatus(msgspec.Struct, frozen=True):
    """What an agent runs, and why. `examples`: labelled windows that it can train from."""

    schema: Literal["gemel.agent/1"]
    site: TopicLevel
    name: TopicLevel
    asset: TopicLevel
    model: RunningModel | None
    refusal: Refusal | None
    examples: Count
    linked_since_ms: Millis


def status_to_json(status: AgentStatus) -> bytes:
    """Canonical JSON."""
    return encode(status)


def status_from_json(data: bytes) -> AgentStatus:
    """Raises Malformed for anything that is not `gemel.agent/1`."""
    if len(data) > MAX_STATUS_BYTES:
        raise Malformed("AgentStatus", f"{len(data)} bytes, at most {MAX_STATUS_BYTES}")
    return decode(AgentStatus, data)
