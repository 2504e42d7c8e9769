"""Rounds on request: which requests count, and when there are enough of them. Pure.

A request counts once for its agent, until a round begins or it is `request_valid_s` old. It is refused while a round
is under way (`running`), where the agent does not yet run the model in use (`wrong_base`: that one may be the cure),
and where the same agent asked less than `request_every_s` before (`too_soon`).
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from coordinator.settings import RoundSection
from gemel.errors import Refused
from gemel.wire.envelope import Header
from gemel.wire.messages import RoundRequest
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, Digest, Millis


class Asked(msgspec.Struct, frozen=True):
    """One agent's latest request."""

    issued_at_ms: Millis  # its own clock: tells a repetition from a new one
    received_ms: Millis
    request: RoundRequest
    counts: bool = True  # not answered by a round yet


class Requests(msgspec.Struct, frozen=True):
    """The latest request of each agent. Begin with `Requests()`."""

    by_agent: dict[Address, Asked] = {}

    def counting(self, now_ms: Millis, plan: RoundSection) -> tuple[Address, ...]:
        """The agents whose requests count now."""
        oldest_ms = now_ms - plan.request_valid_s * 1000
        return tuple(
            agent for agent, asked in self.by_agent.items() if asked.counts and asked.received_ms >= oldest_ms
        )

    def enough(self, now_ms: Millis, plan: RoundSection) -> bool:
        """Whether a round is due."""
        return len(self.counting(now_ms, plan)) >= plan.request_agents


def is_repetition(requests: Requests, header: Header) -> bool:
    """Whether this very request, or a later one of the agent, has been heard: QoS 1 may repeat."""
    known = requests.by_agent.get(header.sender)
    return known is not None and header.issued_at_ms <= known.issued_at_ms


def admit(
    requests: Requests,
    header: Header,
    request: RoundRequest,
    *,
    model_in_use: Digest | None,
    now_ms: Millis,
    plan: RoundSection,
) -> Requests:
    """With one more request; without a `model_in_use` a round is under way. Raises Refused."""
    if not plan.on_request:
        raise Refused(Reason.BY_SCHEDULE, "rounds run without being asked for")
    if model_in_use is None:
        raise Refused(Reason.RUNNING, "a round is under way")
    if header.base != model_in_use:
        raise Refused(Reason.WRONG_BASE, f"model {model_in_use[:12]} is in use: judge by that one")
    known = requests.by_agent.get(header.sender)
    if known is not None and now_ms - known.received_ms < plan.request_every_s * 1000:
        raise Refused(Reason.TOO_SOON, f"once in {plan.request_every_s} s")
    asked = Asked(header.issued_at_ms, now_ms, request)
    return replace(requests, by_agent={**requests.by_agent, header.sender: asked})


def used(requests: Requests) -> Requests:
    """After a round has begun: none counts any more, and each agent's last is remembered."""
    return Requests({agent: replace(asked, counts=False) for agent, asked in requests.by_agent.items()})
