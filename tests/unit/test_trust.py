"""trust.json: whom an agent believes. A wrong file is one clear line; nothing is guessed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.errors import ConfigError
from gemel.wire.eip712 import Domain
from gemel.wire.trust import load_trust
from tests.support.parties import COORDINATOR, CUSTODIAN, TRUST, VALIDATORS

DATA = msgspec.json.encode(TRUST)


def changed(**fields: object) -> bytes:
    return msgspec.json.encode(msgspec.to_builtins(TRUST) | fields)


def electorate(**fields: object) -> dict[str, object]:
    document = msgspec.to_builtins(TRUST.electorate) | msgspec.to_builtins(fields)
    return {"electorate": document}


def test_trust_is_read_as_it_was_written() -> None:
    trust = load_trust(DATA, "trust.json")
    assert trust == TRUST
    assert trust.domain == Domain(TRUST.chain_id, TRUST.registry)
    assert trust.validator_addresses == {v.address for v in VALIDATORS}


def test_frames_are_wrapped_for_coordinator_and_validators_and_not_for_the_custodian() -> None:
    assert {c.address for c in TRUST.collectors} == {p.address for p in (COORDINATOR, *VALIDATORS)}
    assert CUSTODIAN.address not in {c.address for c in TRUST.collectors}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (electorate(quorum_part=500_000), "quorum_part"),
        (electorate(quorum_part=1_000_001), "quorum_part"),
        (electorate(members=()), "members"),
        (electorate(members=[TRUST.validators[0]] * 3), "members: each address once"),
        (electorate(members=[replace(TRUST.validators[0], weight=0)]), "weight"),
        ({"custodians": []}, "custodians: one, or three"),
        ({"custodians": msgspec.to_builtins([TRUST.custodians[0]] * 3)}, "custodians: one, or three different"),
        ({"custodians": msgspec.to_builtins(TRUST.collectors[:2])}, "custodians: one, or three"),
        ({"custodian": msgspec.to_builtins(TRUST.custodians[0])}, "custodian"),
        ({"listener": "0xABCD"}, r"listener"),
        ({"listener": TRUST.listener + "\n"}, r"listener"),
        ({"chain_id": -1}, "chain_id"),
        ({"extra": 1}, "extra"),
        ({"coordinator": None}, "coordinator"),
    ],
)
def test_wrong_trust_is_one_line_that_names_file_and_field(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^plant/trust.json: .*{said}") as error:
        load_trust(changed(**fields), "plant/trust.json")
    assert "\n" not in str(error.value).rstrip()


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_config_error(data: bytes) -> None:
    with pytest.raises(ConfigError):
        load_trust(data, "trust.json")


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"{}", b"\xff"])
def test_broken_json_is_a_config_error(data: bytes) -> None:
    with pytest.raises(ConfigError):
        load_trust(data, "trust.json")
