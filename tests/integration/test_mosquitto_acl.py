"""A real mosquitto with the plant's configuration, certificates and access list: who comes in, who may say what."""

from __future__ import annotations

import queue
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from gemel.wire import topics
from gemel.wire.chunks import CHUNK_BYTES, Transfer, pack_chunk
from gemel.wire.rights import acl_text
from tests.support.certificates import PlantCA
from tests.support.mosquitto import Broker, need_mosquitto, plant_broker
from tests.support.parties import AGENTS, COORDINATOR, CUSTODIAN, PLANT, TRUST

pytestmark = pytest.mark.broker

OF = topics.Learning(TRUST.fleet, TRUST.task)
AGENT, OTHER_AGENT = (agent.address for agent in AGENTS)
DIGEST = "ab" * 32
SUCCESS, NOT_AUTHORISED, FAILURE = 0, 135, 128
CONNACK = 0x20
ANSWERS = {SUCCESS, 16}  # 16: nobody listens, which is no refusal
WAIT_S = 5.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> PlantCA:
    ca = PlantCA(tmp_path_factory.mktemp("plant"))
    fleet = (COORDINATOR.address, CUSTODIAN.address)
    for name in ("broker", "stranger", "stolen", *fleet, *(party.user for party in PLANT)):
        ca.leaf(name)
    return ca


@pytest.fixture(scope="module")
def broker(authority: PlantCA) -> Iterator[Broker]:
    need_mosquitto()
    (authority.directory / "acl").write_text(acl_text(TRUST, PLANT))
    with plant_broker(authority.directory) as running:
        yield running


class Peer:
    """One connected paho client, seen from outside: what the broker answered and delivered."""

    def __init__(self, client: Client, maximum_packet_size: int) -> None:
        self._client, self.maximum_packet_size = client, maximum_packet_size
        self.answers: queue.Queue[int] = queue.Queue()
        self.messages: queue.Queue[MQTTMessage] = queue.Queue()
        self.ends: queue.Queue[int] = queue.Queue()
        client.on_publish = lambda _c, _u, _mid, code, _p: self.answers.put(code.value)
        client.on_subscribe = lambda _c, _u, _mid, codes, _p: self.answers.put(codes[0].value)
        client.on_message = lambda _c, _u, message: self.messages.put(message)
        client.on_disconnect = lambda _c, _u, _f, code, _p: self.ends.put(code.value)

    def send(self, topic: str, payload: bytes) -> None:
        """Publish, and do not wait for the broker's word."""
        self._client.publish(topic, payload, qos=1)

    def publish(self, topic: str, payload: bytes = b"x") -> int:
        """The reason code of the broker's PUBACK."""
        self.send(topic, payload)
        return self.answers.get(timeout=WAIT_S)

    def subscribe(self, topic_filter: str) -> int:
        """The reason code of the broker's SUBACK."""
        self._client.subscribe(topic_filter, qos=1)
        return self.answers.get(timeout=WAIT_S)


def tls(directory: Path, user: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    context.check_hostname = False
    if user is not None:
        context.load_cert_chain(directory / f"{user}.pem", directory / f"{user}.key")
    return context


@contextmanager
def peer(authority: PlantCA, broker: Broker, user: str) -> Iterator[Peer]:
    """A connected party; its certificate is its user name and its client id."""
    client = Client(CallbackAPIVersion.VERSION2, client_id="whatever", protocol=MQTTv5, reconnect_on_failure=False)
    client.tls_set_context(tls(authority.directory, user))
    connected: queue.Queue[tuple[int, int]] = queue.Queue()
    client.on_connect = lambda _c, _u, _f, code, said: connected.put((code.value, said.MaximumPacketSize))
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        code, maximum_packet_size = connected.get(timeout=WAIT_S)
        assert code == SUCCESS
        yield Peer(client, maximum_packet_size)
    finally:
        client.disconnect()
        client.loop_stop()


def connack(authority: PlantCA, broker: Broker, user: str | None) -> bytes:
    """The two bytes with which the broker answers a CONNECT. Raises OSError where it hangs up."""
    connect = bytes.fromhex("1010 0004 4d515454 05 02 003c 00 0003 616263")
    with (
        socket.create_connection(("127.0.0.1", broker.port), timeout=WAIT_S) as plain,
        tls(authority.directory, user).wrap_socket(plain) as link,
    ):
        link.sendall(connect)
        return link.recv(2)


@contextmanager
def refused_because(broker: Broker, reason: str) -> Iterator[None]:
    """Clients see a link that ends (TLS 1.3 tells them no more): why, only the broker knows."""
    before = broker.said(reason)
    with pytest.raises(OSError, match=r"EOF|ALERT|reset"):
        yield
    broker.wait_until_said(reason, before + 1)


def test_agent_may_publish_its_own_commitment_and_not_anothers(authority: PlantCA, broker: Broker) -> None:
    with peer(authority, broker, AGENT) as agent:
        assert agent.publish(OF.commitment(AGENT)) in ANSWERS
        assert agent.publish(OF.commitment(OTHER_AGENT)) == NOT_AUTHORISED


def test_agent_may_write_the_twins_of_its_own_machines_only(authority: PlantCA, broker: Broker) -> None:
    with peer(authority, broker, AGENT) as agent:
        assert agent.publish(topics.twin_state("bonn", "rig-1")) in ANSWERS
        assert agent.publish(topics.twin_state("lyon", "rig-3")) == NOT_AUTHORISED
        assert agent.publish(topics.agent("bonn", "gateway-2", "status")) == NOT_AUTHORISED


@pytest.mark.parametrize(
    "topic",
    [
        OF.invitation,
        OF.deployment,
        OF.opened(CUSTODIAN.address),
        OF.receipt(AGENT),
        OF.chunk(CUSTODIAN.address, DIGEST),
    ],
)
def test_agent_may_not_speak_for_anybody_else(authority: PlantCA, broker: Broker, topic: str) -> None:
    with peer(authority, broker, AGENT) as agent:
        assert agent.publish(topic) == NOT_AUTHORISED


def test_certificate_that_no_rule_names_may_say_nothing(authority: PlantCA, broker: Broker) -> None:
    with peer(authority, broker, "stranger") as stranger:
        assert stranger.publish(OF.chunk("stranger", DIGEST)) == NOT_AUTHORISED
        assert stranger.publish("plant/bonn/rig-1/readings") == NOT_AUTHORISED


def test_commitment_reaches_the_coordinator_and_no_other_agent(authority: PlantCA, broker: Broker) -> None:
    with (
        peer(authority, broker, COORDINATOR.address) as coordinator,
        peer(authority, broker, OTHER_AGENT) as curious,
        peer(authority, broker, AGENT) as agent,
    ):
        coordinator.subscribe(OF.commitment())
        # The broker answers "granted" and then delivers nothing: forbidden reads are filtered, not refused.
        curious.subscribe(OF.commitment())
        curious.subscribe(OF.receipt(OTHER_AGENT))
        assert agent.publish(OF.commitment(AGENT), b"promise") == SUCCESS
        assert coordinator.messages.get(timeout=WAIT_S).payload == b"promise"
        # What comes after it on the same link has come, so what did not come before it never will.
        assert coordinator.publish(OF.receipt(OTHER_AGENT), b"receipt") == SUCCESS
        assert curious.messages.get(timeout=WAIT_S).payload == b"receipt"
        assert curious.messages.empty()


def test_custodian_hears_the_sum_and_no_frame(authority: PlantCA, broker: Broker) -> None:
    with (
        peer(authority, broker, CUSTODIAN.address) as custodian,
        peer(authority, broker, COORDINATOR.address) as coordinator,
        peer(authority, broker, AGENT) as agent,
    ):
        custodian.subscribe(OF.chunk("+", "+"))
        agent.publish(OF.chunk(AGENT, DIGEST), b"frame")
        assert coordinator.publish(OF.chunk(COORDINATOR.address, DIGEST), b"sum") == SUCCESS
        assert custodian.messages.get(timeout=WAIT_S).payload == b"sum"
        assert custodian.messages.empty()


def test_a_chunk_fits_and_a_packet_above_the_announced_limit_costs_the_link(
    authority: PlantCA, broker: Broker
) -> None:
    with peer(authority, broker, AGENT) as agent:
        assert agent.maximum_packet_size == 1_048_576
        chunk = pack_chunk(Transfer(DIGEST, CHUNK_BYTES), 0, bytes(CHUNK_BYTES))
        assert agent.publish(OF.chunk(AGENT, DIGEST), chunk) in ANSWERS
        agent.send(OF.chunk(AGENT, DIGEST), bytes(agent.maximum_packet_size))
        assert agent.ends.get(timeout=WAIT_S) >= FAILURE


def test_client_with_a_certificate_comes_in(authority: PlantCA, broker: Broker) -> None:
    assert connack(authority, broker, AGENT)[0] == CONNACK


def test_client_without_a_certificate_is_refused(authority: PlantCA, broker: Broker) -> None:
    with refused_because(broker, "peer did not return a certificate"):
        connack(authority, broker, None)


def test_client_of_another_authority_is_refused(tmp_path: Path, authority: PlantCA, broker: Broker) -> None:
    other = PlantCA(tmp_path)
    other.leaf(AGENT)
    shutil.copy(authority.ca_file, other.ca_file)
    with refused_because(broker, "certificate verify failed"):
        connack(other, broker, AGENT)


def test_revoked_certificate_is_refused_after_a_reload(authority: PlantCA, broker: Broker) -> None:
    assert connack(authority, broker, "stolen")[0] == CONNACK
    authority.revoke("stolen")
    broker.reload()
    with refused_because(broker, "certificate verify failed"):
        connack(authority, broker, "stolen")
    assert connack(authority, broker, AGENT)[0] == CONNACK
