"""Electorates, and what their members sign, for tests that need no chain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from gemel.adapters.clock import SystemClock
from gemel.exchange.post import Post
from gemel.ports import BusMessage, Clock, Handler
from gemel.wire import envelope
from gemel.wire.boxes import box_key
from gemel.wire.electorate import Electorate, Member
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import Handover, Standing, encode
from gemel.wire.standing import Facts, sign_standing
from tests.support.parties import TRUST, VALIDATORS, identity

MODEL, POLICY = "ab" * 32, "cd" * 32
MORE = tuple(identity(n) for n in (31, 32, 33, 34))  # candidates without a seat at first
NOW_MS = 1_800_000_000_000


class NoBus:
    """For who only signs."""


class Air:
    """A bus on which a test hands out messages itself."""

    connected = True

    def __init__(self) -> None:
        self._handlers: list[tuple[str, Handler]] = []

    async def subscribe(self, topic_filter: str, handler: Handler, **_options: object) -> None:
        self._handlers.append((topic_filter.replace("+", ""), handler))

    async def hand_out(self, topic: str, message: Envelope) -> None:
        """To whoever subscribed to that branch."""
        payload = envelope.pack(message)
        for prefix, handler in self._handlers:
            if topic.startswith(prefix):
                await handler(BusMessage(topic, payload))


def electorate(
    epoch: int, members: Iterable[Identity], *, quorum_part: int = 666_666, weights: Sequence[int] = ()
) -> Electorate:
    """These members, with a hundred each where no weights are given."""
    seats = list(members)
    return Electorate(
        epoch,
        quorum_part,
        tuple(
            Member(seat.address, box_key(bytes.fromhex(seat.address[2:]).ljust(32, b"\1")), weight)
            for seat, weight in zip(seats, weights or [100] * len(seats), strict=True)
        ),
    )


def facts_of(following: Electorate, *, deployment: int = 1, model: str = MODEL, policy: str = POLICY) -> Facts:
    """That it is in force, and what else stands."""
    return Facts(following.epoch, following.digest, deployment, model, policy)


def handover(following: Electorate, signers: Iterable[Identity], *, facts: Facts | None = None) -> Handover:
    """These signers name `following`."""
    said = facts or facts_of(following)
    signed = (
        sign_standing(said, TRUST.task, TRUST.domain, each, block=following.epoch, time_ms=NOW_MS) for each in signers
    )
    return Handover(said, following, tuple(signed))


def standing(
    validator: Identity, of: Electorate, time_ms: int, *, sender: Identity | None = None, facts: Facts | None = None
) -> Envelope:
    """A validator's message, as it would come from the bus."""
    said = facts or facts_of(of)
    signature = sign_standing(said, TRUST.task, TRUST.domain, validator, block=1, time_ms=time_ms)
    return said_by(sender or validator, Kind.STANDING, encode(Standing(said, of, signature)))


def said_by(sender: Identity, kind: Kind, body: bytes, clock: Clock | None = None) -> Envelope:
    """An envelope that holds."""
    post = Post(NoBus(), TRUST, sender, clock or SystemClock())  # type: ignore[arg-type]  # it only signs
    return post.sign(kind, body)


PINNED = TRUST.electorate
OTHER_PART = replace(PINNED, epoch=PINNED.epoch + 1, quorum_part=500_001)
assert PINNED.addresses == {each.address for each in VALIDATORS}
