"""Which alerts call maintenance, what is signed, and that a call is kept until the broker has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from edge_agent.metrics import AgentMetrics
from edge_agent.twinning.alerting import AlertDesk
from edge_agent.twinning.calling import MaintenanceCaller
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import BusRefused, BusUnavailable
from gemel.exchange.post import Post
from gemel.host.metrics import Metrics
from gemel.twin.alerts import AlertEvent, AlertRule, event_to_json
from gemel.twin.state import Property, Quality, Severity, blank, hold
from gemel.wire import envelope
from gemel.wire.eip712 import Domain
from gemel.wire.envelope import Expected, Kind
from gemel.wire.messages import HealthAlert, decode
from gemel.wire.topics import Learning
from gemel.wire.types import sha256
from gemel.wire.upkeep import alert_signer, order_of
from tests.support.alerts import hot
from tests.support.parties import AGENTS, TRUST

AGENT = AGENTS[0]
MAINTENANCE = Domain(1337, "0x" + "cd" * 20)
CALLS = Learning(TRUST.fleet, TRUST.task).health_alert(AGENT.address)
BURNING = AlertRule("hot", "TS1", above=70.0, severity=Severity.CRITICAL)
TEPID = AlertRule("warm", "TS1", above=50.0, severity=Severity.WARNING)


class Broker:
    """Takes what is said, until a test has it refuse."""

    connected = True

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []
        self.errors: dict[str, Exception] = {}  # by the topic's last level but one

    async def publish(self, topic: str, payload: bytes, **options: object) -> None:
        for part, error in self.errors.items():
            if f"/{part}" in topic:
                raise error
        self.said.append((topic, payload))

    def calls(self) -> list[HealthAlert]:
        """What was called for, each opened as the listener opens it."""
        expected = Expected(TRUST.domain, TRUST.task, Kind.HEALTH_ALERT, {AGENT.address}, 4096)
        return [
            decode(HealthAlert, envelope.open_envelope(payload, expected).body)
            for topic, payload in self.said
            if topic == CALLS
        ]

    def events(self) -> int:
        return sum(topic.endswith("/event") for topic, _ in self.said)


def caller(broker: Broker, *severities: Severity) -> MaintenanceCaller:
    post = Post(broker, TRUST, AGENT, FakeClock())  # type: ignore[arg-type]  # what it uses of a bus
    return MaintenanceCaller(post, MAINTENANCE, severities or (Severity.CRITICAL,))


def critical(**changes: object) -> AlertEvent:
    return replace(hot(), severity=Severity.CRITICAL, time_ms=1_800_000_000_999, **changes)


async def test_grave_alert_is_signed_for_the_contract_over_what_was_raised() -> None:
    broker = Broker()
    await caller(broker).call(critical())
    (alert,) = broker.calls()
    assert alert_signer(alert, MAINTENANCE) == AGENT.address
    assert (alert.site, alert.asset, alert.time_s) == ("north", "press-1", 1_800_000_000)
    assert alert.report == sha256(event_to_json(critical()))


@pytest.mark.parametrize(
    ("event", "severities", "calls"),
    [
        (critical(), (Severity.CRITICAL,), 1),
        (critical(event="cleared"), (Severity.CRITICAL,), 0),
        (hot(), (Severity.CRITICAL,), 0),
        (hot(), (Severity.WARNING, Severity.CRITICAL), 1),
    ],
)
async def test_only_what_is_raised_and_grave_enough_calls(
    event: AlertEvent, severities: tuple[Severity, ...], calls: int
) -> None:
    broker = Broker()
    await caller(broker, *severities).call(event)
    assert len(broker.calls()) == calls


async def test_same_occurrence_is_one_order_and_the_next_another_even_where_its_number_comes_again() -> None:
    broker = Broker()
    for event in (critical(), critical(), replace(critical(), time_ms=1_800_000_001_000)):
        await caller(broker).call(event)
    first, again, later = (order_of(alert) for alert in broker.calls())
    assert first == again != later


async def desk(records: SqliteRecords, broker: Broker) -> AlertDesk:
    return await AlertDesk.load(
        "north",
        "press-1",
        (BURNING, TEPID),
        caller(broker).call,
        bus=broker,  # type: ignore[arg-type]  # what it uses of a bus
        clock=FakeClock(),
        records=records,
        metrics=AgentMetrics(Metrics("test")),
    )


async def test_call_is_kept_until_the_broker_has_it_and_outlives_a_crash(tmp_path: Path) -> None:
    too_hot = hold(blank("north", "press-1"), {"TS1": Property(99.0, "degC", 1, 2, Quality.GOOD)})
    broker = Broker()
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        first = await desk(records, broker)
        first.look(too_hot)
        await first.keep()
        broker.errors = {"health-alert": BusUnavailable("cut")}
        with pytest.raises(BusUnavailable):
            await first.say()
        assert broker.calls() == []
    broker.errors = {}
    async with SqliteRecords(tmp_path / "records.sqlite") as records:  # killed, and started again
        again = await desk(records, broker)
        await again.say()
        (alert,) = broker.calls()
        assert alert.alert.startswith("hot-")
        said = broker.events()
        await again.say()
    assert (len(broker.calls()), broker.events()) == (1, said)


async def test_broker_that_refuses_calls_does_not_hold_up_what_else_is_said(tmp_path: Path) -> None:
    too_hot = hold(blank("north", "press-1"), {"TS1": Property(99.0, "degC", 1, 2, Quality.GOOD)})
    broker = Broker()
    broker.errors = {"health-alert": BusRefused("publish", CALLS, 0x87, "not authorised")}
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        kept = await desk(records, broker)
        kept.look(too_hot)
        await kept.keep()
        await kept.say()
        await kept.say()
    assert (broker.calls(), broker.events()) == ([], 2)
