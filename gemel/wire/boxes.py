"""Wrapping: a payload for some parties only, whoever reads the broker (libsodium through PyNaCl).

    magic b"GBOX", version 1, recipients u16 | per recipient: box key 32, sealed message key 80 | nonce 24, ciphertext

The payload is encrypted once (XSalsa20-Poly1305) under a fresh key, which is sealed for each recipient's
Curve25519 key (anonymous sealed box). Tampering anywhere makes `unwrap` refuse.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.secret import SecretBox
from nacl.utils import random

from gemel.errors import Malformed, Refused
from gemel.wire.reasons import Reason
from gemel.wire.types import BoxKey

_HEAD = struct.Struct(">4sBH")
_MAGIC, _VERSION = b"GBOX", 1
_ENTRY_BYTES = 32 + 80


def box_key(secret: bytes) -> BoxKey:
    """The public half, in hex, of a 32-byte Curve25519 secret."""
    return bytes(PrivateKey(secret).public_key).hex()


def new_secret() -> bytes:
    """A fresh 32-byte Curve25519 secret from the operating system's randomness."""
    return bytes(PrivateKey.generate())


def wrap(payload: bytes, recipients: Iterable[BoxKey]) -> bytes:
    """Encrypt `payload` so that only holders of the recipients' secrets can read it."""
    keys = sorted(set(recipients))
    if not keys:
        raise ValueError("nobody to wrap for")
    message_key = random(SecretBox.KEY_SIZE)
    parts = [_HEAD.pack(_MAGIC, _VERSION, len(keys))]
    for key in keys:
        raw = bytes.fromhex(key)
        parts.append(raw + SealedBox(PublicKey(raw)).encrypt(message_key))
    parts.append(bytes(SecretBox(message_key).encrypt(payload)))
    return b"".join(parts)


def unwrap(blob: bytes, secret: bytes) -> bytes:
    """The payload. Raises Malformed (not a wrapping) or Refused(not_addressed) (not for us, or tampered with)."""
    if len(blob) < _HEAD.size:
        raise Malformed("wrapping", "too short")
    magic, version, count = _HEAD.unpack_from(blob)
    start = _HEAD.size + count * _ENTRY_BYTES
    if magic != _MAGIC or version != _VERSION or len(blob) < start + SecretBox.NONCE_SIZE + SecretBox.MACBYTES:
        raise Malformed("wrapping", "not a wrapping of this version")
    private = PrivateKey(secret)
    own = bytes(private.public_key)
    for offset in range(_HEAD.size, start, _ENTRY_BYTES):
        if blob[offset : offset + 32] == own:
            try:
                message_key = SealedBox(private).decrypt(blob[offset + 32 : offset + _ENTRY_BYTES])
                return bytes(SecretBox(message_key).decrypt(blob[start:]))
            except CryptoError:
                raise Refused(Reason.NOT_ADDRESSED, "the wrapping does not open") from None
    raise Refused(Reason.NOT_ADDRESSED, "the wrapping is not for this key")
