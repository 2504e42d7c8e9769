"""An alert, for tests that need one of any kind."""

from __future__ import annotations

from gemel.twin.alerts import AlertEvent
from gemel.twin.state import AlertKind, Severity


def hot(asset: str = "press-1", id_: str = "hot-1") -> AlertEvent:
    """A machine in the north has become too hot."""
    return AlertEvent(
        "gemel.event/1", "north", asset, id_, "hot", "raised",
        AlertKind.VALUE, "TS1", Severity.WARNING, "", 71.0, 5,
    )  # fmt: skip
