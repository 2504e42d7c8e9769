"""What a machine shall be: requests, their conditions, and how they end. Pure.

    pending ──the machine reports the value──▶ applied
       └──the deadline passes, the actuator says no──▶ failed(reason)

A request arrives on `twin/<asset>/desired/set`:

    {"id": "shift-1.17", "property": "speed", "value": 1500, "unit": "rpm", "deadline_ms": 1700000060000,
     "expected_version": 41}

`id` makes it idempotent: the same one again is answered as before and done once. `expected_version` makes it
conditional: it names the version of the twin that the sender looked at, and the request is refused as a
version_conflict where somebody else has asked for this property since. Readings raise the twin's version all the
time and conflict with nobody.

A newer request for the same property takes the place of one that is pending. What has ended stays as it ended: when
the machine leaves the value later (a hand on its panel), nothing here works against that hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from gemel.errors import Malformed, Refused
from gemel.twin.state import Desired, DesiredState, Name, Property, Quality, RequestId, Settable
from gemel.wire.messages import decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import Count, Millis

MAX_CHANGE_BYTES = 4096
REMEMBERED = 256  # requests whose repetition is known for one
LONGEST_RETRY_S = 30.0
DEADLINE: Final = "deadline"  # the reason of what was not confirmed in time


class DesiredChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request: `property` shall be `value`, or it has failed by `deadline_ms`."""

    id: RequestId
    property: Name
    value: float
    unit: str
    deadline_ms: Millis
    expected_version: Count | None = None


class DesiredAnswer(msgspec.Struct, frozen=True):
    """Whether a request was taken up. How it ends stands in the twin. `version` is the twin's at that moment."""

    id: str
    outcome: Literal["accepted", "refused"]
    version: Count
    reason: str = ""
    detail: str = ""


class DesiredBook(msgspec.Struct, frozen=True):
    """What is desired, and the latest requests; the part that must survive a crash."""

    desired: dict[Name, Desired] = {}
    seen: tuple[RequestId, ...] = ()


def change_from_json(data: bytes) -> DesiredChange:
    """Raises Malformed for anything that is no request."""
    if len(data) > MAX_CHANGE_BYTES:
        raise Malformed("DesiredChange", f"{len(data)} bytes, at most {MAX_CHANGE_BYTES}")
    return decode(DesiredChange, data)


def answer_to_json(answer: DesiredAnswer) -> bytes:
    """Canonical JSON."""
    return encode(answer)


def request(
    book: DesiredBook, change: DesiredChange, settable: Mapping[str, Settable], *, version: int, now_ms: int
) -> DesiredBook:
    """The book with the request pending; the same book for a repetition.

    `version` is the twin's as it stands: the request enters with the next. Raises Refused with a
    reason of unknown_property, wrong_unit, out_of_range, late or version_conflict.
    """
    if change.id in book.seen:
        return book
    allowed = settable.get(change.property)
    if allowed is None:
        raise Refused(Reason.UNKNOWN_PROPERTY, f"{change.property} cannot be set here")
    if change.unit != allowed.unit:
        raise Refused(Reason.WRONG_UNIT, f"{change.property} is set in {allowed.unit}")
    below = allowed.minimum is not None and change.value < allowed.minimum
    if below or (allowed.maximum is not None and change.value > allowed.maximum):
        raise Refused(Reason.OUT_OF_RANGE, f"{change.property} goes from {allowed.minimum} to {allowed.maximum}")
    if change.deadline_ms <= now_ms:
        raise Refused(Reason.LATE, f"the deadline was {now_ms - change.deadline_ms} ms ago")
    _refuse_conflict(book.desired.get(change.property), change.expected_version, version)
    pending = Desired(
        change.id,
        change.value,
        change.unit,
        change.deadline_ms,
        version=version + 1,
        since_ms=now_ms,
        state=DesiredState.PENDING,
    )
    return DesiredBook({**book.desired, change.property: pending}, (*book.seen, change.id)[-REMEMBERED:])


def settle(book: DesiredBook, name: str, ended: Desired, now_ms: int, *, failed: str | None = None) -> DesiredBook:
    """The book with that request applied, or failed for a reason; the same book if it is no longer the one that
    is pending."""
    if book.desired.get(name) != ended or ended.state is not DesiredState.PENDING:
        return book
    state = DesiredState.APPLIED if failed is None else DesiredState.FAILED
    settled = replace(ended, state=state, since_ms=now_ms, reason=failed or "")
    return replace(book, desired={**book.desired, name: settled})


def reports(reported: Property | None, value: float, tolerance: float) -> bool:
    """Whether the machine says that it is at `value`. A reading that is bad or stale says nothing."""
    return (
        reported is not None
        and reported.value is not None
        and reported.quality in (Quality.GOOD, Quality.UNCERTAIN)
        and abs(reported.value - value) <= tolerance
    )


def retry_delay_s(attempt: int, first_s: float) -> float:
    """How long an attempt (the first is 0) may take before the next: doubled each time, up to a bound."""
    return min(first_s * 2.0 ** min(attempt, 32), max(first_s, LONGEST_RETRY_S))


def _refuse_conflict(standing: Desired | None, expected_version: int | None, version: int) -> None:
    if expected_version is None:
        return
    if standing is not None and standing.version > expected_version:
        raise Refused(
            Reason.VERSION_CONFLICT, f"{standing.id} asked for {standing.value} in version {standing.version}"
        )
    if expected_version > version:  # of a twin that has lost its state since
        raise Refused(Reason.VERSION_CONFLICT, f"the twin is at version {version}")
