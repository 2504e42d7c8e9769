"""Grants: what they open, when, and what they can never open."""

from __future__ import annotations

import pytest
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.errors import ConfigError, Refused
from gemel.wire import topics
from gemel.wire.eip712 import Domain
from gemel.wire.rights import Right
from gemel.wire.sharing import MOST_RIGHTS, Asset, Grant, asset_id, grant_hash, granted, scopes, shares
from tests.support.parties import identity

OWNER, OTHER, CONSUMER = (identity(number).address for number in (31, 33, 32))
RIG = Asset("bonn", "rig-1")
STATE = topics.twin_state(*RIG)
DOMAIN = Domain(1, "0x" + "ab" * 20)
GRANT = Grant(OWNER, CONSUMER, STATE, from_ms=100, until_ms=200)
OWNERS = {RIG: OWNER, Asset("lyon", "rig-3"): OTHER}
EVERYTHING = {Right("read", f"gemel/v1/bonn/twin/rig-1/{word}") for word in ("state", "delta", "schema", "event")}


def test_scope_opens_its_topic_and_plus_the_four_words_of_a_twin() -> None:
    assert granted(GRANT, [RIG]) == {Right("read", STATE)}
    assert granted(replace(GRANT, scope="gemel/v1/bonn/twin/rig-1/+"), [RIG]) == EVERYTHING


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "#",
        "gemel/v1/bonn/twin/rig-1/#",
        "gemel/v1/bonn/twin/+/state",
        "gemel/v1/+/twin/rig-1/state",
        "gemel/v1/bonn/twin/rig-1",
        "gemel/v1/bonn/twin/rig-1/",
        "gemel/v1/bonn/twin/rig-1/backfill",
        "gemel/v1/bonn/twin/rig-1/desired/set",
        "gemel/v1/bonn/twin/rig-1/state/",
        "gemel/v1/bonn/twin/rig-1/state\n",
        "/gemel/v1/bonn/twin/rig-1/state",
        "gemel/v1/bonn/twin/rig-1/../rig-2/state",
        "gemel/v1/bonn/twin/rig-2/state",
        "gemel/v1/lyon/twin/rig-3/state",
        "gemel/v1/bonn/twin/ríg-1/state",
        "$CONTROL/dynamic-security/v1/response",
        "\ud800",
    ],
)
def test_scope_that_is_not_one_of_the_owners_machines_is_refused(scope: str) -> None:
    with pytest.raises(Refused, match="out_of_scope"):
        granted(replace(GRANT, scope=scope), [RIG])


@given(st.text() | st.from_regex(r"gemel/v1/[a-z+#-]{1,6}/twin/[a-z+#0-9-]{1,6}/[a-z+#/]{1,6}"))
def test_no_scope_whatever_opens_more_than_the_four_words(scope: str) -> None:
    try:
        opened = granted(replace(GRANT, scope=scope), [RIG])
    except Refused:
        return
    assert opened <= EVERYTHING


@pytest.mark.parametrize("consumer", ["", "+", "a/b", "dashbörd", "x" * 65])
def test_consumer_that_no_broker_knows_by_name_is_refused(consumer: str) -> None:
    with pytest.raises(Refused, match="out_of_scope"):
        granted(replace(GRANT, consumer=consumer), [RIG])


def test_asset_whose_name_is_no_level_has_no_scopes() -> None:
    with pytest.raises(ConfigError):
        scopes(Asset("bonn", "+"))


@pytest.mark.parametrize(
    ("now_ms", "is_open", "next_ms"),
    [(99, False, 100), (100, True, 200), (199, True, 200), (200, False, None)],
)
def test_grant_is_open_from_its_beginning_up_to_its_end(now_ms: int, is_open: bool, next_ms: int | None) -> None:
    now = shares([GRANT], OWNERS, now_ms)
    assert now.rights == ({CONSUMER: {Right("read", STATE)}} if is_open else {})
    assert now.next_change_ms == next_ms


def test_grants_of_a_consumer_add_up_and_the_nearest_change_is_next() -> None:
    longer = replace(GRANT, scope=topics.twin_delta(*RIG), until_ms=300)
    now = shares([GRANT, longer, replace(GRANT, from_ms=180, until_ms=900)], OWNERS, 150)
    assert now.rights == {CONSUMER: {Right("read", STATE), Right("read", longer.scope)}}
    assert now.next_change_ms == 180


def test_grant_of_somebody_elses_machine_is_named_and_spoils_no_other() -> None:
    stolen = replace(GRANT, owner=OTHER)
    now = shares([stolen, GRANT], OWNERS, 150)
    assert now.rights == {CONSUMER: {Right("read", STATE)}}
    assert [(grant, refusal.reason) for grant, refusal in now.refused] == [(stolen, "out_of_scope")]


def test_grant_ends_when_its_machine_becomes_somebody_elses() -> None:
    now = shares([GRANT], {RIG: OTHER}, 150)
    assert now.rights == {}
    assert [grant for grant, _ in now.refused] == [GRANT]


# --- as the contract has it ----------------------------------------------------------------------


def test_consumer_gets_no_more_rights_than_a_broker_can_be_told_and_others_theirs() -> None:
    rigs = [Asset("bonn", f"rig-{number}") for number in range(MOST_RIGHTS + 1)]
    grants = [replace(GRANT, scope=topics.twin_state(*rig)) for rig in rigs]
    late = replace(GRANT, consumer=OTHER)
    now = shares([*grants, late, grants[0]], dict.fromkeys([*rigs, RIG], OWNER), 150)
    assert len(now.rights[CONSUMER]) == MOST_RIGHTS
    assert now.rights[OTHER] == {Right("read", STATE)}
    assert [(grant, refusal.reason) for grant, refusal in now.refused] == [(grants[-1], "too_large")]


def test_asset_is_named_by_its_twins_topic() -> None:
    assert asset_id(RIG) == keccak(b"gemel/v1/bonn/twin/rig-1").hex()


@pytest.mark.parametrize("times", [{"from_ms": 1}, {"until_ms": 1_999}])
def test_grant_whose_times_are_no_whole_seconds_is_not_signed(times: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="whole seconds"):
        grant_hash(replace(GRANT, **({"from_ms": 0, "until_ms": 2_000} | times)), 0, DOMAIN)
