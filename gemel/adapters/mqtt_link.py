"""One MQTT 5 connection, from CONNECT to its end, with every reason code.

aiomqtt gives the connection and its place in the event loop. It drops what we need most: it acknowledges before
our code has run, ignores the code of a PUBACK and never raises for a SUBACK. So this file, and no other, reaches
through to the paho client that it wraps (`_paho`, `_sock`, `_misc_task`); the release is pinned and
tests/contract/test_bus.py holds it. See docs/decisions/0002-acknowledge-after-effect.md.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gemel.adapters.bus_settings import BusSettings
from gemel.adapters.read_ahead import ReadAhead
from gemel.errors import BusRefused, BusUnavailable
from gemel.ports import Will

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0  # for a SUBACK
KEEPALIVE_S = 20
OUTGOING_INFLIGHT = 20  # unacknowledged publishes at a time; a broker may ask for fewer
HEADROOM_BYTES = 16 * 1024  # topic and properties beside the payload
_PACKET_TOO_LARGE, _UNSPECIFIED = 0x95, 0x80


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as the broker sent it. `mid` is None for QoS 0; `subscriptions` may be empty."""

    topic: str
    payload: bytes
    retained: bool
    mid: int | None
    subscriptions: tuple[int, ...]
    properties: Mapping[str, str]
    response_topic: str | None
    correlation: bytes | None


@functools.cache
def subscription_id(topic_filter: str) -> int:
    """The identifier a subscription goes by at the broker: the same after a restart, as the session lives on."""
    return zlib.crc32(topic_filter.encode()) % 268_435_455 + 1


def mqtt_properties(packet: int, **values: object) -> Properties:
    """The properties of one packet by MQTT's own names (MQTT 5.0, section 2.2.2.2). None means: leave it out."""
    properties = Properties(packet)  # type: ignore[no-untyped-call]  # paho has no types here
    for name, value in values.items():
        if value is not None:
            setattr(properties, name, value)
    return properties


def _failure(action: str, subject: str, error: BaseException | None) -> BusUnavailable | BusRefused:
    code = getattr(error, "rc", None)
    # paho says «unspecified» for a connection that broke without a word from the broker, too
    if isinstance(code, ReasonCode) and code.is_failure and code.value != _UNSPECIFIED:
        return BusRefused(action, subject, code.value, code.getName())
    return BusUnavailable(f"no link to the broker: {error}")


class Link:
    """One connection. It is not reused: the next one is a new object, and paho's queue goes with the old one."""

    def __init__(
        self,
        settings: BusSettings,
        will: Will | None,
        tls: ssl.SSLContext | None,
        receive: Callable[[Link, Incoming], None],
    ) -> None:
        host, port, _ = settings.address
        self.session_present = False
        self._settings, self._receive = settings, receive
        self._answers: dict[int, asyncio.Future[ReasonCode]] = {}
        self._received: deque[int] = deque()  # QoS 1 messages that are not acknowledged, in order
        self._effected: set[int] = set()  # those of them that have had their effect
        self._ended: BusUnavailable | BusRefused | None = None
        self._largest_packet = settings.max_payload_bytes + HEADROOM_BYTES
        self._inflight = asyncio.Semaphore(OUTGOING_INFLIGHT)
        self._client = aiomqtt.Client(
            host,
            port,
            identifier=settings.client_id,
            username=settings.username,
            password=settings.password,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            keepalive=KEEPALIVE_S,
            timeout=CONNECT_TIMEOUT_S,
            properties=_connect_properties(settings),
            will=None if will is None else _will(will),
            tls_context=tls,
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        )
        self._paho: PahoClient = self._client._client  # noqa: SLF001  the one place; see the head of this file
        self._accepted = self._paho.on_connect
        self._paho.manual_ack_set(True)
        self._paho.on_connect = self._on_connect
        self._paho.on_message = self._on_message
        self._paho.on_publish = self._on_publish
        self._paho.on_subscribe = self._on_codes
        self._paho.on_unsubscribe = None

    async def open(self) -> None:
        """Connect. Raises BusUnavailable or BusRefused."""
        try:
            await self._client.__aenter__()
        except aiomqtt.MqttError as error:
            raise _failure("connect as", self._settings.client_id, error) from error
        if (connected := self._paho.socket()) is not None:
            self._paho._sock = ReadAhead(connected)  # noqa: SLF001  as in __init__

    async def wait_ended(self) -> BusUnavailable | BusRefused:
        """Wait until the link is gone, and say why. Publishes that wait for an answer raise BusUnavailable."""
        # Nothing is ever queued in aiomqtt, so its iterator ends with the connection and no sooner. Its keep-alive
        # task can die without a word; then the link is as good as gone.
        connection = asyncio.ensure_future(anext(self._client.messages))
        keepalive = self._client._misc_task  # noqa: SLF001  as above
        assert keepalive is not None
        try:
            await asyncio.wait({connection, keepalive}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            connection.cancel()
        await asyncio.wait({connection})
        cause = None if connection.cancelled() else connection.exception()
        ended = _failure("keep", self._settings.client_id, cause and (cause.__cause__ or cause))
        self._end(ended)
        return ended

    async def close(self) -> None:
        """Say goodbye, so that the broker does not publish the will. Never raises for a link that is gone."""
        self._end(BusUnavailable("the link was closed"))
        try:
            await self._client.__aexit__(None, None, None)
        except (aiomqtt.MqttError, OSError):
            pass
        finally:
            self._paho._sock_close()  # noqa: SLF001  aiomqtt leaves the socket open where the goodbye failed
            gone = self._client._disconnected  # noqa: SLF001  and warns of an error that nobody has looked at
            if gone.done() and not gone.cancelled():
                gone.exception()

    def _end(self, reason: BusUnavailable | BusRefused) -> None:
        self._ended = self._ended or reason
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(BusUnavailable("the link to the broker broke"))

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: Properties) -> None:
        """Returns at the PUBACK (QoS 1) or once written (QoS 0). Raises BusRefused, BusUnavailable."""
        if len(payload) + HEADROOM_BYTES > self._largest_packet:
            raise BusRefused("publish", topic, _PACKET_TOO_LARGE, f"Packet too large ({len(payload)} bytes)")
        async with self._inflight:
            info = self._paho.publish(topic, payload, qos, retain, properties)
            code = await self._answer(info.rc, info.mid)
        if code.is_failure:
            raise BusRefused("publish", topic, code.value, code.getName())

    async def subscribe(self, topic_filter: str, qos: int) -> None:
        """Returns at the SUBACK. Raises BusRefused, BusUnavailable."""
        properties = mqtt_properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=subscription_id(topic_filter))
        rc, mid = self._paho.subscribe(topic_filter, qos, properties=properties)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                code = await self._answer(rc, mid)
        except TimeoutError:
            raise BusUnavailable(f"no answer to a subscription to {topic_filter!r}") from None
        if code.is_failure:
            raise BusRefused("subscribe to", topic_filter, code.value, code.getName())

    def unsubscribe(self, topic_filter: str) -> bool:
        """Whether it was sent. Nobody waits for the UNSUBACK: rumqttd sends none for a filter it does not know."""
        rc, _ = self._paho.unsubscribe(topic_filter)
        return rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def acknowledge(self, mid: int) -> None:
        """A QoS 1 message has had its effect. On a dead link: nothing; it comes again.

        The broker hears of it once all that came before has had its effect as well: a client must send PUBACKs in
        the order in which the messages came (MQTT-4.6.0-2), and rumqttd disconnects one that does not.
        """
        self._effected.add(mid)
        while self._ended is None and self._received and self._received[0] in self._effected:
            first = self._received.popleft()
            self._effected.discard(first)
            self._paho.ack(first, 1)

    async def _answer(self, rc: MQTTErrorCode, mid: int | None) -> ReasonCode:
        if self._ended is not None or rc != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise BusUnavailable("the link to the broker is down")
        answer: asyncio.Future[ReasonCode] = asyncio.get_running_loop().create_future()
        self._answers[mid] = answer
        try:
            return await answer
        finally:
            del self._answers[mid]

    # paho calls these in the event loop; types are paho's own.

    def _on_connect(
        self, client: PahoClient, userdata: Any, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        self.session_present = flags.session_present
        # paho takes no notice of either limit; a broker ends the connection of a client that exceeds one
        largest = getattr(properties, "MaximumPacketSize", self._largest_packet)
        self._largest_packet = min(self._largest_packet, largest)
        inflight = min(OUTGOING_INFLIGHT, getattr(properties, "ReceiveMaximum", OUTGOING_INFLIGHT))
        self._inflight = asyncio.Semaphore(inflight)
        assert self._accepted is not None
        self._accepted(client, userdata, flags, code, properties)  # type: ignore[arg-type,call-arg]  # paho's union of API versions

    def _on_message(self, _client: PahoClient, _userdata: Any, message: MQTTMessage) -> None:
        known = message.properties
        if message.qos:
            self._received.append(message.mid)
        incoming = Incoming(
            topic=message.topic,
            payload=bytes(message.payload),
            retained=message.retain,
            mid=message.mid if message.qos else None,
            subscriptions=tuple(getattr(known, "SubscriptionIdentifier", ())),
            properties=dict(getattr(known, "UserProperty", ())),
            response_topic=getattr(known, "ResponseTopic", None),
            correlation=getattr(known, "CorrelationData", None),
        )
        self._receive(self, incoming)

    def _on_publish(self, _client: PahoClient, _userdata: Any, mid: int, code: ReasonCode, _properties: Any) -> None:
        self._on_codes(_client, _userdata, mid, [code], _properties)

    def _on_codes(
        self, _client: PahoClient, _userdata: Any, mid: int, codes: list[ReasonCode], _properties: Any
    ) -> None:
        answer = self._answers.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(codes[0])


def _connect_properties(settings: BusSettings) -> Properties:
    return mqtt_properties(
        PacketTypes.CONNECT,
        SessionExpiryInterval=settings.session_expiry_s,
        ReceiveMaximum=settings.receive_maximum,
        MaximumPacketSize=settings.max_payload_bytes + HEADROOM_BYTES,
    )


def _will(will: Will) -> aiomqtt.Will:
    properties = mqtt_properties(PacketTypes.WILLMESSAGE, WillDelayInterval=will.delay_s)
    return aiomqtt.Will(will.topic, will.payload, qos=1, retain=will.retain, properties=properties)
