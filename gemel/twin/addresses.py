"""One kind of name for all that a twin knows, whether a sensor measured it or the model concluded it.

    TS1                        the newest reading of TS1
    health.cooler.condition    what the model says about the cooler
    health.cooler.confidence   how far that can be trusted, 0 to 1
    health.cooler.why          the input that weighed most in it
    drift.TS1.strength         how far TS1, or `error.cooler`, has drifted; 0 where it has not

A prediction, its confidence, its reason and its drift are properties like any other: alerts are raised on these
addresses, the registry searches by them, and in state and delta `health.cooler.condition` is also the path to the
value. They carry a quality and a source time as readings do. An address that begins with `health.` or `drift.` never
means a reading, so a reading cannot pass itself off as a conclusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gemel.twin.state import Diagnosis, Quality, Twin

HEALTH: Final = "health."
DRIFT: Final = "drift."
_STRENGTH: Final = ".strength"
Value = float | str | None

DIAGNOSIS: Final[Mapping[str, Callable[[Diagnosis], Value]]] = {
    "condition": lambda diagnosis: diagnosis.condition,
    "confidence": lambda diagnosis: diagnosis.confidence,
    "why": lambda diagnosis: diagnosis.top_inputs[0].input if diagnosis.top_inputs else None,
}


@dataclass(frozen=True, slots=True)
class Known:
    """A value with what is known about it. `unit` is empty for what has none."""

    value: Value
    unit: str
    quality: Quality
    source_time_ms: int

    @property
    def trusted(self) -> bool:
        """Whether anything may be concluded from it."""
        return self.value is not None and self.quality in (Quality.GOOD, Quality.UNCERTAIN)


def look_up(twin: Twin, address: str) -> Known | None:
    """What stands at `address`; None where nothing does."""
    if address.startswith(DRIFT):
        return _drift(twin, address.removeprefix(DRIFT))
    if address.startswith(HEALTH):
        return _diagnosis(twin, address.removeprefix(HEALTH))
    reading = twin.properties.get(address)
    if reading is None:
        return None
    return Known(reading.value, reading.unit, reading.quality, reading.source_time_ms)


def addresses(twin: Twin) -> tuple[str, ...]:
    """Every address at which something stands, sorted."""
    readings = (name for name in twin.properties if not name.startswith((HEALTH, DRIFT)))
    diagnoses = (f"{HEALTH}{component}.{leaf}" for component in twin.health for leaf in DIAGNOSIS)
    drifts = (f"{DRIFT}{name}{_STRENGTH}" for name in twin.drift)
    return tuple(sorted([*readings, *diagnoses, *drifts]))


def _diagnosis(twin: Twin, path: str) -> Known | None:
    component, _, leaf = path.rpartition(".")
    diagnosis = twin.health.get(component)
    if diagnosis is None or leaf not in DIAGNOSIS:
        return None
    return Known(DIAGNOSIS[leaf](diagnosis), "", diagnosis.quality, diagnosis.source_time_ms)


def _drift(twin: Twin, path: str) -> Known | None:
    """What has not drifted, or not any more, is known to be at 0, so that an alert on it ends."""
    if not path.endswith(_STRENGTH):
        return None
    drift = twin.drift.get(path.removesuffix(_STRENGTH))
    return Known(drift.strength, "", Quality.GOOD, drift.since_ms) if drift else Known(0.0, "", Quality.GOOD, 0)
