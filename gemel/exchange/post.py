"""A party's voice and ear on the topics of one learning task: everything signed, nothing parsed before it holds."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Awaitable, Callable, Container

import structlog

from gemel.errors import Malformed, PeerError, Refused
from gemel.ports import Bus, BusMessage, Clock
from gemel.wire import envelope as wire
from gemel.wire.envelope import HEADER_BYTES, Envelope, Expected, Header, Kind
from gemel.wire.identity import Identity
from gemel.wire.reasons import Reason
from gemel.wire.topics import Learning
from gemel.wire.trust import Trust
from gemel.wire.types import NO_DIGEST, Address, Digest

SMALL_BODY_BYTES = 1 << 20  # of a message that is not chunked: a roster of 1,000 entries takes about 300 kB

Listener = Callable[[Envelope], Awaitable[None]]
RefusalListener = Callable[[Header, PeerError], Awaitable[None]]
RefusalObserver = Callable[[str, str], None]  # (kind, reason), for a metric

log = structlog.get_logger(__name__)


def reason_of(error: PeerError) -> str:
    """The word for a metric's label and a receipt."""
    return str(error.reason) if isinstance(error, Refused) else str(Reason.MALFORMED)


def detail_of(error: PeerError) -> str:
    """What stands behind the word."""
    return error.detail if isinstance(error, Refused | Malformed) else str(error)


class Post:
    """Signs what this party says, and hands on of what it hears only what holds."""

    def __init__(
        self,
        bus: Bus,
        trust: Trust,
        identity: Identity,
        clock: Clock,
        refused: RefusalObserver | None = None,
        *,
        in_force: Callable[[], Trust] | None = None,
    ) -> None:
        """`in_force` answers whom we believe now; without it that is always `trust`."""
        self.bus, self.identity, self.clock = bus, identity, clock
        self.topics = Learning(trust.fleet, trust.task)
        self._in_force = in_force or (lambda: trust)
        self._refused = refused or (lambda _kind, _reason: None)

    @property
    def trust(self) -> Trust:
        """The pinned parties, under the electorate in force."""
        return self._in_force()

    def among(self, topics: Learning) -> Post:
        """The same party on other topics of the task."""
        beside = copy.copy(self)
        beside.topics = topics
        return beside

    def sign(
        self,
        kind: Kind,
        body: bytes,
        *,
        round_: int = 0,
        base: Digest = NO_DIGEST,
        policy: Digest = NO_DIGEST,
        weight: int = 0,
    ) -> Envelope:
        """An envelope of ours, issued now."""
        return wire.sign(
            self.identity,
            self.trust.domain,
            self.trust.task,
            kind,
            body,
            issued_at_ms=self.clock.now_ms(),
            round=round_,
            base=base,
            policy=policy,
            weight=weight,
        )

    async def say(
        self,
        topic: str,
        kind: Kind,
        body: bytes,
        *,
        round_: int = 0,
        base: Digest = NO_DIGEST,
        policy: Digest = NO_DIGEST,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        """Sign and publish at QoS 1; returns when the broker has it."""
        message = wire.pack(self.sign(kind, body, round_=round_, base=base, policy=policy))
        await self.bus.publish(
            topic, message, retain=retain, expiry_s=expiry_s, content_type="application/vnd.gemel.envelope"
        )

    async def hear(
        self,
        topic_filter: str,
        kind: Kind,
        senders: Container[Address],
        handler: Listener,
        *,
        max_body_bytes: int = SMALL_BODY_BYTES,
        on_refused: RefusalListener | None = None,
    ) -> None:
        """Subscribe. What does not hold is counted and logged, never handed on, and never stops us.

        A PeerError that `handler` raises (the body does not hold either) is treated the same way. `on_refused` gets
        what a refused envelope says of itself; nothing in that header can be believed.
        """
        expected = Expected(self.trust.domain, self.trust.task, kind, senders, max_body_bytes)

        async def receive(message: BusMessage) -> None:
            try:
                await handler(wire.open_envelope(message.payload, expected))
            except PeerError as error:
                self._refused(kind.name.lower(), reason_of(error))
                log.warning("message refused", topic=message.topic, kind=kind.name, why=str(error))
                if on_refused is not None and len(message.payload) >= HEADER_BYTES:
                    with contextlib.suppress(PeerError):
                        await on_refused(Header.parse(message.payload), error)

        await self.bus.subscribe(topic_filter, receive)
