"""The broker's rights against the table of topics: each topic has its writer, and nobody else may write it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from aiomqtt import Topic

from gemel.errors import ConfigError
from gemel.wire import topics
from gemel.wire.rights import BusRole, Party, Right, acl_text, fleet_parties, rights
from tests.support.parties import AGENTS, COORDINATOR, CUSTODIAN, LISTENER, PLANT, TRUST, VALIDATORS

PARTIES = (*fleet_parties(TRUST), *PLANT)
AGENT, OTHER_AGENT = PLANT[0], PLANT[1]
OPERATOR = next(p for p in PLANT if p.role is BusRole.OPERATOR)
FLEET_ROLES = {BusRole.AGENT, BusRole.COORDINATOR, BusRole.CUSTODIAN, BusRole.VALIDATOR, BusRole.LISTENER}
WRITERS = {
    "edge agent": {BusRole.AGENT},
    "coordinator": {BusRole.COORDINATOR},
    "custodian": {BusRole.CUSTODIAN},
    "listener": {BusRole.LISTENER},
    "validator": {BusRole.VALIDATOR},
    "operator": {BusRole.OPERATOR},
    "reader": {BusRole.OPERATOR, BusRole.DASHBOARD},
    "registry": {BusRole.REGISTRY},
    "anybody": FLEET_ROLES,
}
DIGEST = "ab" * 32

# The lines of the table in the docstring of gemel/wire/topics.py: topic, writer, QoS, retained.
TABLE = re.findall(r"^ +(gemel/v1/\S+) +(.+?) +(\d) +(yes|no)\b", topics.__doc__ or "", flags=re.MULTILINE)


def may(party: Party, access: str, topic: str) -> bool:
    return any(a == access and Topic(topic).matches(f) for a, f in rights(party, TRUST))


def own_topic(template: str, party: Party) -> str:
    """The topic of a line of the table as `party` would write it."""
    # A receipt stands under the agent it is for; everything else that names a party names its writer.
    device = AGENT.user if party.role is BusRole.COORDINATOR else party.user
    if "/letter/" in template or "/training-request/" in template:
        to = CUSTODIAN.address
    elif "/letter-receipt/" in template or "/training-answer/" in template or "/training/fetch/" in template:
        to = AGENT.user
    else:
        to = CUSTODIAN.address if party.user == COORDINATOR.address else COORDINATOR.address
    values = {
        "<site>": party.site or AGENT.site,
        "<asset>": (party.assets or AGENT.assets)[0],
        "<name>": party.agent or AGENT.agent,
        "<fleet>": TRUST.fleet,
        "<task>": TRUST.task,
        "<dev>": device,
        "<cust>": party.user,
        "<val>": party.user,
        "<epoch>": "2",
        "<order>": DIGEST,
        "<to>": to,
        "<from>": party.user,
        "<digest>": DIGEST,
        "<user>": party.user if party.role in WRITERS["reader"] else OPERATOR.user,
    }
    return re.sub(r"<\w+>", lambda hole: values[hole.group()], template)


def test_the_table_is_read_whole() -> None:
    assert len(TABLE) == 39
    assert {writer for _, writer, _, _ in TABLE} == set(WRITERS)


@pytest.mark.parametrize(("template", "writer"), [(t, w) for t, w, _, _ in TABLE])
def test_the_writer_of_a_topic_may_write_its_own_and_nobody_else_may(template: str, writer: str) -> None:
    writers = [p for p in PARTIES if p.role in WRITERS[writer]]
    assert writers
    for author in writers:
        topic = own_topic(template, author)
        assert may(author, "write", topic), f"{author.role} may not write {topic}"
        for other in PARTIES:
            if other is not author:
                assert not may(other, "write", topic), f"{other.role} {other.user} may write {topic}"


def test_every_topic_function_is_a_line_of_the_table() -> None:
    of = topics.Learning(TRUST.fleet, TRUST.task)
    plain = [name for name, member in vars(topics.Learning).items() if isinstance(member, property)]
    built = [getattr(of, name) for name in plain]
    built += [of.commitment(AGENT.user), of.receipt(AGENT.user), of.installed(AGENT.user)]
    built += [of.context(CUSTODIAN.address), of.key_total(CUSTODIAN.address), of.opened(CUSTODIAN.address)]
    built += [of.letter(CUSTODIAN.address, AGENT.user), of.letter_receipt(CUSTODIAN.address, AGENT.user)]
    built += [of.round_request(AGENT.user), of.round_answer(AGENT.user)]
    built += [of.training_request(CUSTODIAN.address, AGENT.user), of.training_answer(CUSTODIAN.address, AGENT.user)]
    built += [of.training().fetch(AGENT.user, CUSTODIAN.address), of.training().chunk(AGENT.user, DIGEST)]
    built += [of.ballot(VALIDATORS[0].address), of.standing(VALIDATORS[0].address), of.electorate(2)]
    built += [of.health_alert(AGENT.user), topics.maintenance_order("bonn", "rig-1", DIGEST)]
    built += [of.fetch(COORDINATOR.address, AGENT.user), of.chunk(AGENT.user, DIGEST)]
    of_twins = (topics.twin_state, topics.twin_delta, topics.twin_schema, topics.twin_event, topics.desired_set)
    of_twins += (topics.twin_backfill, topics.backfill_answer)
    built += [topic("bonn", "rig-1") for topic in of_twins]
    built += [topics.desired_answer("bonn", "rig-1", "shift-1")]
    built += [topics.agent("bonn", "gateway-1", leaf) for leaf in ("availability", "status")]
    built += [topics.query_request("bonn", "shift-1"), topics.query_response("bonn", "shift-1")]
    filters = {re.sub(r"<\w+>", "+", template) for template, *_ in TABLE}
    matched = {f for f in filters for topic in built if Topic(topic).matches(f)}
    assert matched == filters
    assert len(built) == len(filters)


def test_every_topic_has_a_reader() -> None:
    for template, writer, _, _ in TABLE:
        author = next(p for p in PARTIES if p.role in WRITERS[writer])
        topic = own_topic(template, author)
        assert any(may(p, "read", topic) for p in PARTIES if p is not author), f"nobody may read {topic}"


@pytest.mark.parametrize("party", PARTIES, ids=lambda p: f"{p.role}-{p.user[:8]}")
def test_nobody_has_a_multi_level_wildcard_in_gemels_topics(party: Party) -> None:
    for _, topic_filter in rights(party, TRUST):
        of_the_plant = topic_filter in (*party.readings, *party.commands)
        assert topic_filter.startswith("gemel/v1/") or of_the_plant
        assert of_the_plant or "#" not in topic_filter


def test_custodian_may_read_no_chunk_but_the_coordinators() -> None:
    of = topics.Learning(TRUST.fleet, TRUST.task)
    custodian = next(p for p in PARTIES if p.role is BusRole.CUSTODIAN)
    readable = {p.user for p in PARTIES if may(custodian, "read", of.chunk(p.user, DIGEST))}
    assert readable == {COORDINATOR.address}


def test_of_training_the_custodian_reads_what_agents_offer_and_nobody_else_does() -> None:
    offered = topics.Learning(TRUST.fleet, TRUST.task).training().chunk(AGENT.user, DIGEST)
    assert {p.role for p in PARTIES if may(p, "read", offered)} == {BusRole.CUSTODIAN}


def test_agent_reads_no_other_agents_commitment_receipt_or_chunks() -> None:
    of = topics.Learning(TRUST.fleet, TRUST.task)
    for topic in (of.commitment(OTHER_AGENT.user), of.receipt(OTHER_AGENT.user), of.chunk(OTHER_AGENT.user, DIGEST)):
        assert not may(AGENT, "read", topic)
    for topic in (of.fetch(OTHER_AGENT.user, COORDINATOR.address), topics.twin_state("lyon", "rig-3")):
        assert not may(AGENT, "read", topic)


def test_agent_may_ask_others_for_chunks_in_its_own_name_only() -> None:
    of = topics.Learning(TRUST.fleet, TRUST.task)
    assert may(AGENT, "write", of.fetch(COORDINATOR.address, AGENT.user))
    assert not may(AGENT, "write", of.fetch(COORDINATOR.address, OTHER_AGENT.user))


def test_dashboard_sees_the_twins_of_its_sites_only_and_writes_only_its_own_questions() -> None:
    dashboard = next(p for p in PARTIES if p.role is BusRole.DASHBOARD)
    assert may(dashboard, "read", topics.twin_state("bonn", "rig-1"))
    assert not may(dashboard, "read", topics.twin_state("lyon", "rig-3"))
    writable = [topic_filter for access, topic_filter in rights(dashboard, TRUST) if access == "write"]
    assert writable == [topics.query_request("bonn", dashboard.user)]
    assert not may(dashboard, "read", topics.query_response("bonn", OPERATOR.user))
    assert not any("/learning/" in topic_filter for _, topic_filter in rights(dashboard, TRUST))


def test_orders_are_read_at_their_site_and_by_the_registry_and_by_no_party_of_the_fleet() -> None:
    order = topics.maintenance_order("bonn", "rig-1", DIGEST)
    readers = {p.role for p in PARTIES if may(p, "read", order)}
    assert readers == {BusRole.DASHBOARD, BusRole.OPERATOR, BusRole.REGISTRY}
    dashboard = next(p for p in PARTIES if p.role is BusRole.DASHBOARD)
    assert not may(dashboard, "read", topics.maintenance_order("lyon", "rig-3", DIGEST))


def test_alert_is_said_in_an_agents_own_name_and_heard_by_the_listener_alone() -> None:
    of = topics.Learning(TRUST.fleet, TRUST.task)
    assert not may(OTHER_AGENT, "write", of.health_alert(AGENT.user))
    assert {p.role for p in PARTIES if may(p, "read", of.health_alert(AGENT.user))} == {BusRole.LISTENER}


def test_operator_asks_at_its_sites_only_and_hears_no_others_answers() -> None:
    assert may(OPERATOR, "write", topics.desired_set("bonn", "rig-1"))
    assert not may(OPERATOR, "write", topics.desired_set("lyon", "rig-3"))
    assert may(OPERATOR, "read", topics.desired_answer("bonn", "rig-1", OPERATOR.user))
    assert not may(OPERATOR, "read", topics.desired_answer("bonn", "rig-1", "somebody"))
    assert may(OPERATOR, "read", topics.twin_state("bonn", "rig-1"))


def test_command_goes_from_the_agent_to_the_source_and_to_nobody_else() -> None:
    (command,) = AGENT.commands
    topic = command.replace("#", "valve")
    assert [p.user for p in PARTIES if may(p, "write", topic)] == [AGENT.user]
    assert "plc-7" in [p.user for p in PARTIES if may(p, "read", topic)]


def test_fleet_parties_are_those_that_trust_names() -> None:
    users = {p.user for p in fleet_parties(TRUST)}
    assert users == {p.address for p in (COORDINATOR, CUSTODIAN, LISTENER, *VALIDATORS)}


@pytest.mark.parametrize(
    "reading", ["#", "+/x", "gemel/v1/bonn/twin/rig-1/state", "$SYS/#", "plant/#/x", "plant/x\ntopic write #", ""]
)
@pytest.mark.parametrize("role", [BusRole.SOURCE, BusRole.AGENT])
def test_reading_filter_that_reaches_beyond_the_plant_is_refused(role: BusRole, reading: str) -> None:
    with pytest.raises(ConfigError, match="broker rights"):
        rights(Party(role, "plc-7", site="bonn", agent="gateway-1", readings=(reading,)), TRUST)


@pytest.mark.parametrize("name", ["+", "#", "", "bonn/lyon", "bonn\ntopic write #", "Bonn"])
def test_site_agent_or_asset_that_is_no_topic_level_is_refused(name: str) -> None:
    user = AGENTS[0].address
    for party in (
        Party(BusRole.AGENT, user, site=name, agent="gateway-1"),
        Party(BusRole.AGENT, user, site="bonn", agent=name),
        Party(BusRole.AGENT, user, site="bonn", agent="gateway-1", assets=(name,)),
        Party(BusRole.DASHBOARD, "wallboard", sites=(name,)),
    ):
        with pytest.raises(ConfigError):
            rights(party, TRUST)


def test_access_list_grants_exactly_the_rights_of_each_user() -> None:
    granted: dict[str, list[Right]] = {}
    for line in acl_text(TRUST, PLANT).splitlines():
        if line.startswith("user "):
            lines = granted.setdefault(line.removeprefix("user "), [])
        elif line and not line.startswith("#"):
            word, access, topic_filter = line.split(" ", 2)
            assert word == "topic"
            lines.append(Right(access, topic_filter))  # type: ignore[arg-type]  # text of a file
    assert granted == {p.user: list(rights(p, TRUST)) for p in PARTIES}


def test_user_with_two_roles_is_refused() -> None:
    with pytest.raises(ConfigError, match="once"):
        acl_text(TRUST, [Party(BusRole.DASHBOARD, COORDINATOR.address, sites=("bonn",))])


def test_example_access_list_is_what_the_table_gives_now() -> None:
    shipped = Path(__file__).parents[2] / "mosquitto" / "acl"
    assert shipped.read_text() == acl_text(TRUST, PLANT), "write it again: python -m tests.support.parties"


OF_THREE = msgspec.structs.replace(
    TRUST,
    custodians=tuple(msgspec.structs.replace(TRUST.custodians[0], address="0x" + digit * 40) for digit in "cde"),
)


def test_three_custodians_hear_each_other_and_write_in_their_own_name_only() -> None:
    of = topics.Learning(TRUST.fleet, TRUST.task)
    first, second, third = (p for p in fleet_parties(OF_THREE) if p.role is BusRole.CUSTODIAN)
    granted = [Right(*right) for right in rights(first, OF_THREE)]

    def grants(access: str, topic: str) -> bool:
        return any(right.access == access and Topic(topic).matches(right.topic_filter) for right in granted)

    for other in (second, third):
        for said in (of.context, of.key_total, of.opened):
            assert grants("write", said(first.user))
            assert not grants("write", said(other.user))
        assert grants("read", of.context(other.user))
        assert grants("read", of.key_total(other.user))
        assert not grants("read", of.letter(other.user, AGENT.user)), "two custodians' letters make a key"
    assert grants("read", of.letter(first.user, AGENT.user))


def test_agent_sends_a_letter_to_each_custodian_in_its_own_name_only_and_reads_nobodys() -> None:
    of = topics.Learning(TRUST.fleet, TRUST.task)
    agents = rights(AGENT, OF_THREE)
    for custodian in OF_THREE.custodians:
        assert Right("write", of.letter(custodian.address, AGENT.user)) in agents
    assert not may(AGENT, "read", of.letter(CUSTODIAN.address, OTHER_AGENT.user))
    assert not may(AGENT, "write", of.letter(CUSTODIAN.address, OTHER_AGENT.user))
    assert not may(AGENT, "read", of.key_total(CUSTODIAN.address))
