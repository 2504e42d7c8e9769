"""Every metric of the house, in one table. Prometheus' rules: one prefix, base units, `_total` and `_info`.

    gemel_build_info                     info       which service and version runs
    gemel_round_phase_seconds{phase}     histogram  how long each phase of a round took
    gemel_updates_total{outcome,reason}  counter    updates accepted and refused
    gemel_messages_refused_total{kind,reason} counter  signed messages that did not hold
    gemel_readings_total{outcome,reason} counter    sensor readings taken, held (dead band, rate), refused
    gemel_sensor_to_twin_seconds         histogram  from a reading's arrival to the broker's word for the twin
    gemel_windows_total{outcome}         counter    an agent's windows: finished, labelled, dropped, unmatched
    gemel_twin_version                   gauge      the version that an agent published last
    gemel_link_up{bus}                   gauge      1 while an agent's link to the plant's bus, or its sensors', is up
    gemel_outbox_revisions               gauge      an agent's revisions that wait for the broker
    gemel_outbox_dropped_total           counter    revisions that its outbox had no room for
    gemel_alerts_total{event}            counter    alerts that an agent raised and cleared
    gemel_drifts_total{kind}             counter    drifts that an agent found: of an input, of the error
    gemel_round_requests_total{outcome}  counter    an agent's requests for rounds: asked, and their answers
    gemel_evidence_age_seconds           gauge      since a quorum of validators told an agent what stands on chain
    gemel_deployment_on_chain            gauge      the deployment that they said is in use
    gemel_registry_messages_total{outcome,reason}  counter  what the twin registry heard
    gemel_registry_commit_seconds        histogram  how long the registry's transactions take
    gemel_registry_commit_wait_seconds   histogram  from the first change of a commit to its end: the age of an answer
    gemel_registry_commit_changes        histogram  how many changes share a commit
    gemel_registry_rows_total            counter    rows that the registry has written: history, and the log of reads
    gemel_registry_waiting_seconds       gauge      the lag: for how long the oldest uncommitted change waits
    gemel_registry_live_readers          gauge      who listens to /live
    gemel_rights_compared_timestamp_seconds  gauge  when the chain listener last found, or made, the broker as wanted
    gemel_rights_mended_total{kind}      counter    whose rights it changed there: missing, surplus, changed
    gemel_chain_lag_blocks               gauge      blocks between the chain's head and what a service has finished
    gemel_loop_lag_seconds               histogram  how late the event loop wakes a sleeper
    gemel_mqtt_reconnects_total          counter    links to the broker after the first attempt
    gemel_mqtt_refused_total             counter    connections and subscriptions that the broker refused
    gemel_mqtt_dropped_total             counter    QoS 0 messages that a slow handler had no room for
    gemel_mqtt_unclaimed_total           counter    messages that no subscription wanted
    gemel_mqtt_publishes_failed_total    counter    publishes that the broker refused or never acknowledged

A label holds one of a few words that are known when the code is written: never a round, a transaction or an address.
What only some services have is registered by its first use, so that nobody shows a zero that means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gemel.adapters.mqtt_bus import BusCounts

_PHASE_S = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600)
_LATENCY_S = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
_BATCH = (1, 3, 10, 30, 100, 250)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self, service: str) -> None:
        self.registry = registry = CollectorRegistry()
        self.build = Info("gemel_build", "Service and version.", registry=registry)
        self.build.info({"service": service, "version": _version()})
        self.round_phase_s = Histogram(
            "gemel_round_phase_seconds",
            "Duration of a round's phases.",
            ["phase"],
            buckets=_PHASE_S,
            registry=registry,
        )
        self.updates = Counter(
            "gemel_updates",
            "Updates by outcome; reason is empty if accepted.",
            ["outcome", "reason"],
            registry=registry,
        )
        self.messages_refused = Counter(
            "gemel_messages_refused", "Signed messages that did not hold.", ["kind", "reason"], registry=registry
        )
        self.readings = Counter(
            "gemel_readings",
            "Readings by outcome; reason is empty if taken.",
            ["outcome", "reason"],
            registry=registry,
        )
        self.sensor_to_twin_s = Histogram(
            "gemel_sensor_to_twin_seconds", "From arrival to the twin.", buckets=_LATENCY_S, registry=registry
        )
        self.loop_lag_s = Histogram(
            "gemel_loop_lag_seconds", "How late the event loop wakes.", buckets=_LATENCY_S, registry=registry
        )

    @cached_property
    def windows(self) -> Counter:
        """An agent's."""
        return Counter("gemel_windows", "Windows, by what became of them.", ["outcome"], registry=self.registry)

    @cached_property
    def twin_version(self) -> Gauge:
        """An agent's."""
        return Gauge("gemel_twin_version", "Version of the twin published last.", registry=self.registry)

    @cached_property
    def alerts(self) -> Counter:
        """An agent's."""
        return Counter("gemel_alerts", "Alerts raised and cleared.", ["event"], registry=self.registry)

    @cached_property
    def drifts(self) -> Counter:
        """An agent's that watches for drift."""
        return Counter("gemel_drifts", "Drifts found, by what drifted.", ["kind"], registry=self.registry)

    @cached_property
    def round_requests(self) -> Counter:
        """An agent's that watches for drift and learns."""
        return Counter(
            "gemel_round_requests", "Requests for rounds, and their answers.", ["outcome"], registry=self.registry
        )

    def watch_evidence(self, age_s: Callable[[], float], deployment: Callable[[], int]) -> None:
        """Show from now on what an agent knows of the chain; its age is infinite where it knows nothing."""
        age = Gauge("gemel_evidence_age_seconds", "Age of what validators said last.", registry=self.registry)
        age.set_function(age_s)
        on_chain = Gauge("gemel_deployment_on_chain", "Deployment in use on chain.", registry=self.registry)
        on_chain.set_function(deployment)

    @cached_property
    def rights_compared_s(self) -> Gauge:
        """The chain listener's, where it keeps the broker's rights."""
        return Gauge(
            "gemel_rights_compared_timestamp_seconds", "When the broker was last as wanted.", registry=self.registry
        )

    @cached_property
    def rights_mended(self) -> Counter:
        """The chain listener's, where it keeps the broker's rights."""
        return Counter("gemel_rights_mended", "Users whose rights were changed.", ["kind"], registry=self.registry)

    @cached_property
    def _link_up(self) -> Gauge:
        return Gauge("gemel_link_up", "Whether the link to a bus is up.", ["bus"], registry=self.registry)

    @cached_property
    def registry_messages(self) -> Counter:
        """The twin registry's."""
        return Counter(
            "gemel_registry_messages",
            "Messages of twins and agents, by what became of them.",
            ["outcome", "reason"],
            registry=self.registry,
        )

    @cached_property
    def registry_commit_s(self) -> Histogram:
        """The twin registry's."""
        return self._histogram("gemel_registry_commit_seconds", "Duration of a transaction.", _LATENCY_S)

    @cached_property
    def registry_commit_wait_s(self) -> Histogram:
        """The twin registry's."""
        return self._histogram("gemel_registry_commit_wait_seconds", "From the first change to the end.", _LATENCY_S)

    @cached_property
    def registry_commit_changes(self) -> Histogram:
        """The twin registry's."""
        return self._histogram("gemel_registry_commit_changes", "Changes that share a commit.", _BATCH)

    @cached_property
    def registry_rows(self) -> Counter:
        """The twin registry's."""
        return Counter("gemel_registry_rows", "Rows written.", registry=self.registry)

    @cached_property
    def registry_waiting_s(self) -> Gauge:
        """The twin registry's."""
        return Gauge("gemel_registry_waiting_seconds", "Age of the oldest waiting change.", registry=self.registry)

    @cached_property
    def registry_live_readers(self) -> Gauge:
        """The twin registry's."""
        return Gauge("gemel_registry_live_readers", "Readers of live changes.", registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    @cached_property
    def maintenance_alerts(self) -> Counter:
        """The chain listener's."""
        return Counter(
            "gemel_maintenance_alerts",
            "Health alerts handed in, by what became of them.",
            ["outcome"],
            registry=self.registry,
        )

    @cached_property
    def anchored_entries(self) -> Gauge:
        """The chain listener's."""
        return Gauge(
            "gemel_anchored_entries", "Number of a log's last entry under a root.", ["log"], registry=self.registry
        )

    @cached_property
    def chain_lag_blocks(self) -> Gauge:
        """Of a service that follows the chain."""
        return Gauge("gemel_chain_lag_blocks", "Blocks behind the chain's head.", registry=self.registry)

    def message_refused(self, kind: str, reason: str) -> None:
        """One signed message that did not hold."""
        self.messages_refused.labels(kind, reason).inc()

    def update(self, outcome: str, reason: str) -> None:
        """One update accepted, or refused for a reason."""
        self.updates.labels(outcome, reason).inc()

    def phase(self, phase: str, seconds: float) -> None:
        """One phase of a round has ended."""
        self.round_phase_s.labels(phase).observe(seconds)

    def watch_bus(self, counts: BusCounts) -> None:
        """Show a bus's counts from now on. Once for each process, which has one bus."""
        self.registry.register(_BusCollector(counts))

    def watch_link(self, bus: str, connected: Callable[[], bool]) -> None:
        """Show from now on whether that link is up."""
        self._link_up.labels(bus).set_function(connected)

    def watch_outbox(self, depth: Callable[[], int], dropped: Callable[[], int]) -> None:
        """Show an agent's outbox from now on."""
        self.registry.register(_OutboxCollector(depth, dropped))


class _BusCollector(Collector):
    def __init__(self, counts: BusCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """What the bus has counted, read when somebody asks."""
        counts = self._counts
        yield CounterMetricFamily("gemel_mqtt_reconnects", "Links after the first attempt.", counts.reconnects)
        yield CounterMetricFamily("gemel_mqtt_refused", "Refused connections and subscriptions.", counts.refused)
        yield CounterMetricFamily("gemel_mqtt_dropped", "QoS 0 messages without room.", counts.dropped)
        yield CounterMetricFamily("gemel_mqtt_unclaimed", "Messages that nobody wanted.", counts.unclaimed)
        yield CounterMetricFamily("gemel_mqtt_publishes_failed", "Publishes that failed.", counts.publishes_failed)


class _OutboxCollector(Collector):
    def __init__(self, depth: Callable[[], int], dropped: Callable[[], int]) -> None:
        self._depth, self._dropped = depth, dropped

    def collect(self) -> Iterator[Metric]:
        """How full it is when somebody asks, and what it lost ever, restarts included."""
        yield GaugeMetricFamily("gemel_outbox_revisions", "Revisions that wait for the broker.", self._depth())
        yield CounterMetricFamily("gemel_outbox_dropped", "Revisions without room.", self._dropped())


def _version() -> str:
    try:
        return version("gemel")
    except PackageNotFoundError:  # run from a checkout
        return "unknown"
