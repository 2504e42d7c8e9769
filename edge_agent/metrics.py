"""What an operator can see of one edge agent in Prometheus."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from edge_agent.sensors import Fault
from gemel.twin.window import Collected

_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class AgentMetrics:
    """Counts readings, windows and latency. One for each registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._readings = Counter(
            "gemel_readings", "Readings and sensor messages, by what became of them", ("outcome", "reason"),
            registry=registry,
        )  # fmt: skip
        for fault in Fault:  # present from the start, so that a first fault shows as a rise
            self._readings.labels("refused", fault.value)
        self._windows = Counter("gemel_windows", "Windows, by what became of them", ("outcome",), registry=registry)
        self._latency = Histogram(
            "gemel_sensor_to_twin_seconds", "From a sensor message's arrival to the broker's word for the twin",
            buckets=_LATENCY_S, registry=registry,
        )  # fmt: skip
        self._version = Gauge("gemel_twin_version", "Version of the twin published last", registry=registry)

    def accepted(self) -> None:
        """One reading entered the twin."""
        self._readings.labels("accepted", "ok").inc()

    def refused(self, fault: Fault) -> None:
        """One reading, or one message as a whole, did not count."""
        self._readings.labels("refused", fault.value).inc()

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
