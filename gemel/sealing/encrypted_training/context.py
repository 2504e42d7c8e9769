"""CKKS over TenSEAL for training: contexts, and ciphertexts of 4096 real slots.

Ciphertexts leave this module as words and enter it as words that frames.py has passed.
"""

from __future__ import annotations

import numpy as np
import tenseal as ts
from numpy.typing import NDArray
from tenseal import sealapi

from gemel.errors import Refused
from gemel.sealing.bfv import parameters_of, parse_context, require_public
from gemel.sealing.encrypted_training.plan import (
    KEY_MODULUS_BITS,
    MODULUS_BITS,
    RING_DEGREE,
    SCALE_BITS,
    SLOTS,
)
from gemel.sealing.encrypted_training.ring import ALL_MODULI, MODULI, Words
from gemel.sealing.serialised import Form
from gemel.sealing.serialised import words_of as words_in
from gemel.wire.reasons import Reason

Slots = NDArray[np.float64]


def create_context() -> ts.Context:
    """A fresh key pair, with the key that multiplications need."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        RING_DEGREE,
        coeff_mod_bit_sizes=[*MODULUS_BITS, KEY_MODULUS_BITS],
        encryption_type=ts.ENCRYPTION_TYPE.ASYMMETRIC,
    )
    context.global_scale = 2.0**SCALE_BITS
    return context


def public_bytes(context: ts.Context) -> bytes:
    """Parameters, public key, and what multiplying needs; no rotations, and no secret."""
    return bytes(
        context.serialize(save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=True)
    )


def load_context(data: bytes) -> ts.Context:
    """A context with this ring, moduli and scale, or Refused(malformed). First check who signed it."""
    context = parse_context(data)
    parameters = parameters_of(context)
    moduli = tuple(modulus.value() for modulus in parameters.coeff_modulus())
    form = (parameters.scheme().name, parameters.poly_modulus_degree(), moduli)
    if form != ("CKKS", RING_DEGREE, ALL_MODULI) or context.global_scale != 2.0**SCALE_BITS:
        raise Refused(Reason.MALFORMED, f"a context of {form[0]}, degree {form[1]}, moduli {moduli}")
    return context


def load_public(data: bytes) -> ts.Context:
    """`load_context` for everybody but the custodian. Raises ConfigError if there is a secret key in it."""
    return require_public(load_context(data))


def encrypt(context: ts.Context, slots: Slots) -> ts.CKKSVector:
    """One ciphertext of 4096 slots, with the public key and the operating system's randomness."""
    return ts.ckks_vector(context, slots)


def words_of(vector: ts.CKKSVector, primes: int) -> Words:
    """The words of a ciphertext that this process made: (2, primes, 8192)."""
    words = words_in(bytes(vector.serialize()), SLOTS, 2 * primes * RING_DEGREE)
    return words.reshape(2, primes, RING_DEGREE).astype(np.uint64)


def sealed_zero(context: ts.Context, primes: int) -> Words:
    """A fresh encryption of nothing, under the first so many primes."""
    return words_of(encrypt(context, np.zeros(SLOTS)), len(MODULI))[:, :primes]


def loader(context: ts.Context) -> Form:
    """What stands around the words of a fresh ciphertext."""
    example = bytes(encrypt(context, np.zeros(SLOTS)).serialize())
    return Form(example, SLOTS, 2 * len(MODULI) * RING_DEGREE)


def secret_words(context: ts.Context, form: Form) -> Words:
    """The secret key, transformed, under each prime: what a ciphertext of c0 = 0 and c1 = 1 decrypts to."""
    words = np.zeros((2, len(MODULI), RING_DEGREE), np.uint64)
    words[1] = 1
    vector = ts.ckks_vector_from(context, form.around(words.reshape(-1)))
    plain = sealapi.Plaintext()
    decryptor = sealapi.Decryptor(context.seal_context().data, context.secret_key().data)
    decryptor.decrypt(vector.ciphertext()[0], plain)
    values = [plain[index] for index in range(len(MODULI) * RING_DEGREE)]
    return np.array(values, np.uint64).reshape(len(MODULI), RING_DEGREE)
