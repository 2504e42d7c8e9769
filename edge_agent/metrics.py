"""What one edge agent counts; names and meanings stand in the house's table (gemel/host/metrics.py)."""

from __future__ import annotations

from typing import Literal

from edge_agent.sensing.sieve import Verdict
from edge_agent.sensing.values import Fault
from gemel.host.metrics import Metrics
from gemel.twin.state import DriftKind
from gemel.twin.window import Collected


class AgentMetrics:
    """Counts what an agent does. One for each process."""

    def __init__(self, metrics: Metrics) -> None:
        self._readings = metrics.readings
        for fault in Fault:  # present from the start, so that a first fault shows as a rise
            self._readings.labels("refused", fault.value)
        for held in (Verdict.UNCHANGED, Verdict.WAITS):
            self._readings.labels("held", held.value)
        self._latency = metrics.sensor_to_twin_s
        self._windows = metrics.windows
        self._version = metrics.twin_version
        self._metrics = metrics
        for event in ("raised", "cleared"):
            metrics.alerts.labels(event)

    def watch_drift(self) -> None:
        """Show drift from now on: an agent that does not look for it shows no zero."""
        for kind in DriftKind:
            self._metrics.drifts.labels(kind.value)

    def reading(self, outcome: Verdict | Fault) -> None:
        """What became of one reading, or of one message as a whole."""
        if isinstance(outcome, Fault):
            self._readings.labels("refused", outcome.value).inc()
        elif outcome in (Verdict.UNCHANGED, Verdict.WAITS):
            self._readings.labels("held", outcome.value).inc()
        else:
            self._readings.labels("accepted", "").inc()

    def windows(self, collected: Collected) -> None:
        """What a message did to the windows."""
        self._windows.labels("finished").inc(len(collected.windows))
        self._windows.labels("labelled").inc(len(collected.examples))
        self._windows.labels("dropped").inc(collected.dropped)
        self._windows.labels("unmatched").inc(collected.unmatched)

    def sensor_to_twin(self, seconds: float) -> None:
        """A reading has reached the retained twin."""
        self._latency.observe(seconds)

    def twin_version(self, version: int) -> None:
        """A version was published."""
        self._version.set(version)

    def alert(self, event: Literal["raised", "cleared"]) -> None:
        """An alert of one of its machines."""
        self._metrics.alerts.labels(event).inc()

    def drift(self, kind: DriftKind) -> None:
        """Something has drifted."""
        self._metrics.drifts.labels(kind.value).inc()

    def round_request(self, outcome: Literal["asked", "accepted", "refused"]) -> None:
        """A request for a round, and then its answer."""
        self._metrics.round_requests.labels(outcome).inc()
