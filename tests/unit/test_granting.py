"""Grant files: what goes between two companies, and what neither may be made to sign or hand in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from typer.testing import CliRunner

from gemel.__main__ import app
from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.contract_abi import CONTRACTS, DATA_SHARING
from gemel.adapters.dynamic_security import CONTROL_TOPIC, found, read_security_file
from gemel.console import granting
from gemel.console.granting import GrantFile, RevocationFile
from gemel.errors import ConfigError
from gemel.ports import GrantRecord
from gemel.wire.entitlements import Entitlement
from gemel.wire.identity import recover
from gemel.wire.sharing import Asset, Grant, grant_hash, revocation_hash
from tests.support.parties import TRUST, identity

PLACE = ChainPlace(
    rpc_url="http://127.0.0.1:8545",
    chain_id=1337,
    first_block=1,
    created_in=dict.fromkeys(CONTRACTS, "ab" * 32),
    contracts={name: f"0x{n + 1:040x}" for n, name in enumerate(CONTRACTS)},
)
SHARING = PLACE.domain(DATA_SHARING)
OWNER, CONSUMER, OTHER = (identity(number) for number in (31, 32, 33))
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SCOPE = "gemel/v1/bonn/twin/rig-1/+"
DAY = timedelta(days=1)


def proposed() -> GrantFile:
    return granting.propose(PLACE, OWNER, CONSUMER.address, SCOPE, NOW, NOW + DAY, 7)


def accepted() -> GrantFile:
    return granting.accept(proposed(), CONSUMER, NOW)


def test_both_sign_what_the_contract_asks_for() -> None:
    file, terms = accepted(), Grant(OWNER.address, CONSUMER.address, SCOPE, 1795348800_000, 1795435200_000)
    assert file.grant == terms
    for who, signature in ((OWNER, file.owner_signature), (CONSUMER, file.consumer_signature)):
        assert signature is not None
        assert recover(grant_hash(terms, 7, SHARING), bytes.fromhex(signature)) == who.address


def test_file_says_in_one_line_who_lets_whom_read_what_and_when() -> None:
    said = f"{OWNER.address} lets {CONSUMER.address} read {SCOPE} "
    assert str(proposed()) == said + "from 2026-11-22T12:00:00+00:00 until 2026-11-23T12:00:00+00:00"
    assert "\x1b" not in str(replace(proposed(), scope="\x1b[2Jgemel/v1"))  # it goes to a terminal


def test_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    granting.write(tmp_path / "grant.json", accepted(), new=True)
    assert granting.read(tmp_path / "grant.json", GrantFile, PLACE) == accepted()


def test_file_that_is_there_is_not_written_over_by_a_new_one(tmp_path: Path) -> None:
    granting.write(tmp_path / "grant.json", proposed(), new=True)
    with pytest.raises(ConfigError, match="there is one already"):
        granting.write(tmp_path / "grant.json", accepted(), new=True)
    granting.write(tmp_path / "grant.json", accepted(), new=False)
    assert [path.name for path in tmp_path.iterdir()] == ["grant.json"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "GrantFile"),
        (b"[]", "GrantFile"),
        (b"\xff", "GrantFile"),
        (msgspec.json.encode({"chain_id": 1337}), "missing required field"),
        (msgspec.json.encode(proposed()).replace(b'"nonce":7', b'"nonce":-7'), "nonce"),
        (msgspec.json.encode(proposed()).replace(b"12:00:00Z", b"12:00:00"), "timezone"),
        (msgspec.json.encode(proposed())[:-1] + b',"note":"trust me"}', "note"),
        (msgspec.json.encode(replace(proposed(), chain_id=1)), "chain 1337, as chain.json says, not .* on chain 1"),
        (msgspec.json.encode(replace(proposed(), contract=OTHER.address)), "as chain.json says, not"),
        (b" " * 20_000 + msgspec.json.encode(proposed()), "GrantFile"),
    ],
)
def test_file_that_is_none_or_for_another_chain_is_refused_in_one_line(
    tmp_path: Path, content: bytes, why: str
) -> None:
    (tmp_path / "grant.json").write_bytes(content)
    with pytest.raises(ConfigError, match=why) as refused:
        granting.read(tmp_path / "grant.json", GrantFile, PLACE)
    assert "\n" not in str(refused.value)


def test_consumer_signs_nothing_that_its_owner_has_not_signed_just_so() -> None:
    later = replace(proposed(), ends=NOW + 2 * DAY)
    by_other = granting.propose(PLACE, OTHER, CONSUMER.address, SCOPE, NOW, NOW + DAY, 7)
    forged = replace(proposed(), owner_signature=by_other.owner_signature)
    for file in (later, forged, replace(proposed(), owner_signature="00" * 65)):
        with pytest.raises(ConfigError, match=f"owner_signature: the signature of {OWNER.address}"):
            granting.accept(file, CONSUMER, NOW)
    with pytest.raises(ConfigError, match="there is none yet"):
        granting.accept(replace(proposed(), owner_signature=None), CONSUMER, NOW)


def test_grant_for_another_consumer_or_one_that_is_over_is_not_signed() -> None:
    with pytest.raises(ConfigError, match=f"the key of {CONSUMER.address}"):
        granting.accept(proposed(), OTHER, NOW)
    with pytest.raises(ConfigError, match="not over"):
        granting.accept(proposed(), CONSUMER, NOW + DAY)


async def test_grant_that_both_have_not_signed_is_not_handed_in() -> None:
    with pytest.raises(ConfigError, match=r"consumer_signature: the signature of .*; there is none yet"):
        await granting.submit(None, proposed())  # type: ignore[arg-type]  # it must not get as far as the chain


@pytest.mark.parametrize("ends", [NOW, NOW - DAY])
def test_grant_that_would_be_over_before_it_begins_is_not_proposed(ends: datetime) -> None:
    with pytest.raises(ConfigError, match="when it begins"):
        granting.propose(PLACE, OWNER, CONSUMER.address, SCOPE, NOW, ends, 0)


@pytest.mark.parametrize("consumer", ["", "wallboard", "0x", CONSUMER.address.upper(), CONSUMER.address + "0"])
def test_consumer_that_is_no_address_is_refused(consumer: str) -> None:
    with pytest.raises(ConfigError, match="consumer: an address"):
        granting.propose(PLACE, OWNER, consumer, SCOPE, NOW, NOW + DAY, 0)


def test_revocation_is_signed_for_this_contract(tmp_path: Path) -> None:
    id_ = accepted().id
    file = granting.revocation(PLACE, OWNER, id_)
    assert recover(revocation_hash(id_, SHARING), bytes.fromhex(file.owner_signature)) == OWNER.address
    granting.write(tmp_path / "revocation.json", file, new=True)
    assert granting.read(tmp_path / "revocation.json", RevocationFile, PLACE) == file
    with pytest.raises(ConfigError):  # one is not taken for the other
        granting.read(tmp_path / "revocation.json", GrantFile, PLACE)


@pytest.mark.parametrize("id_", ["", "0x" + "ab" * 32, "ab" * 31, "AB" * 32])
def test_revocation_of_what_is_no_grant_is_refused(id_: str) -> None:
    with pytest.raises(ConfigError, match="64 hex digits"):
        granting.revocation(PLACE, OWNER, id_)


# --- what people type ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("90d", NOW + 90 * DAY),
        ("12h", NOW + timedelta(hours=12)),
        ("30m", NOW + timedelta(minutes=30)),
        ("5s", NOW + timedelta(seconds=5)),
        ("2w", NOW + 14 * DAY),
        ("999999w", datetime(9999, 12, 31, tzinfo=UTC)),
        ("2027-01-31T12:00:00Z", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00:00.999+01:00", datetime(2027, 1, 31, 11, tzinfo=UTC)),
    ],
)
def test_time_is_iso_8601_or_a_duration(text: str, then: datetime) -> None:
    assert granting.moment(text, NOW) == then


@pytest.mark.parametrize(
    "text", ["", "d", "0d", "-1d", "1.5h", "90", "tomorrow", "2027-01-31", "2027-01-31T12:00:00"]
)
def test_time_that_could_be_meant_otherwise_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="ISO 8601 with its zone"):
        granting.moment(text, NOW)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        then = granting.moment(text, NOW)
    except ConfigError:
        return
    assert (then.tzinfo, then.microsecond) == (UTC, 0)


@pytest.mark.parametrize(
    ("twin", "scope"),
    [
        ("bonn/rig-1", SCOPE),
        ("bonn/rig-1/+", SCOPE),
        ("bonn/rig-1/state", "gemel/v1/bonn/twin/rig-1/state"),
    ],
)
def test_twin_is_typed_without_the_rest_of_its_topic(twin: str, scope: str) -> None:
    assert granting.scope_of(twin) == scope


@pytest.mark.parametrize(
    "twin", ["", "bonn", "bonn/", "/rig-1", "bonn/+", "bonn/rig-1/backfill", "bonn/rig-1/", "a/b/c/d"]
)
def test_twin_that_is_none_is_refused(twin: str) -> None:
    with pytest.raises(ConfigError):
        granting.scope_of(twin)


# --- what is listed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("revoked_ms", "owner", "now_ms", "state"),
    [
        (None, OWNER, 999, "to begin"),
        (None, OWNER, 1_000, "open"),
        (None, OWNER, 2_000, "over"),
        (500, OWNER, 999, "revoked"),
        (None, OTHER, 1_500, "void"),
    ],
)
def test_state_of_a_grant(revoked_ms: int | None, owner: object, now_ms: int, state: str) -> None:
    record = GrantRecord("ab" * 32, Grant(OWNER.address, CONSUMER.address, SCOPE, 1_000, 2_000), revoked_ms)
    owners = {Asset("bonn", "rig-1"): owner.address}  # type: ignore[attr-defined]
    assert granting.state(record, owners, now_ms) == state


# --- a broker's first file -----------------------------------------------------------------------


def test_first_file_of_a_broker_knows_the_listener_alone_as_its_administrator(tmp_path: Path) -> None:
    (tmp_path / "trust.json").write_bytes(msgspec.json.encode(TRUST))
    result = CliRunner().invoke(app, ["security-file", "--fleet", str(tmp_path)])
    document = read_security_file(result.stdout_bytes, "stdout")
    assert found(document, TRUST.listener) == {Entitlement(TRUST.listener, frozenset())}
    assert [line.topic for role in document.roles for line in role.acls if line.acltype == "publishClientSend"] == [
        CONTROL_TOPIC
    ]
