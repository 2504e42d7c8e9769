"""Wrapping: readable for those it names, for nobody else, and refused once it was touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey

from gemel.errors import Malformed, PeerError, Refused
from gemel.wire.boxes import box_key, new_secret, unwrap, wrap
from gemel.wire.reasons import Reason

SECRETS = tuple(bytes([n]) * 32 for n in (1, 2, 3))
KEYS = tuple(map(box_key, SECRETS))
STRANGER = b"\x09" * 32


@given(st.binary(max_size=2000), st.integers(1, 3))
def test_each_recipient_reads_the_payload_and_nobody_else(payload: bytes, recipients: int) -> None:
    blob = wrap(payload, KEYS[:recipients])
    assert all(unwrap(blob, secret) == payload for secret in SECRETS[:recipients])
    for outsider in (*SECRETS[recipients:], STRANGER):
        with pytest.raises(Refused) as refusal:
            unwrap(blob, outsider)
        assert refusal.value.reason == Reason.NOT_ADDRESSED


@given(st.binary(max_size=600), st.booleans())
def test_arbitrary_bytes_are_refused(data: bytes, true_magic: bool) -> None:
    with pytest.raises(PeerError):
        unwrap((b"GBOX\x01" if true_magic else b"") + data, SECRETS[0])


@pytest.mark.parametrize("offset", range(len(wrap(b"payload", KEYS[:1]))))
def test_one_changed_byte_anywhere_is_refused(offset: int) -> None:
    blob = bytearray(wrap(b"payload", KEYS[:1]))
    blob[offset] ^= 0x80
    with pytest.raises(PeerError):
        unwrap(bytes(blob), SECRETS[0])


@given(st.data())
def test_cut_wrapping_is_refused(data: st.DataObject) -> None:
    blob = wrap(b"payload", KEYS)
    with pytest.raises(PeerError):
        unwrap(blob[: data.draw(st.integers(0, len(blob) - 1))], SECRETS[0])


@pytest.mark.parametrize("recipients", [0, 2, 65535])
def test_forged_number_of_recipients_is_refused_without_reading_on(recipients: int) -> None:
    blob = wrap(b"payload", KEYS[:1])
    with pytest.raises((Malformed, Refused)):
        unwrap(blob[:5] + recipients.to_bytes(2, "big") + blob[7:], SECRETS[0])


def test_payload_never_shows_and_no_two_wrappings_are_alike() -> None:
    payload = b"weights of nobody's business"
    first, second = wrap(payload, KEYS), wrap(payload, KEYS)
    assert payload not in first
    assert first != second


def test_recipient_named_twice_is_wrapped_for_once() -> None:
    assert len(wrap(b"", [KEYS[0], KEYS[0]])) == len(wrap(b"", KEYS[:1]))


def test_wrapping_for_nobody_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="nobody"):
        wrap(b"payload", [])


def test_public_half_is_libsodiums() -> None:
    secret = new_secret()
    assert len(secret) == 32
    assert box_key(secret) == bytes(PrivateKey(secret).public_key).hex()
    assert new_secret() != secret
