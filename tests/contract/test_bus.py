"""ports.Bus over MQTT, on the embedded broker and on mosquitto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import pytest

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.errors import BusRefused, BusUnavailable, ConfigError
from gemel.ports import Bus, BusMessage, Will
from tests.support.brokers import embedded_broker, mosquitto
from tests.support.certificates import PlantCA
from tests.support.ports import free_port

Start = Callable[..., AbstractAsyncContextManager[str]]


@asynccontextmanager
async def _mosquitto(port: int = 0) -> AsyncIterator[str]:
    async with mosquitto(["allow_anonymous true"], port) as url:
        yield url


STARTS = {"embedded": embedded_broker, "mosquitto": _mosquitto}


@pytest.fixture(params=STARTS)
def start(request: pytest.FixtureRequest) -> Start:
    return STARTS[request.param]


@pytest.fixture
async def url(start: Start) -> AsyncIterator[str]:
    async with start() as url:
        yield url


def settings(url: str, client_id: str = "one", **bounds: object) -> BusSettings:
    return replace(BusSettings(url, client_id, publish_deadline_s=10), **bounds)


class Seen:
    """A handler that remembers, and can wait for so many."""

    def __init__(self) -> None:
        self.messages: list[BusMessage] = []
        self._more = asyncio.Event()

    async def __call__(self, message: BusMessage) -> None:
        self.messages.append(message)
        self._more.set()

    async def until(self, done: Callable[[Seen], bool]) -> None:
        async with asyncio.timeout(10):
            while not done(self):
                self._more.clear()
                await self._more.wait()

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


def count(number: int) -> Callable[[Seen], bool]:
    return lambda seen: len(seen.messages) >= number


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what it waits for has no event
            await asyncio.sleep(0.01)


async def test_message_carries_topic_payload_and_user_properties(url: str) -> None:
    seen = Seen()
    async with MqttBus(settings(url)) as bus:
        await bus.subscribe("t/+", seen)
        await bus.publish("t/a", b"\x00payload", properties={"schema": "1", "trace": "ü"}, content_type="text/plain")
        await bus.publish("t/b", b"", qos=0)
        await seen.until(count(2))
    assert seen.messages == [
        BusMessage("t/a", b"\x00payload", False, {"schema": "1", "trace": "ü"}),
        BusMessage("t/b", b"", False, {}),
    ]


async def test_request_carries_where_and_under_which_mark_its_answer_is_awaited(url: str) -> None:
    asked, answered = Seen(), Seen()
    async with MqttBus(settings(url)) as bus:
        await bus.subscribe("ask", asked)
        await bus.subscribe("answer/one", answered)
        await bus.publish("ask", b"?", response_topic="answer/one", correlation=b"\x00mark")
        await asked.until(count(1))
        question = asked.messages[0]
        assert (question.response_topic, question.correlation) == ("answer/one", b"\x00mark")
        assert question.response_topic is not None
        await bus.publish(question.response_topic, b"!", correlation=question.correlation)
        await answered.until(count(1))
    assert answered.messages == [BusMessage("answer/one", b"!", correlation=b"\x00mark")]


async def test_retained_message_reaches_a_late_subscriber_and_an_empty_one_clears_it(url: str) -> None:
    early, late, after = Seen(), Seen(), Seen()
    async with MqttBus(settings(url, "writer")) as writer, MqttBus(settings(url, "late")) as bus:
        await writer.subscribe("state/a", early)
        await writer.publish("state/a", b"old", retain=True)
        await writer.publish("state/a", b"now", retain=True)
        await bus.subscribe("state/a", late)
        await late.until(count(1))
        await writer.publish("state/a", b"", retain=True)
        await early.until(count(3))
    async with MqttBus(settings(url, "after")) as bus:
        await bus.subscribe("state/a", after)
        await bus.publish("state/a", b"end")
        await after.until(count(1))
    assert late.messages[0] == BusMessage("state/a", b"now", True, {})
    assert after.payloads == [b"end"]


async def test_payload_of_512_kib_arrives_whole_and_one_beyond_the_bound_is_refused(url: str) -> None:
    seen, payload = Seen(), bytes(range(256)) * 2048
    async with MqttBus(settings(url)) as bus:
        await bus.subscribe("big", seen)
        await bus.publish("big", payload)
        await seen.until(count(1))
        with pytest.raises(BusRefused, match="Packet too large") as refused:
            await bus.publish("big", bytes(1024 * 1024 + 1))
    assert seen.payloads == [payload]
    assert refused.value.code == 0x95


async def test_overlapping_filters_each_get_the_message_once(url: str) -> None:
    wide, narrow, other = Seen(), Seen(), Seen()
    async with MqttBus(settings(url)) as bus:
        await bus.subscribe("t/#", wide)
        await bus.subscribe("t/+/x", narrow)
        await bus.subscribe("u/#", other)
        await bus.publish("t/a/x", b"1")
        await bus.publish("t/end", b"2")
        await wide.until(count(2))
        await narrow.until(count(1))
    assert (wide.payloads, narrow.payloads, other.payloads) == ([b"1", b"2"], [b"1"], [])


async def test_expired_message_is_not_delivered(url: str) -> None:
    seen = Seen()
    async with MqttBus(settings(url, "sleeper")) as bus:
        await bus.subscribe("t", seen)
    async with MqttBus(settings(url, "writer")) as writer:
        await writer.publish("t", b"short", expiry_s=1)
        await writer.publish("t", b"long", expiry_s=600)
        await asyncio.sleep(2.1)
    async with MqttBus(settings(url, "sleeper")) as bus:
        await bus.subscribe("t", seen)
        await seen.until(count(1))
    assert seen.payloads == [b"long"]


async def test_unsubscribed_filter_gets_nothing_more_even_from_within_its_handler(url: str) -> None:
    once, fence = Seen(), Seen()
    async with MqttBus(settings(url)) as bus:

        async def handler(message: BusMessage) -> None:
            await once(message)
            await bus.unsubscribe("t")

        await bus.subscribe("t", handler)
        await bus.subscribe("#", fence)
        for i in range(5):
            await bus.publish("t", b"%d" % i)
        await fence.until(count(5))
        await bus.unsubscribe("never subscribed")
    assert once.payloads == [b"0"]


async def test_filter_subscribed_twice_is_our_own_mistake(url: str) -> None:
    async with MqttBus(settings(url)) as bus:
        await bus.subscribe("t", Seen())
        with pytest.raises(ValueError, match="subscribed already"):
            await bus.subscribe("t", Seen())


# --- acknowledged after the effect ----------------------------------------------------------------


async def test_messages_that_no_handler_finished_come_again_after_a_restart(url: str) -> None:
    finished, again, stuck = Seen(), Seen(), asyncio.Event()

    async def stalls_at_ten(message: BusMessage) -> None:
        if len(finished.messages) == 10:
            stuck.set()
            await asyncio.Event().wait()
        await finished(message)

    async with MqttBus(settings(url, "writer")) as writer:
        async with MqttBus(settings(url, "reader", receive_maximum=8)) as bus:
            await bus.subscribe("t", stalls_at_ten)
            for i in range(50):
                await writer.publish("t", b"%d" % i)
            await asyncio.wait_for(stuck.wait(), 10)
        async with MqttBus(settings(url, "reader", receive_maximum=8)) as bus:
            await bus.subscribe("t", again)
            await again.until(lambda seen: b"49" in seen.payloads)
    assert finished.payloads == [b"%d" % i for i in range(10)]
    assert [int(payload) for payload in dict.fromkeys(again.payloads)] == list(range(10, 50))


async def test_messages_of_the_session_wait_for_a_subscription_that_comes_after_them(url: str) -> None:
    seen = Seen()
    async with MqttBus(settings(url, "reader")) as bus:
        await bus.subscribe("t", Seen())
    async with MqttBus(settings(url, "writer")) as writer:
        await writer.publish("t", b"while away")
    async with MqttBus(settings(url, "reader")) as bus:
        await until(lambda: bool(bus._unclaimed))
        await bus.subscribe("t", seen)
        await seen.until(count(1))
    assert seen.payloads == [b"while away"]


async def test_messages_of_the_session_that_nobody_claims_are_counted_and_do_not_come_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemel.adapters.mqtt_bus.CLAIM_S", 0.3)
    seen = Seen()
    async with MqttBus(settings(url, "reader")) as bus:
        await bus.subscribe("t/old", Seen())
    async with MqttBus(settings(url, "writer")) as writer:
        await writer.publish("t/old", b"nobody's")
    async with MqttBus(settings(url, "reader")) as bus:
        await until(lambda: bus.counts.unclaimed == 1)
        await bus.subscribe("t/+", seen)
        await bus.publish("t/new", b"ours")
        await seen.until(count(1))
    assert seen.payloads == [b"ours"]


async def test_message_whose_handler_raised_comes_again_and_the_error_ends_the_bus(url: str) -> None:
    again = Seen()

    async def fails(message: BusMessage) -> None:
        raise LookupError(message.topic)

    async def run() -> None:
        async with MqttBus(settings(url, "reader")) as bus:
            await bus.subscribe("t", fails)
            await bus.publish("t", b"1")
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(LookupError, match="^t$")
    async with MqttBus(settings(url, "reader")) as bus:
        await bus.subscribe("t", again)
        await again.until(count(1))
    assert again.payloads[0] == b"1"


async def test_stalled_handler_loses_no_qos_1_message_beyond_the_receive_maximum(url: str) -> None:
    seen, free = Seen(), asyncio.Event()

    async def slow(message: BusMessage) -> None:
        await free.wait()
        await seen(message)

    async with (
        MqttBus(settings(url, "writer")) as writer,
        MqttBus(settings(url, "reader", receive_maximum=4)) as bus,
    ):
        await bus.subscribe("t", slow)
        await asyncio.gather(*(writer.publish("t", b"%d" % i) for i in range(200)))
        free.set()
        await seen.until(count(200))
    assert sorted(int(payload) for payload in seen.payloads) == list(range(200))


async def test_subscriptions_that_finish_out_of_order_are_acknowledged_in_order(url: str) -> None:
    slow_seen, fast_seen, again, free = Seen(), Seen(), Seen(), asyncio.Event()

    async def slow(message: BusMessage) -> None:
        await free.wait()
        await slow_seen(message)

    async with MqttBus(settings(url)) as bus:
        await bus.subscribe("slow", slow)
        await bus.subscribe("fast", fast_seen)
        for i in range(10):
            await bus.publish("slow", b"%d" % i)
            await bus.publish("fast", b"%d" % i)
        await fast_seen.until(count(10))
        free.set()
        await slow_seen.until(count(10))
        await bus.publish("fast", b"end")
        await fast_seen.until(count(11))
        assert bus.counts.reconnects == 0
    async with MqttBus(settings(url)) as bus:
        await bus.subscribe("slow", again)
        await bus.publish("slow", b"new")
        await again.until(count(1))
    assert again.payloads == [b"new"]


async def test_concurrent_handlers_are_bounded_begin_in_order_and_are_acknowledged_in_order(url: str) -> None:
    begun, again = Seen(), Seen()
    running, most, free = set[bytes](), 0, asyncio.Event()

    async def handler(message: BusMessage) -> None:
        nonlocal most
        running.add(message.payload)
        most = max(most, len(running))
        await begun(message)
        if message.payload == b"0":
            await free.wait()  # the first to begin is the last to end
        elif len(begun.messages) < 12:
            await asyncio.sleep(0)
        running.discard(message.payload)

    async with MqttBus(settings(url, "writer")) as writer:
        async with MqttBus(settings(url, "reader", receive_maximum=16)) as bus:
            await bus.subscribe("t", handler, concurrency=4)
            for i in range(12):
                await writer.publish("t", b"%d" % i)
            await begun.until(count(12))
            await asyncio.sleep(0.05)
        # The first was never finished, so nothing after it has been acknowledged either.
        async with MqttBus(settings(url, "reader", receive_maximum=16)) as bus:
            await bus.subscribe("t", again, concurrency=4)
            await again.until(count(12))
            assert bus.counts.reconnects == 0
    assert begun.payloads == again.payloads == [b"%d" % i for i in range(12)]
    assert 1 < most <= 4


async def test_error_in_one_of_several_concurrent_handlers_ends_the_bus_and_loses_nothing(url: str) -> None:
    again = Seen()

    async def fails_at_three(message: BusMessage) -> None:
        await asyncio.sleep(0.01)
        if message.payload == b"3":
            raise LookupError(message.topic)

    async def run() -> None:
        async with MqttBus(settings(url, "reader")) as bus:
            await bus.subscribe("t", fails_at_three, concurrency=3)
            for i in range(6):
                await bus.publish("t", b"%d" % i)
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(LookupError, match="^t$")
    async with MqttBus(settings(url, "writer")) as writer, MqttBus(settings(url, "reader")) as bus:
        await bus.subscribe("t", again)
        await writer.publish("t", b"end")
        await again.until(lambda seen: b"end" in seen.payloads)
    assert b"3" in again.payloads


async def test_stalled_handler_drops_the_oldest_qos_0_messages_and_counts_them(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemel.adapters.mqtt_inbox.QOS0_WAITING", 5)
    seen, begun, free = Seen(), asyncio.Event(), asyncio.Event()

    async def slow(message: BusMessage) -> None:
        begun.set()
        await free.wait()
        await seen(message)

    async with MqttBus(settings(url)) as bus:
        await bus.subscribe("t", slow, qos=0)  # rumqttd raises messages to the subscription's QoS
        await bus.publish("t", b"0", qos=0)
        await asyncio.wait_for(begun.wait(), 10)
        for i in range(1, 20):
            await bus.publish("t", b"%d" % i, qos=0)
        await until(lambda: bus.counts.dropped == 14)
        free.set()
        await seen.until(count(6))
    assert seen.payloads == [b"0", *(b"%d" % i for i in range(15, 20))]


# --- the link breaks ------------------------------------------------------------------------------


async def test_bus_opens_without_a_broker_and_publish_waits_for_it(start: Start) -> None:
    port, seen = free_port(), Seen()
    async with MqttBus(settings(f"mqtt://127.0.0.1:{port}")) as bus:
        await bus.subscribe("t", seen)
        waiting = asyncio.ensure_future(bus.publish("t", b"1"))
        await asyncio.sleep(0.05)
        assert not bus.connected
        assert not waiting.done()
        async with start(port):
            await waiting
            await seen.until(count(1))
            assert bus.connected
    assert seen.payloads == [b"1"]


async def test_subscriptions_are_renewed_after_the_broker_came_back(start: Start) -> None:
    port, seen = free_port(), Seen()
    async with start(port) as url:
        bus = MqttBus(settings(url))
        await bus.__aenter__()
        await bus.subscribe("t/#", seen)
        await bus.publish("t/1", b"before")
        await seen.until(count(1))
    try:
        await until(lambda: not bus.connected)
        async with start(port):
            await bus.publish("t/2", b"after")
            await seen.until(lambda seen: b"after" in seen.payloads)
            assert bus.counts.reconnects >= 1
    finally:
        await bus.__aexit__(None, None, None)


async def test_publish_without_a_broker_ends_at_its_deadline() -> None:
    async with MqttBus(settings(f"mqtt://127.0.0.1:{free_port()}", publish_deadline_s=0.2)) as bus:
        with pytest.raises(BusUnavailable, match=r"not acknowledged within 0\.2 s"):
            await bus.publish("t", b"")
        assert bus.counts.publishes_failed == 1


async def test_will_is_published_for_a_client_that_vanishes_and_not_for_one_that_leaves(url: str) -> None:
    seen = Seen()
    will = Will("agent/a/availability", b"offline", delay_s=0)
    async with MqttBus(settings(url, "watcher")) as watcher:
        await watcher.subscribe("agent/+/availability", seen)
        async with MqttBus(settings(url, "leaves"), will) as bus:
            await bus.publish("agent/a/availability", b"online", retain=True)
        async with MqttBus(settings(url, "vanishes"), will) as bus:
            await bus.publish("agent/a/availability", b"online again", retain=True)
            assert bus._link is not None
            bus._link._paho._sock_close()
            await seen.until(lambda seen: b"offline" in seen.payloads)
    assert seen.payloads == [b"online", b"online again", b"offline"]


# --- the broker says no ---------------------------------------------------------------------------


async def test_publish_that_the_acl_denies_is_refused(tmp_path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite allowed/#\n")
    async with (
        mosquitto(["allow_anonymous true", f"acl_file {acl}"]) as url,
        MqttBus(settings(url)) as bus,
    ):
        await bus.publish("allowed/x", b"")
        with pytest.raises(BusRefused, match=r"publish 'denied'.*0x87") as refused:
            await bus.publish("denied", b"")
    assert (refused.value.action, refused.value.topic, refused.value.code) == ("publish", "denied", 0x87)


async def test_connection_that_the_broker_refuses_is_counted_and_not_tried_again_at_once() -> None:
    async with (
        mosquitto(["allow_anonymous false"]) as url,
        MqttBus(settings(url, publish_deadline_s=0.5)) as bus,
    ):
        await bus.subscribe("t", Seen())
        with pytest.raises(BusUnavailable):
            await bus.publish("t", b"")
        assert (bus.counts.refused, bus.counts.reconnects) == (1, 0)


@asynccontextmanager
async def _broker_that_refuses_subscriptions() -> AsyncIterator[str]:
    """Just enough MQTT 5 to answer SUBSCRIBE with 0x87: mosquitto grants what its ACL then keeps silent."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(2):  # packets here are shorter than 128 bytes
            body = await reader.readexactly(head[1])
            if head[0] == 0x10:
                writer.write(b"\x20\x03\x00\x00\x00")
            elif head[0] == 0x82:
                writer.write(b"\x90\x04" + body[:2] + b"\x00\x87")
        writer.close()
        await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.wait_for(gone.wait(), 10)


async def test_subscription_that_the_broker_denies_is_refused() -> None:
    async with _broker_that_refuses_subscriptions() as url, MqttBus(settings(url)) as bus:
        with pytest.raises(BusRefused, match=r"subscribe to 't/#'.*0x87"):
            await bus.subscribe("t/#", Seen())
        assert bus.connected
        assert bus.counts.refused == 1


@pytest.mark.parametrize("url", ["http://host", "mqtt://", "mqtt://host:port", "host:1883"])
def test_url_that_is_no_broker_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match="bus: url: mqtt://host:port"):
        BusSettings(url, "x").address  # noqa: B018  a property that checks


async def test_certificate_file_that_is_missing_is_a_configuration_error(tmp_path) -> None:
    bus = MqttBus(BusSettings("mqtts://localhost", "x", ca_file=tmp_path / "ca.pem"))
    with pytest.raises(ConfigError, match="ca_file"):
        await bus.__aenter__()


async def test_tls_with_a_client_certificate_links_and_one_of_another_authority_does_not(tmp_path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    authority, stranger = PlantCA(ours), PlantCA(theirs)
    broker_certificate, broker_key = authority.leaf("broker")
    lines = [f"cafile {authority.ca_file}", f"certfile {broker_certificate}", f"keyfile {broker_key}"]
    seen = Seen()
    async with mosquitto([*lines, "require_certificate true", "use_identity_as_username true"]) as plain_url:
        url = plain_url.replace("mqtt://", "mqtts://")
        certificate, key = authority.leaf("agent-1")
        known = settings(url, "known", ca_file=authority.ca_file, cert_file=certificate, key_file=key)
        async with MqttBus(known) as bus:
            await bus.subscribe("t", seen)
            await bus.publish("t", bytes(300_000))  # more than one TLS record
            await seen.until(count(1))
        certificate, key = stranger.leaf("agent-1")
        unknown = settings(url, "unknown", ca_file=authority.ca_file, cert_file=certificate, key_file=key)
        async with MqttBus(replace(unknown, publish_deadline_s=0.5)) as bus:
            with pytest.raises(BusUnavailable):
                await bus.publish("t", b"")
            assert not bus.connected
    assert seen.payloads == [bytes(300_000)]


def test_bus_fits_the_port() -> None:
    async def made() -> Bus:
        return MqttBus(BusSettings("mqtt://localhost", "x"))

    assert asyncio.run(made()) is not None
