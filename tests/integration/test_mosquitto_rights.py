"""A real mosquitto with the dynamic security plugin: what is wanted is what parties can do, at once and later."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gemel.adapters.bus_settings import BusSettings
from gemel.adapters.dynamic_security import (
    ANSWER_TOPIC,
    CONTROL_TOPIC,
    found,
    read_security_file,
    security_file,
)
from gemel.adapters.mosquitto_rights import MosquittoRights
from gemel.adapters.mqtt_bus import MqttBus
from gemel.errors import BusRefused, BusUnavailable, ConfigError
from gemel.ports import BusMessage
from gemel.wire import topics
from gemel.wire.entitlements import EVERYBODY, Entitlement, differences, entitlements
from gemel.wire.rights import acl_text, fleet_parties
from gemel.wire.sharing import Asset, Grant, shares
from tests.support.certificates import PlantCA
from tests.support.mosquitto import Broker, need_mosquitto, plant_broker
from tests.support.parties import AGENTS, CUSTODIAN, LISTENER, PLANT, TRUST, WANTED, identity

pytestmark = pytest.mark.broker

OWNER, CONSUMER = identity(31).address, identity(32).address
AGENT, ADMINISTRATOR = AGENTS[0].address, LISTENER.address
RIG_1, RIG_2 = (topics.twin_state("bonn", rig) for rig in ("rig-1", "rig-2"))
OWNERS = {Asset("bonn", "rig-1"): OWNER, Asset("bonn", "rig-2"): OWNER}
GRANT = Grant(OWNER, CONSUMER, RIG_1, from_ms=1_000, until_ms=2_000)
GRANT_OPENS_S = 2.0  # the project's bound for a grant to hold, from its block on
PARTIES = (*fleet_parties(TRUST), *PLANT)


def wanted(*grants: Grant, now_ms: int = 0, suspended: frozenset[str] = frozenset()) -> frozenset[Entitlement]:
    return entitlements(TRUST, PLANT, shared=shares(grants, OWNERS, now_ms).rights, suspended=suspended)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> PlantCA:
    ca = PlantCA(tmp_path_factory.mktemp("plant"))
    for name in ("broker", CONSUMER, "mallory", *(party.user for party in PARTIES)):
        ca.leaf(name)
    return ca


@pytest.fixture
def broker(authority: PlantCA) -> Iterator[Broker]:
    need_mosquitto()
    begin_with(authority, WANTED)
    with plant_broker(authority.directory, dynamic=True) as running:
        yield running


def begin_with(authority: PlantCA, entitled: frozenset[Entitlement]) -> None:
    for stale in ("mosquitto.db", "mosquitto.log"):
        (authority.directory / stale).unlink(missing_ok=True)
    (authority.directory / "dynamic-security.json").write_bytes(security_file(entitled, ADMINISTRATOR))


def settings(authority: PlantCA, port: int, user: str) -> BusSettings:
    folder = authority.directory
    files = (folder / "ca.pem", folder / f"{user}.pem", folder / f"{user}.key")
    return BusSettings(f"mqtts://127.0.0.1:{port}", user, None, None, *files, publish_deadline_s=10)


class Ear:
    """What came on a bus."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[BusMessage] = asyncio.Queue()

    async def __call__(self, message: BusMessage) -> None:
        await self.messages.put(message)

    async def next(self) -> tuple[str, bytes]:
        async with asyncio.timeout(10):
            message = await self.messages.get()
        return message.topic, message.payload


@asynccontextmanager
async def administering(authority: PlantCA, port: int) -> AsyncIterator[MosquittoRights]:
    async with (
        MqttBus(settings(authority, port, ADMINISTRATOR), uniform=lambda: 0.0) as bus,
        MosquittoRights(bus, ADMINISTRATOR) as rights,
    ):
        yield rights


@asynccontextmanager
async def party(authority: PlantCA, port: int, user: str, *filters: str) -> AsyncIterator[tuple[MqttBus, Ear]]:
    ear = Ear()
    async with MqttBus(settings(authority, port, user), uniform=lambda: 0.0) as bus:
        for topic_filter in filters:
            await bus.subscribe(topic_filter, ear)
        yield bus, ear


@pytest.fixture
async def rights(authority: PlantCA, broker: Broker) -> AsyncIterator[MosquittoRights]:
    async with administering(authority, broker.port) as administrator:
        yield administrator


async def tamper(authority: PlantCA, port: int, *commands: dict[str, object]) -> None:
    """What an administrator does by hand, on a link of its own: it has only one at a time.

    Where it concerns itself, the plugin ends its link instead of an answer, and everything is said twice.
    """
    answers = Ear()
    async with MqttBus(settings(authority, port, ADMINISTRATOR)) as bus:
        await bus.subscribe(ANSWER_TOPIC, answers)
        await bus.publish(CONTROL_TOPIC, json.dumps({"commands": commands}).encode())
        await answers.next()


# --- the same rights as by the access list -------------------------------------------------------


def concrete(topic_filter: str) -> str:
    return topic_filter.replace("+", "x").replace("#", "x/y")


async def tried(authority: PlantCA, port: int) -> tuple[set[tuple[str, str]], set[tuple[str, str, str]]]:
    """Everybody says every word and listens to everything: (user, topic) refused, (reader, topic, writer) heard."""
    every = sorted({concrete(right.topic_filter) for one in WANTED for right in one.rights} | {"$SYS/x", "other/x"})
    refused: set[tuple[str, str]] = set()
    async with AsyncExitStack() as stack:
        ears: dict[str, Ear] = {}
        buses: dict[str, MqttBus] = {}
        for one in PARTIES:
            opened = party(authority, port, one.user, "gemel/v1/#", "plant/#", "commands/#", "other/#")
            buses[one.user], ears[one.user] = await stack.enter_async_context(opened)
        for user, bus in buses.items():
            for topic in every:
                try:
                    await bus.publish(topic, user.encode())
                except BusRefused:
                    refused.add((user, topic))
        # What came before these on the same link has come; each can read one of them.
        for topic in ("gemel/v1/bonn/agent/gateway-1/status", "commands/bonn/rig-1/x"):
            await buses[AGENT].publish(topic, b"end")
        for one in PARTIES:
            of = topics.Learning(TRUST.fleet, TRUST.task)
            await buses[AGENT].publish(of.fetch(one.user, AGENT), b"end")
        heard: set[tuple[str, str, str]] = set()
        for user, ear in ears.items():
            while (word := await ear.next())[1] != b"end":
                heard.add((user, word[0], word[1].decode()))
    return refused, heard


async def test_plugin_and_access_list_give_every_party_the_same_rights(authority: PlantCA) -> None:
    need_mosquitto()
    begin_with(authority, WANTED)
    (authority.directory / "acl").write_text(acl_text(TRUST, PLANT))
    with plant_broker(authority.directory) as static:
        by_list = await tried(authority, static.port)
    begin_with(authority, WANTED)
    with plant_broker(authority.directory, dynamic=True) as dynamic:
        by_plugin = await tried(authority, dynamic.port)
    assert by_plugin == by_list
    refused, heard = by_list
    assert (AGENT, RIG_1) not in refused
    assert (CUSTODIAN.address, RIG_1) in refused
    assert ("wallboard", RIG_1, AGENT) in heard
    assert {user for user, _, _ in heard} == {one.user for one in PARTIES}


async def test_empty_broker_is_filled_by_apply_as_by_the_file(authority: PlantCA) -> None:
    need_mosquitto()
    listener = next(one for one in WANTED if one.user == ADMINISTRATOR)
    begin_with(authority, frozenset({listener}))
    with plant_broker(authority.directory, dynamic=True) as running:
        async with administering(authority, running.port) as rights:
            made = await rights.apply(WANTED)
            assert {one.kind for one in made} == {"missing"}
            assert len(made) == len(WANTED) - 1
            assert await rights.read() == WANTED
            assert await rights.apply(WANTED) == ()


# --- grants --------------------------------------------------------------------------------------


WORDS = (RIG_1, RIG_2, *(word("bonn", "rig-1") for word in (topics.twin_delta, topics.twin_backfill)))
# What marks the end of what was said is a grant that stands throughout.
MARK = Grant(OWNER, CONSUMER, topics.twin_event("bonn", "rig-2"), from_ms=0, until_ms=10_000)


async def test_grant_opens_exactly_its_topics_for_a_standing_subscriber_and_revocation_and_its_end_close_them(
    authority: PlantCA, broker: Broker, rights: MosquittoRights
) -> None:
    await rights.apply(wanted(MARK))
    async with (
        party(authority, broker.port, AGENT) as (agent, _),
        party(authority, broker.port, CONSUMER, "gemel/v1/#") as (_, consumer),
    ):
        revoked: tuple[Grant, ...] = ()
        steps = [((GRANT,), 0, ()), ((GRANT,), 1_000, (RIG_1,)), (revoked, 1_500, ()), ((GRANT,), 1_999, (RIG_1,))]
        for grants, now_ms, heard in [*steps, ((GRANT,), 2_000, ())]:
            async with asyncio.timeout(GRANT_OPENS_S):
                await rights.apply(wanted(*grants, MARK, now_ms=now_ms))
            for topic in (*WORDS, MARK.scope):
                await agent.publish(topic, b"word")
            assert [await consumer.next() for _ in (*heard, MARK)] == [(t, b"word") for t in (*heard, MARK.scope)]
        assert broker.said("by administrative action") == 0  # all of it on one link


async def test_consumer_whose_last_grant_had_ended_hears_again_with_the_next(
    authority: PlantCA, broker: Broker, rights: MosquittoRights
) -> None:
    await rights.apply(wanted(GRANT, now_ms=1_000))
    async with (
        party(authority, broker.port, AGENT) as (agent, _),
        party(authority, broker.port, CONSUMER, RIG_1) as (_, consumer),
    ):
        await rights.apply(wanted(GRANT, now_ms=2_000))
        broker.wait_until_said(f"Client {CONSUMER} been disconnected by administrative action", 1)
        await agent.publish(RIG_1, b"in between")
        async with asyncio.timeout(GRANT_OPENS_S):
            await rights.apply(wanted(GRANT, now_ms=1_000))
            while consumer.messages.empty():
                await agent.publish(RIG_1, b"again")
                await asyncio.sleep(0.02)
        assert await consumer.next() == (RIG_1, b"again")


async def test_what_waits_for_a_consumer_that_is_away_is_not_delivered_after_the_revocation(
    authority: PlantCA, broker: Broker, rights: MosquittoRights
) -> None:
    await rights.apply(wanted(GRANT, MARK, now_ms=1_000))
    async with party(authority, broker.port, CONSUMER, RIG_1, MARK.scope):
        pass  # the session stays
    async with party(authority, broker.port, AGENT) as (agent, _):
        await agent.publish(RIG_1, b"while granted")
        await agent.publish(MARK.scope, b"end")
    await rights.apply(wanted(MARK, now_ms=1_000))
    async with party(authority, broker.port, CONSUMER, RIG_1, MARK.scope) as (_, consumer):
        assert await consumer.next() == (MARK.scope, b"end")


async def test_scope_of_all_words_opens_neither_backfill_nor_what_machines_shall_be(
    authority: PlantCA, broker: Broker, rights: MosquittoRights
) -> None:
    all_words = Grant(OWNER, CONSUMER, "gemel/v1/bonn/twin/rig-1/+", from_ms=0, until_ms=10)
    await rights.apply(wanted(all_words))
    async with (
        party(authority, broker.port, AGENT) as (agent, _),
        party(authority, broker.port, "shift-1") as (operator, _),
        party(authority, broker.port, CONSUMER, "gemel/v1/#") as (_, consumer),
    ):
        await operator.publish(topics.desired_set("bonn", "rig-1"), b"word")
        await agent.publish(topics.desired_answer("bonn", "rig-1", "shift-1"), b"word")
        for word in (topics.twin_backfill, topics.twin_state, topics.twin_schema):
            await agent.publish(word("bonn", "rig-1"), b"word")
        assert await consumer.next() == (topics.twin_state("bonn", "rig-1"), b"word")
        assert await consumer.next() == (topics.twin_schema("bonn", "rig-1"), b"word")


# --- suspension ----------------------------------------------------------------------------------


async def test_suspended_device_loses_its_link_and_can_do_nothing_with_a_new_one(
    authority: PlantCA, broker: Broker, rights: MosquittoRights
) -> None:
    async with (
        party(authority, broker.port, AGENT, topics.desired_set("bonn", "rig-1")) as (agent, ear),
        party(authority, broker.port, "shift-1") as (operator, _),
    ):
        await agent.publish(RIG_1, b"before")
        (change,) = await rights.apply(wanted(suspended=frozenset({AGENT})))
        assert change.user == AGENT
        broker.wait_until_said(f"Client {AGENT} been disconnected by administrative action", 1)
        # 2.0.11 lets it in again: it asks nobody where a certificate names the user.
        with pytest.raises(BusRefused, match="Not authorized"):
            await agent.publish(RIG_1, b"meanwhile")
        await operator.publish(topics.desired_set("bonn", "rig-1"), b"meanwhile")

        await rights.apply(WANTED)
        await agent.publish(RIG_1, b"after")
        await operator.publish(topics.desired_set("bonn", "rig-1"), b"after")
        assert await ear.next() == (topics.desired_set("bonn", "rig-1"), b"after")


async def test_suspension_of_one_cuts_no_other_link(
    authority: PlantCA, broker: Broker, rights: MosquittoRights
) -> None:
    async with party(authority, broker.port, "wallboard"):
        await rights.apply(wanted(GRANT, now_ms=1_000, suspended=frozenset({AGENT})))
        assert broker.said("by administrative action") == 0  # the agent had no link


# --- what stands at the broker -------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_restart_of_the_broker_keeps_grants_and_suspensions(authority: PlantCA, how: signal.Signals) -> None:
    need_mosquitto()
    begin_with(authority, WANTED)
    state = wanted(GRANT, now_ms=1_000, suspended=frozenset({AGENT}))
    with plant_broker(authority.directory, dynamic=True) as first:
        async with administering(authority, first.port) as rights:
            await rights.apply(state)
            first.process.send_signal(how)
            first.process.wait(10)
            with plant_broker(authority.directory, dynamic=True, port=first.port):
                assert await rights.read() == state
                assert await rights.apply(state) == ()
    written = (authority.directory / "dynamic-security.json").read_bytes()
    assert found(read_security_file(written, "dynamic-security.json"), ADMINISTRATOR) == state


async def test_every_change_by_hand_is_named_and_undone(authority: PlantCA, broker: Broker) -> None:
    hear_all = {"acltype": "publishClientReceive", "topic": "#", "allow": True}
    silence = {"acltype": "publishClientSend", "topic": RIG_1.replace("state", "+"), "allow": False, "priority": 9}
    control = {"acltype": "publishClientSend", "topic": CONTROL_TOPIC, "allow": True}
    await tamper(
        authority,
        broker.port,
        {"command": "createRole", "rolename": "spy", "acls": [hear_all]},
        {"command": "createRole", "rolename": "mallory", "acls": [control]},
        {"command": "createClient", "username": "mallory", "roles": [{"rolename": "mallory"}]},
        {"command": "createClient", "username": "ünsichtbar/+#"},
        {"command": "createGroup", "groupname": "spies", "roles": [{"rolename": "spy"}]},
        {"command": "addGroupClient", "groupname": "spies", "username": "wallboard"},
        {"command": "setAnonymousGroup", "groupname": "spies"},
        {"command": "addClientRole", "username": "plc-7", "rolename": "spy"},
        {"command": "addClientRole", "username": "plc-7", "rolename": "mallory"},
        {"command": "addRoleACL", "rolename": AGENT, **silence},
        {"command": "removeClientRole", "username": "twin-registry", "rolename": "twin-registry"},
        {"command": "deleteClient", "username": "shift-1"},
        {"command": "disableClient", "username": CUSTODIAN.address},
        {"command": "setDefaultACLAccess", "acls": [{"acltype": "publishClientReceive", "allow": True}]},
    )
    async with administering(authority, broker.port) as rights:
        stands = await rights.read()
        named = {one.user: str(one) for one in differences(WANTED, stands)}
        assert named.pop("shift-1").startswith("missing: shift-1: may not read gemel/v1/bonn/agent/+/availability; ")
        assert named.pop("twin-registry").startswith("changed: twin-registry: may not read gemel/v1/")
        assert named == {
            EVERYBODY: "surplus: everybody: may read #, unwanted; group spies is not empty; "
            "there is a role shift-1, which is no client's own; there is a role spy, which is no client's own",
            AGENT: f"changed: {AGENT}: is refused publishClientSend gemel/v1/bonn/twin/rig-1/+",
            CUSTODIAN.address: f"changed: {CUSTODIAN.address}: is disabled",
            "mallory": f"surplus: mallory: may write {CONTROL_TOPIC}, unwanted",
            "plc-7": f"changed: plc-7: may read #, unwanted; may write {CONTROL_TOPIC}, unwanted; "
            "holds the roles mallory, plc-7, spy",
            "wallboard": "changed: wallboard: may read #, unwanted; is in group spies",
            "ünsichtbar/+#": "surplus: ünsichtbar/+#: holds the roles (none); is not disabled",
        }
        assert {one.user for one in await rights.apply(WANTED)} == {one.user for one in differences(WANTED, stands)}
        assert await rights.read() == WANTED
        assert broker.process.poll() is None


async def test_administrator_that_was_tampered_with_mends_itself(authority: PlantCA, broker: Broker) -> None:
    await tamper(
        authority,
        broker.port,
        {"command": "createRole", "rolename": "spy", "acls": []},
        {
            "command": "addRoleACL",
            "rolename": ADMINISTRATOR,
            "acltype": "publishClientReceive",
            "topic": "#",
            "allow": True,
        },
        {"command": "createGroup", "groupname": "spies", "roles": [{"rolename": "spy"}]},
    )
    async with administering(authority, broker.port) as rights:
        stands = await rights.read()
        assert {one.user for one in differences(WANTED, stands)} == {EVERYBODY, ADMINISTRATOR}
        await rights.apply(WANTED)
        assert await rights.read() == WANTED


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["a/b", "a+", "#", "", "dashbörd", "a b", "x" * 65, "\ud800"])
async def test_name_that_is_none_is_refused_before_anything_is_sent(
    rights: MosquittoRights, broker: Broker, user: str
) -> None:
    with pytest.raises(ConfigError, match="broker rights"):
        await rights.apply(WANTED | {Entitlement(user, frozenset()), Entitlement("fine", frozenset())})
    assert await rights.read() == WANTED


async def test_who_is_not_the_administrator_may_not_ask(authority: PlantCA, broker: Broker) -> None:
    async with MqttBus(settings(authority, broker.port, "mallory")) as bus:
        with pytest.raises(BusRefused, match="Not authorized"):
            async with MosquittoRights(bus, "mallory"):
                pytest.fail("mallory hears the answers")


async def test_broker_that_is_away_is_said_in_one_line_and_served_when_it_is_back(authority: PlantCA) -> None:
    need_mosquitto()
    begin_with(authority, WANTED)
    with plant_broker(authority.directory, dynamic=True) as first:
        async with (
            MqttBus(settings(authority, first.port, ADMINISTRATOR), uniform=lambda: 0.0) as bus,
            MosquittoRights(bus, ADMINISTRATOR, answer_deadline_s=0.2) as rights,
        ):
            first.process.terminate()
            first.process.wait(10)
            with pytest.raises(BusUnavailable, match=r"did not answer getDefaultACLAccess within 0.2 s$"):
                await rights.apply(wanted(GRANT, now_ms=1_000))
            with plant_broker(authority.directory, dynamic=True, port=first.port):
                async with asyncio.timeout(20):
                    while not bus.connected:  # noqa: ASYNC110  a bus offers no event for it
                        await asyncio.sleep(0.05)
                assert [one.kind for one in await rights.apply(wanted(GRANT, now_ms=1_000))] == ["missing"]
