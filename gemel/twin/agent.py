"""What an edge agent says about itself on `agent/<name>/status`: the document `gemel.agent/1`, canonical JSON."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from gemel.errors import Malformed
from gemel.twin.state import RunningModel
from gemel.wire.messages import decode, encode
from gemel.wire.topics import TopicLevel
from gemel.wire.types import Count, Millis

SCHEMA: Final = "gemel.agent/1"
ONLINE, OFFLINE = b"online", b"offline"  # the whole payload of `agent/<name>/availability`
MAX_STATUS_BYTES = 128 * 1024


class Participation(msgspec.Struct, frozen=True):
    """The agent's part in the latest round that it heard of. What is not known yet is None."""

    round: Count
    participation: str  # in words: committed, revealed, accepted, or why not
    samples: Count | None = None
    loss: float | None = None
    accuracy: float | None = None
    change: float | None = None  # mean absolute change of a weight
    frame_bytes: Count | None = None


class EvidenceStatus(msgspec.Struct, frozen=True):
    """What the agent knows of the chain: how new that is says whether somebody keeps messages from it."""

    epoch: Count  # whose electorate it believes
    as_of_ms: Millis | None  # when a quorum of validators last said what stands; None: never
    deployment_on_chain: Count | None
    remark: str  # in words; empty where all is well


class AgentStatus(msgspec.Struct, frozen=True):
    """What an agent runs, and why. `examples`: labelled windows that it can train from.

    `further`: the other machines whose twins it keeps. `refusal` says why a deployment was refused, and is empty
    once a later one is installed. `deploying`: what it waits for, or how a deployment does that it tries out.
    """

    schema: Literal["gemel.agent/1"]
    site: TopicLevel
    name: TopicLevel
    asset: TopicLevel
    model: RunningModel | None
    refusal: str
    learning: Participation | None
    examples: Count
    linked_since_ms: Millis
    further: tuple[TopicLevel, ...] = ()
    evidence: EvidenceStatus | None = None  # of an agent that learns
    deploying: str = ""


def status_to_json(status: AgentStatus) -> bytes:
    """Canonical JSON."""
    return encode(status)


def status_from_json(data: bytes) -> AgentStatus:
    """Raises Malformed for anything that is not `gemel.agent/1`."""
    if len(data) > MAX_STATUS_BYTES:
        raise Malformed("AgentStatus", f"{len(data)} bytes, at most {MAX_STATUS_BYTES}")
    return decode(AgentStatus, data)
