"""When to try the broker again. Pure: no clock, no sleep; randomness is an argument.

    CONNECTING --up()--> UP --failed()--> WAITING --retry()--> CONNECTING
        `------failed()------^ (to WAITING as well)

What failed decides how long we wait. A network comes back by itself, so we try soon and often, with jitter, so that
a plant's gateways do not return in one wave. A refusal (rights, a banned or doubled client id) needs a person, so
we wait long. A protocol error means one side has a bug; repeating it fast only fills two logs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from gemel.errors import BusRefused, BusUnavailable


class LinkState(Enum):
    """Where the link to the broker stands."""

    CONNECTING = "connecting"
    UP = "up"
    WAITING = "waiting"


class Failure(Enum):
    """Why a link ended or did not come up."""

    NETWORK = "network"
    REFUSED = "refused"
    PROTOCOL = "protocol"


@dataclass(frozen=True, slots=True)
class Backoff:
    """The n-th wait in a row is first_s * 2**n, at most ceiling_s, of which the lower half is certain."""

    first_s: float
    ceiling_s: float

    def delay_s(self, attempt: int, uniform: float) -> float:
        """Seconds to wait before attempt `attempt` (0 is the first); `uniform` is drawn from 0..1."""
        longest = min(self.first_s * 2.0 ** min(attempt, 32), self.ceiling_s)
        return longest * (0.5 + 0.5 * uniform)


BACKOFF = {
    Failure.NETWORK: Backoff(first_s=0.2, ceiling_s=15.0),
    Failure.REFUSED: Backoff(first_s=30.0, ceiling_s=300.0),
    Failure.PROTOCOL: Backoff(first_s=5.0, ceiling_s=120.0),
}

# A link that fell sooner than this counts as another failure in a row: two processes that share a client id throw
# each other out at once, again and again.
STABLE_S = 10.0

# MQTT 5.0, section 2.4: reasons that pass by themselves, and reasons that somebody has to put right.
_PASSING = frozenset({0x80, 0x88, 0x89, 0x8B, 0x8D, 0x96, 0x97, 0x98, 0x9C, 0x9D, 0x9F, 0xA0})
_RIGHTS = frozenset({0x85, 0x86, 0x87, 0x8A, 0x8C, 0x8E})


def classify(error: BusUnavailable | BusRefused) -> Failure:
    """The class of a failure, from the error that the link ended with."""
    if isinstance(error, BusUnavailable) or error.code in _PASSING:
        return Failure.NETWORK
    return Failure.REFUSED if error.code in _RIGHTS else Failure.PROTOCOL


@dataclass(slots=True)
class Reconnect:
    """The state of one link. Raises ValueError for a step that its state does not have, and then changes nothing."""

    state: LinkState = LinkState.CONNECTING
    _failures: int = field(default=0, repr=False)
    _last: Failure = field(default=Failure.NETWORK, repr=False)

    def up(self) -> None:
        """The broker accepted us."""
        self._step(LinkState.UP, LinkState.CONNECTING)

    def failed(self, failure: Failure, *, lasted_s: float, uniform: float) -> float:
        """The link ended after `lasted_s` seconds (0 if it never came up). Returns the seconds to wait."""
        self._step(LinkState.WAITING, LinkState.CONNECTING, LinkState.UP)
        if lasted_s >= STABLE_S or failure is not self._last:
            self._failures = 0
        self._last = failure
        delay_s = BACKOFF[failure].delay_s(self._failures, uniform)
        self._failures += 1
        return delay_s

    def retry(self) -> None:
        """The wait is over."""
        self._step(LinkState.CONNECTING, LinkState.WAITING)

    def _step(self, to: LinkState, *allowed: LinkState) -> None:
        if self.state not in allowed:
            raise ValueError(f"a link that is {self.state.value} cannot become {to.value}")
        self.state = to
