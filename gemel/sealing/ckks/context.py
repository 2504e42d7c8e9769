"""CKKS over TenSEAL: contexts, and ciphertexts of 2048 real slots.

Ciphertexts leave this module as words (see frames.py) and enter it as words that `check_body` has passed;
gemel.sealing.serialised makes of them what TenSEAL takes.
"""

from __future__ import annotations

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from gemel.errors import Refused
from gemel.sealing.bfv import parameters_of, parse_context, require_public
from gemel.sealing.ckks.frames import Words
from gemel.sealing.ckks.plan import KEY_MODULUS, MODULI, RING_DEGREE, SLOTS, WORDS
from gemel.sealing.serialised import Form
from gemel.sealing.serialised import words_of as words_in
from gemel.wire.reasons import Reason

Slots = NDArray[np.float64]


def create_context() -> ts.Context:
    """A fresh key pair for one round."""
    return ts.context(
        ts.SCHEME_TYPE.CKKS,
        RING_DEGREE,
        coeff_mod_bit_sizes=[modulus.bit_length() for modulus in (*MODULI, KEY_MODULUS)],
        encryption_type=ts.ENCRYPTION_TYPE.ASYMMETRIC,
    )


def load_context(data: bytes) -> ts.Context:
    """A context with this scheme's ring and moduli, or Refused(malformed). See gemel.sealing.bfv.parse_context."""
    context = parse_context(data)
    parameters = parameters_of(context)
    moduli = tuple(modulus.value() for modulus in parameters.coeff_modulus())
    if (
        parameters.scheme().name != "CKKS"
        or parameters.poly_modulus_degree() != RING_DEGREE
        or moduli != (*MODULI, KEY_MODULUS)
    ):
        raise Refused(Reason.MALFORMED, f"a context of {parameters.scheme()}, moduli {moduli}")
    return context


def load_public(data: bytes) -> ts.Context:
    """`load_context` for everybody but the custodian. Raises ConfigError if there is a secret key in it."""
    return require_public(load_context(data))


def encrypt(context: ts.Context, slots: Slots, scale_bits: int) -> ts.CKKSVector:
    """One ciphertext of 2048 slots, with the context's public key and the operating system's randomness."""
    return ts.ckks_vector(context, slots, scale=2.0**scale_bits)


def decrypt(context: ts.Context, vector: ts.CKKSVector) -> Slots:
    """The 2048 slots, with all their noise. The context must have the secret key."""
    return np.array(vector.decrypt(context.secret_key()), np.float64)


def words_of(vector: ts.CKKSVector, polynomials: int = 2) -> Words:
    """The words of a ciphertext that this process made; a square has three polynomials."""
    words = words_in(bytes(vector.serialize()), SLOTS, polynomials * WORDS // 2)
    return words.reshape(polynomials, len(MODULI), RING_DEGREE).astype(np.uint64)


class Loader:
    """Turns words that `check_body` has passed back into ciphertexts of one context and scale."""

    def __init__(self, context: ts.Context, scale_bits: int) -> None:
        self._context = context
        self._form = Form(bytes(encrypt(context, np.zeros(SLOTS), scale_bits).serialize()), SLOTS, WORDS)

    def vector(self, words: Words) -> ts.CKKSVector:
        """The ciphertext with these words."""
        return ts.ckks_vector_from(self._context, self._form.around(words))
