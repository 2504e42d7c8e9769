"""What is wanted of a broker, what is found, and every difference in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.errors import ConfigError
from gemel.wire.entitlements import Entitlement, checked, differences, entitlements
from gemel.wire.rights import Right, fleet_parties, rights
from tests.support.parties import AGENTS, COORDINATOR, PLANT, TRUST, WANTED

READ, WRITE = Right("read", "a/+/b"), Right("write", "a/#")

TOO_LONG = "a" * 65_536

users = st.sampled_from(["ann", "bob", "eve"])
some_rights = st.frozensets(st.sampled_from([READ, WRITE, Right("read", "c")]))
remarks = st.frozensets(st.sampled_from(["is disabled", "is in group g"]))
entitled = st.builds(Entitlement, users, some_rights, remarks)
states = st.lists(entitled, unique_by=lambda one: one.user).map(frozenset)


def test_wanted_is_the_table_of_rights_for_every_party() -> None:
    assert {one.user: one.rights for one in WANTED} == {
        party.user: frozenset(rights(party, TRUST)) for party in (*fleet_parties(TRUST), *PLANT)
    }


def test_shared_topics_come_to_a_consumers_own_rights_and_make_strangers_known() -> None:
    wanted = entitlements(TRUST, PLANT, shared={"wallboard": {READ}, "stranger": {READ}}, suspended=frozenset())
    changed = differences(wanted, WANTED)
    assert [str(one) for one in changed] == [
        "missing: stranger: may not read a/+/b",
        "changed: wallboard: may not read a/+/b",
    ]


def test_who_is_suspended_keeps_neither_its_own_rights_nor_what_was_shared() -> None:
    agent = AGENTS[0].address
    wanted = entitlements(TRUST, PLANT, shared={agent: {READ}, "eve": {READ}}, suspended={agent, "eve", "nobody"})
    by_user = {one.user: one.rights for one in wanted}
    assert by_user[agent] == by_user["eve"] == frozenset()
    assert "nobody" not in by_user


def test_user_that_comes_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="each user once"):
        entitlements(TRUST, [*PLANT, PLANT[0]], shared={}, suspended=frozenset())
    with pytest.raises(ConfigError, match="each user once"):
        checked(WANTED | {Entitlement(COORDINATOR.address, frozenset())})


@pytest.mark.parametrize("user", ["", "*", "+", "a/b", "#", "ünn", "-a", "a\n", "\ud800", "x" * 65])
def test_name_that_is_no_users_is_refused(user: str) -> None:
    with pytest.raises(ConfigError, match="broker rights"):
        checked(frozenset({Entitlement(user, frozenset())}))


@pytest.mark.parametrize(
    "topic_filter",
    [
        "",
        "#",
        "+/a",
        "/a",
        "$SYS/a",
        "$CONTROL/#",
        "a/#/b",
        "a/b#",
        "a/b+",
        "a/\x00",
        "a\n",
        "a/%u",
        "%c",
        "\ud800",
        TOO_LONG,
    ],
)
def test_filter_that_no_broker_should_be_told_is_refused(topic_filter: str) -> None:
    with pytest.raises(ConfigError, match="broker rights"):
        checked(frozenset({Entitlement("ann", frozenset({Right("read", topic_filter)}))}))


def test_filters_of_the_plant_pass() -> None:
    of = frozenset(Right("read", f) for f in ("plant", "plant/#", "plant/+/x/#", "plant//x", "Anlage/Öl 1/100%"))
    assert checked(frozenset({Entitlement("ann", of)}))


@given(states, states)
def test_differences_name_every_user_in_whom_two_states_differ_and_nobody_else(
    wanted: frozenset[Entitlement], found: frozenset[Entitlement]
) -> None:
    named = differences(wanted, found)
    assert {one.user for one in named} == {one.user for one in wanted ^ found}
    mended = (found - {one.found for one in named}) | {one.wanted for one in named if one.wanted is not None}
    assert mended == wanted
    kinds = {"missing": (False, True), "surplus": (True, False), "changed": (True, True)}
    for one in named:
        assert kinds[one.kind] == (one.found is not None, one.wanted is not None)
        assert str(one).startswith(f"{one.kind}: {one.user}: ")


def test_a_hostile_name_cannot_write_on_the_auditors_terminal() -> None:
    (one,) = differences(frozenset(), {Entitlement("\x1b[2Jeve\n", frozenset())})
    assert str(one) == "surplus: \\x1b[2Jeve\\n: without rights"
