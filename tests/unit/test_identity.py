"""Keys and signatures: known vectors, and one form of signature only."""

from __future__ import annotations

from contextlib import suppress

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from gemel.errors import Refused
from gemel.wire.identity import Identity, recover
from gemel.wire.reasons import Reason
from tests.support.parties import identity

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SECRETS = st.integers(1, ORDER - 1).map(lambda value: value.to_bytes(32, "big"))
HASHES = st.binary(min_size=32, max_size=32)


def test_address_of_the_smallest_key_is_the_well_known_one() -> None:
    assert identity(1).address == "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf"


@given(SECRETS, HASHES)
def test_address_and_signature_are_those_of_eth_account(secret: bytes, hash32: bytes) -> None:
    ours = Identity(secret)
    assert ours.address == Account.from_key(secret).address.lower()
    assert ours.sign(hash32) == bytes(Account.unsafe_sign_hash(hash32, secret).signature)


@given(SECRETS, HASHES)
def test_signer_is_recovered(secret: bytes, hash32: bytes) -> None:
    signer = Identity(secret)
    assert recover(hash32, signer.sign(hash32)) == signer.address


def holds(hash32: bytes, signature: bytes) -> bool:
    """Whether `signature` is key 1's. Anything but a typed refusal comes through."""
    with suppress(Refused):
        return recover(hash32, signature) == identity(1).address
    return False


@given(HASHES, st.binary(max_size=80))
def test_arbitrary_bytes_are_refused_or_somebody_elses(hash32: bytes, signature: bytes) -> None:
    assert not holds(hash32, signature)


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(65), bytes(66), b"\xff" * 64 + b"\x1b"])
def test_what_is_no_signature_is_refused_as_bad_signature(signature: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        recover(bytes(32), signature)
    assert refusal.value.reason == Reason.BAD_SIGNATURE


@given(HASHES, st.integers(0, 64), st.integers(1, 255))
def test_changed_signature_is_never_the_signers(hash32: bytes, offset: int, mask: int) -> None:
    signature = bytearray(identity(1).sign(hash32))
    signature[offset] ^= mask
    assert not holds(hash32, bytes(signature))


@given(HASHES)
def test_second_form_of_a_signature_is_refused(hash32: bytes) -> None:
    signature = identity(1).sign(hash32)
    s = ORDER - int.from_bytes(signature[32:64], "big")
    malleated = signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])
    with pytest.raises(Refused, match="upper half"):
        recover(hash32, malleated)


@pytest.mark.parametrize("v", [0, 1, 26, 29, 30, 255])
def test_recovery_id_other_than_27_or_28_is_refused(v: int) -> None:
    with pytest.raises(Refused, match="not 65 bytes r, s, v"):
        recover(bytes(32), identity(1).sign(bytes(32))[:64] + bytes([v]))


@pytest.mark.parametrize("secret", [bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32, bytes(33)])
def test_secret_outside_the_group_is_no_identity(secret: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Identity(secret)


def test_secret_never_shows() -> None:
    secret = b"\x17" * 32
    shown = repr(Identity(secret)) + str(Identity(secret))
    assert secret.hex() not in shown
    assert Identity(secret).address in shown
