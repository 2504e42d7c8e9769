"""Alerts: when one is raised and when it is cleared. Pure; time is an argument.

    [[alert]]
    id = "hot-oil"
    property = "TS1"              # an address (gemel/twin/addresses.py)
    above = 70                    # or `below`
    clear_at = 65                 # hysteresis: cleared at or beyond it; default: the bound itself
    hold_s = 30                   # raised once the value has been beyond its bound for so long; default 0
    severity = "warning"          # info, warning, critical
    text = "oil is hot"

    [[alert]]
    id = "cooler-failing"
    property = "health.cooler.condition"
    equals = "near_failure"
    confidence_above = 0.8        # cleared by another condition, or a confidence at or below `clear_at`

    [[alert]]
    id = "no-oil-temperature"
    property = "TS1"
    stale = true                  # raised while the property is silent or bad

Only trustworthy readings raise and clear: while a property is stale or bad, its alerts on values stand as they stood,
the hold time pauses, and an alert of kind `stale` says so. The hold time is counted on a clock that never steps, and
begins anew after a restart; alerts that stood before it stand on, under the same id. So nothing storms at start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Final, Literal

import msgspec
from msgspec.structs import replace

from gemel.errors import ConfigError
from gemel.twin.addresses import HEALTH, Value, look_up
from gemel.twin.state import Alert, AlertKind, Name, Quality, Severity, Twin
from gemel.wire.messages import encode
from gemel.wire.topics import TopicLevel
from gemel.wire.types import Count, Millis

SCHEMA: Final = "gemel.event/1"


class AlertRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One [[alert]]. Of above, below, equals and stale exactly one is given; `check` holds it to that."""

    id: Name
    property: Annotated[str, msgspec.Meta(min_length=1)]
    above: float | None = None
    below: float | None = None
    equals: str | None = None
    stale: bool = False
    clear_at: float | None = None
    confidence_above: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    hold_s: Annotated[float, msgspec.Meta(ge=0, le=7 * 86_400)] = 0.0
    severity: Severity = Severity.WARNING
    text: str = ""


def check(rules: Sequence[AlertRule], source: str) -> None:
    """Raises ConfigError for rules that contradict themselves or each other."""
    ids = [rule.id for rule in rules]
    for rule in rules:
        where = f"alert {rule.id}"
        if ids.count(rule.id) > 1:
            raise ConfigError(source, where, "each id once")
        given = [rule.above is not None, rule.below is not None, rule.equals is not None, rule.stale]
        if sum(given) != 1:
            raise ConfigError(source, where, "exactly one of above, below, equals, stale")
        if rule.confidence_above is not None and (rule.equals is None or _confidence(rule.property) is None):
            raise ConfigError(source, where, "confidence_above beside equals, on a health.<component>.condition")
        bound, limit = _bound(rule), rule.clear_at
        if limit is None:
            continue
        if bound is None:
            raise ConfigError(source, where, "clear_at beside above, below or confidence_above")
        if limit < bound if rule.below is not None else limit > bound:
            raise ConfigError(source, where, f"clear_at {'above' if rule.below is not None else 'below'} {bound}")


class AlertEvent(msgspec.Struct, frozen=True):
    """An alert was raised, or cleared. Both carry the id of the occurrence; an event may come twice."""

    schema: Literal["gemel.event/1"]
    site: TopicLevel
    asset: TopicLevel
    id: str
    alert: Name
    event: Literal["raised", "cleared"]
    kind: AlertKind
    property: str
    severity: Severity
    text: str
    value: float | str | None  # at that moment
    time_ms: Millis


def event_to_json(event: AlertEvent) -> bytes:
    """Canonical JSON."""
    return encode(event)


class AlertBook(msgspec.Struct, frozen=True):
    """What stands, and what has not been said yet; the part that must survive a crash. `raised` counts."""

    raised: Count = 0
    alerts: dict[Name, Alert] = {}
    unsaid: tuple[AlertEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Hold:
    """How long a condition has held, and when that was last looked at; None while nothing trustworthy is known."""

    held_s: float
    looked_s: float | None


class Verdict(Enum):
    """What a twin says to a rule."""

    BEYOND = auto()
    BETWEEN = auto()  # of the bound and `clear_at`: an alert that stands stands on, no other is raised
    WITHIN = auto()
    UNKNOWN = auto()


Holds = Mapping[str, Hold]


def look(
    rules: Sequence[AlertRule], book: AlertBook, holds: Holds, twin: Twin, *, now_s: float, now_ms: int
) -> tuple[AlertBook, Holds]:
    """Book and holds after a look at the twin. `now_s` never steps back, `now_ms` is for the record.

    Where nothing is raised or cleared, the same book comes back. An alert whose rule is gone is cleared.
    """
    verdicts = {rule.id: judge(rule, twin) for rule in rules}
    holds = _held(verdicts, book.alerts, holds, now_s)
    raised = [rule for rule in rules if rule.id in holds and holds[rule.id].held_s >= rule.hold_s]
    raised = [rule for rule in raised if verdicts[rule.id] is Verdict.BEYOND]
    cleared = [name for name in book.alerts if verdicts.get(name, Verdict.WITHIN) is Verdict.WITHIN]
    if not raised and not cleared:
        return book, holds
    new = {
        rule.id: Alert(
            f"{rule.id}-{number}",
            _kind(rule),
            rule.property,
            rule.severity,
            rule.text,
            now_ms,
            _value(twin, rule.property),
        )
        for number, rule in enumerate(raised, book.raised + 1)
    }
    standing = {name: alert for name, alert in book.alerts.items() if name not in cleared}
    events = (
        *(_event(twin, name, book.alerts[name], "cleared", now_ms) for name in cleared),
        *(_event(twin, name, alert, "raised", now_ms) for name, alert in new.items()),
    )
    book = AlertBook(book.raised + len(new), standing | new, (*book.unsaid, *events))
    return book, {name: hold for name, hold in holds.items() if name not in new}


def said(book: AlertBook, events: Iterable[AlertEvent]) -> AlertBook:
    """The book without events that the broker has."""
    gone = set(events)
    return replace(book, unsaid=tuple(event for event in book.unsaid if event not in gone))


def judge(rule: AlertRule, twin: Twin) -> Verdict:
    """What the twin says to the rule at this moment."""
    known = look_up(twin, rule.property)
    if known is None:
        return Verdict.UNKNOWN
    if rule.stale:
        return Verdict.BEYOND if known.quality in (Quality.STALE, Quality.BAD) else Verdict.WITHIN
    if not known.trusted:
        return Verdict.UNKNOWN
    if rule.equals is None:
        return _against(rule, known.value)
    if known.value != rule.equals:
        return Verdict.WITHIN
    return Verdict.BEYOND if rule.confidence_above is None else _against(rule, _confidence_of(rule, twin))


def _kind(rule: AlertRule) -> AlertKind:
    if rule.stale:
        return AlertKind.STALE
    return AlertKind.VALUE if rule.equals is None else AlertKind.CONDITION


def _against(rule: AlertRule, value: Value) -> Verdict:
    """A number against the bound and the place where it clears."""
    bound = _bound(rule)
    if bound is None or value is None or isinstance(value, str):
        return Verdict.UNKNOWN  # words have no order
    clear_at = bound if rule.clear_at is None else rule.clear_at
    sign = -1 if rule.below is not None else 1
    if sign * value > sign * bound:
        return Verdict.BEYOND
    return Verdict.WITHIN if sign * value <= sign * clear_at else Verdict.BETWEEN


def _held(verdicts: Mapping[str, Verdict], alerts: Mapping[str, Alert], holds: Holds, now_s: float) -> Holds:
    """Holds that go on, pause or begin; those that are over, or led to an alert, are gone."""
    after: dict[str, Hold] = {}
    for name, verdict in verdicts.items():
        hold = holds.get(name)
        if name in alerts:
            continue
        if verdict is Verdict.BEYOND:
            passed_s = now_s - hold.looked_s if hold is not None and hold.looked_s is not None else 0.0
            after[name] = Hold((hold.held_s if hold else 0.0) + passed_s, now_s)
        elif verdict is Verdict.UNKNOWN and hold is not None:
            after[name] = Hold(hold.held_s, None)
    return after


def _bound(rule: AlertRule) -> float | None:
    return next((b for b in (rule.above, rule.below, rule.confidence_above) if b is not None), None)


def _confidence(address: str) -> str | None:
    """The address of the confidence that belongs to a condition."""
    leaf = ".condition"
    return (
        address.removesuffix(leaf) + ".confidence" if address.startswith(HEALTH) and address.endswith(leaf) else None
    )


def _confidence_of(rule: AlertRule, twin: Twin) -> Value:
    return _value(twin, _confidence(rule.property) or "")


def _value(twin: Twin, address: str) -> Value:
    known = look_up(twin, address)
    return known.value if known else None


def _event(twin: Twin, name: str, alert: Alert, event: Literal["raised", "cleared"], now_ms: int) -> AlertEvent:
    value = _value(twin, alert.property)
    return AlertEvent(
        SCHEMA,
        twin.site,
        twin.asset,
        alert.id,
        name,
        event,
        alert.kind,
        alert.property,
        alert.severity,
        alert.text,
        value,
        now_ms,
    )
