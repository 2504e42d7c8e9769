"""The one place that knows how TenSEAL and SEAL write things down.

Ciphertexts leave this module as words (see frames.py) and enter it as words that `check_body` has passed. The
serialised forms that TenSEAL's public functions take are built here from a ciphertext made on the spot, so no byte
of them, words apart, ever comes from outside.
"""

from __future__ import annotations

import struct

import numpy as np
import tenseal as ts
import tenseal.sealapi  # registers the types that a context's parameters consist of
import zstandard

from gemel.errors import ConfigError, Refused
from gemel.sealing.budget import KEY_MODULUS, MODULUS, RING_DEGREE, Budget
from gemel.sealing.frames import Words
from gemel.sealing.packing import Integers
from gemel.wire.reasons import Reason

_SEAL_HEAD = struct.Struct("<HBBBBHQ")  # magic, header bytes, version major and minor, compression, reserved, size
_UNCOMPRESSED, _ZSTD = 0, 2
_WORDS_BYTES = 2 * RING_DEGREE * 8


def _varint(number: int) -> bytes:
    """Protobuf's base-128 integer."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


# TenSEAL's BFVVector in protobuf: field 1 `sizes`, packed, the slots of each ciphertext; field 2 each ciphertext.
_PROTOBUF_LEAD = b"\x0a" + _varint(len(_varint(RING_DEGREE))) + _varint(RING_DEGREE) + b"\x12"


def create_context(budget: Budget) -> ts.Context:
    """A fresh key pair for one round."""
    return ts.context(
        ts.SCHEME_TYPE.BFV,
        RING_DEGREE,
        plain_modulus=budget.plain_modulus,
        coeff_mod_bit_sizes=[MODULUS.bit_length(), KEY_MODULUS.bit_length()],
        encryption_type=ts.ENCRYPTION_TYPE.ASYMMETRIC,
    )


def public_bytes(context: ts.Context) -> bytes:
    """Parameters and public key; neither the secret key nor keys for operations that a sum does not need."""
    return bytes(
        context.serialize(save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False)
    )


def secret_bytes(context: ts.Context) -> bytes:
    """Parameters and secret key: for the custodian's own store only."""
    return bytes(
        context.serialize(save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False)
    )


def load_context(data: bytes) -> ts.Context:
    """A context with this room's ring and moduli, or Refused(malformed).

    `data` goes to TenSEAL's own parser: check first that the custodian signed its digest.
    """
    try:
        context = ts.context_from(data)
    except (ValueError, RuntimeError, TypeError) as error:
        raise Refused(Reason.MALFORMED, f"not a sealing context: {error}") from error
    parameters = _parameters(context)
    moduli = [modulus.value() for modulus in parameters.coeff_modulus()]
    if parameters.poly_modulus_degree() != RING_DEGREE or moduli != [MODULUS, KEY_MODULUS]:
        raise Refused(Reason.MALFORMED, f"a context of degree {parameters.poly_modulus_degree()}, moduli {moduli}")
    return context


def load_public(data: bytes) -> ts.Context:
    """`load_context` for everybody but the custodian. Raises ConfigError if there is a secret key in it."""
    context = load_context(data)
    if context.is_private() or context.has_secret_key():
        raise ConfigError("sealing context", "secret key", "only the custodian may hold it; give the public context")
    if not context.has_public_key():
        raise Refused(Reason.MALFORMED, "the context has no public key")
    return context


def check_modulus(context: ts.Context, budget: Budget) -> None:
    """Raises Refused(malformed) unless the context was made for this budget's plain modulus."""
    given = _parameters(context).plain_modulus().value()
    if given != budget.plain_modulus:
        raise Refused(Reason.MALFORMED, f"a context for t = {given}, the policy needs {budget.plain_modulus}")


def encrypt(context: ts.Context, slots: Integers) -> ts.BFVVector:
    """One ciphertext of 4096 slots, with the context's public key and the operating system's randomness."""
    return ts.bfv_vector(context, slots)


def decrypt(context: ts.Context, vector: ts.BFVVector) -> Integers:
    """The 4096 slots, each in -t/2..t/2. The context must have the secret key; TenSEAL raises ValueError if not."""
    return np.array(vector.decrypt(context.secret_key()), np.int64)


def words_of(vector: ts.BFVVector) -> Words:
    """The coefficients of a ciphertext that this process made."""
    _, members = _split(bytes(vector.serialize()))
    return np.frombuffer(members, "<u8", 2 * RING_DEGREE, len(members) - _WORDS_BYTES).reshape(2, RING_DEGREE)


class Loader:
    """Turns words that `check_body` has passed back into ciphertexts of one context."""

    def __init__(self, context: ts.Context) -> None:
        self._context = context
        head, members = _split(bytes(encrypt(context, np.zeros(RING_DEGREE, np.int64)).serialize()))
        magic, head_bytes, major, minor, _, reserved, _ = _SEAL_HEAD.unpack(head)
        total = _SEAL_HEAD.size + len(members)
        seal_head = _SEAL_HEAD.pack(magic, head_bytes, major, minor, _UNCOMPRESSED, reserved, total)
        self._prefix = _PROTOBUF_LEAD + _varint(total) + seal_head + members[:-_WORDS_BYTES]

    def vector(self, words: Words) -> ts.BFVVector:
        """The ciphertext with these coefficients."""
        return ts.bfv_vector_from(self._context, self._prefix + words.astype("<u8").tobytes())


def _split(serialised: bytes) -> tuple[bytes, bytes]:
    """SEAL's header and uncompressed members out of TenSEAL's serialisation of one ciphertext of our own making."""
    start = len(_PROTOBUF_LEAD)
    while serialised[start] & 0x80:  # the varint that gives the ciphertext's length
        start += 1
    start += 1
    head = serialised[start : start + _SEAL_HEAD.size]
    _, _, _, _, compression, _, size = _SEAL_HEAD.unpack(head)
    if not serialised.startswith(_PROTOBUF_LEAD) or compression != _ZSTD or size != len(serialised) - start:
        raise RuntimeError("this TenSEAL writes ciphertexts in a form that Gemel does not know")
    return head, zstandard.ZstdDecompressor().decompressobj().decompress(serialised[start + _SEAL_HEAD.size :])


def _parameters(context: ts.Context) -> tenseal.sealapi.EncryptionParameters:
    return context.seal_context().data.key_context_data().parms()
