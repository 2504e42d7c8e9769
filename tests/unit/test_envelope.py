"""Signed headers: what holds is opened, all else is refused, in the stated order and without a look at the body."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.errors import Malformed, PeerError, Refused
from gemel.wire.eip712 import Domain
from gemel.wire.envelope import HEADER_BYTES, Envelope, Expected, Header, Kind, open_envelope, pack, sign
from gemel.wire.reasons import Reason
from tests.support.parties import REGISTRY, identity

DOMAIN = Domain(1337, REGISTRY)
AGENT, STRANGER = identity(21), identity(99)
BASE, POLICY = "11" * 32, "22" * 32
BODY = b"a sealed frame"
EXPECTED = Expected(
    domain=DOMAIN,
    task="condition",
    kind=Kind.UPDATE,
    senders=frozenset({AGENT.address}),
    max_body_bytes=64,
    round=7,
    base=BASE,
    policy=POLICY,
)


def signed(**changes: object) -> Envelope:
    """An update that `EXPECTED` accepts, with `changes` made before it is signed."""
    arguments: dict[str, object] = {
        "identity": AGENT,
        "domain": DOMAIN,
        "task": "condition",
        "kind": Kind.UPDATE,
        "body": BODY,
        "issued_at_ms": 1_790_000_000_000,
        "round": 7,
        "base": BASE,
        "policy": POLICY,
        "weight": 40,
    }
    return sign(**(arguments | changes))  # type: ignore[arg-type]  # keyword by keyword in the table below


def test_envelope_that_holds_comes_back_whole() -> None:
    envelope = signed()
    assert open_envelope(pack(envelope), EXPECTED) == envelope


def test_header_has_the_stated_length_and_offsets() -> None:
    data = pack(signed())
    assert HEADER_BYTES == 281
    assert data[0:4] == b"GEML"
    assert data[36:56].hex() == AGENT.address[2:]
    assert int.from_bytes(data[88:96], "big") == 7
    assert data[96:128].hex() == BASE
    assert int.from_bytes(data[160:168], "big") == 40
    assert int.from_bytes(data[176:184], "big") == len(BODY)
    assert data[281:] == BODY


def test_header_of_any_values_is_parsed_as_it_was_packed() -> None:
    @given(kind=st.sampled_from(Kind), numbers=st.tuples(*[st.integers(0, 2**64 - 1)] * 4), body=st.binary())
    def check(kind: Kind, numbers: tuple[int, int, int, int], body: bytes) -> None:
        chain_id, round_, weight, issued = numbers
        domain = Domain(chain_id, REGISTRY)
        envelope = signed(domain=domain, kind=kind, round=round_, weight=weight, issued_at_ms=issued, body=body)
        assert Header.parse(pack(envelope)) == envelope.header

    check()


@pytest.mark.parametrize("offset", range(len(pack(signed()))))
def test_one_changed_byte_anywhere_is_refused(offset: int) -> None:
    for mask in (0x01, 0x80, 0xFF):
        data = bytearray(pack(signed()))
        data[offset] ^= mask
        with pytest.raises(PeerError):
            open_envelope(bytes(data), EXPECTED)


@given(st.binary(max_size=2 * HEADER_BYTES))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(PeerError):
        open_envelope(data, EXPECTED)


@given(st.binary(max_size=2 * HEADER_BYTES))
def test_arbitrary_bytes_behind_a_true_magic_are_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        open_envelope(b"GEML\x01\x04\0\0" + data, EXPECTED)


@pytest.mark.parametrize("length", [0, 4, HEADER_BYTES - 1])
def test_envelope_cut_inside_its_header_is_malformed(length: int) -> None:
    with pytest.raises(Malformed, match=f"{length} bytes"):
        open_envelope(pack(signed())[:length], EXPECTED)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"domain": Domain(1, REGISTRY)}, Reason.FOREIGN),
        ({"domain": Domain(1337, "0x" + "cd" * 20)}, Reason.FOREIGN),
        ({"task": "another"}, Reason.FOREIGN),
        ({"kind": Kind.RECEIPT}, Reason.WRONG_KIND),
        ({"round": 6}, Reason.STALE_ROUND),
        ({"round": 8}, Reason.STALE_ROUND),
        ({"base": "33" * 32}, Reason.WRONG_BASE),
        ({"policy": "33" * 32}, Reason.WRONG_POLICY),
        ({"identity": STRANGER}, Reason.UNREGISTERED),
        ({"body": bytes(65)}, Reason.TOO_LARGE),
    ],
)
def test_truly_signed_message_that_is_not_expected_is_refused_with_its_reason(
    changes: dict[str, object], reason: Reason
) -> None:
    with pytest.raises(Refused) as refusal:
        open_envelope(pack(signed(**changes)), EXPECTED)
    assert refusal.value.reason == reason


# Every fault, in the order in which the docstring of gemel/wire/envelope.py says that they are found.
FAULTS: list[tuple[str, Reason, dict[str, object]]] = [
    ("chain", Reason.FOREIGN, {"chain_id": 1}),
    ("kind", Reason.WRONG_KIND, {"kind": Kind.RECEIPT}),
    ("round", Reason.STALE_ROUND, {"round": 6}),
    ("base", Reason.WRONG_BASE, {"base": "33" * 32}),
    ("policy", Reason.WRONG_POLICY, {"policy": "33" * 32}),
    ("sender", Reason.UNREGISTERED, {"sender": STRANGER.address}),
    ("size", Reason.TOO_LARGE, {"body_length": 65}),
    ("length", Reason.WRONG_LENGTH, {"body_length": len(BODY) + 1}),
    ("signature", Reason.BAD_SIGNATURE, {"signature": bytes(65)}),
]


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=[name for name, _, _ in FAULTS])
def test_of_several_faults_the_first_in_order_is_the_reason(first: int) -> None:
    changes: dict[str, object] = {}
    for _, _, change in reversed(FAULTS[first:]):
        changes |= change
    header = replace(signed().header, **changes)
    with pytest.raises(Refused) as refusal:
        open_envelope(header.pack() + BODY, EXPECTED)
    assert refusal.value.reason == FAULTS[first][1]


def test_form_is_checked_before_all_else() -> None:
    header = replace(signed().header, chain_id=1, signature=bytes(65))
    with pytest.raises(Malformed):
        open_envelope(b"MELG" + header.pack()[4:] + BODY, EXPECTED)


def test_body_of_the_right_length_that_was_not_signed_is_refused_last() -> None:
    with pytest.raises(Refused) as refusal:
        open_envelope(signed().header.pack() + bytes(len(BODY)), EXPECTED)
    assert refusal.value.reason == Reason.DIGEST_MISMATCH


@pytest.mark.parametrize("surplus", [-1, 1])
def test_body_that_is_longer_or_shorter_than_signed_is_refused(surplus: int) -> None:
    data = pack(signed())
    with pytest.raises(Refused) as refusal:
        open_envelope(data[:surplus] if surplus < 0 else data + b"x", EXPECTED)
    assert refusal.value.reason == Reason.WRONG_LENGTH


def test_receiver_that_demands_no_round_base_or_policy_takes_any() -> None:
    anything = replace(EXPECTED, round=None, base=None, policy=None)
    envelope = signed(round=3, base="44" * 32, policy="55" * 32)
    assert open_envelope(pack(envelope), anything) == envelope


def test_signature_of_one_message_does_not_hold_for_another() -> None:
    other = replace(signed(weight=41).header, signature=signed().header.signature)
    with pytest.raises(Refused) as refusal:
        other.check_signature()
    assert refusal.value.reason == Reason.BAD_SIGNATURE


def test_header_without_a_signature_is_not_packed() -> None:
    with pytest.raises(ValueError, match="not signed"):
        replace(signed().header, signature=b"").pack()


def test_messages_of_the_same_content_are_signed_alike() -> None:
    assert pack(signed()) == pack(signed())
