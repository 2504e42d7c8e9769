"""BFV over TenSEAL: contexts, and ciphertexts of 4096 slots.

Ciphertexts leave this module as words (see frames.py) and enter it as words that `check_body` has passed;
serialised.py makes of them what TenSEAL takes.
"""

from __future__ import annotations

import numpy as np
import tenseal as ts
import tenseal.sealapi  # registers the types that a context's parameters consist of

from gemel.errors import ConfigError, Refused
from gemel.sealing.budget import KEY_MODULUS, MODULUS, RING_DEGREE, Budget
from gemel.sealing.frames import Words
from gemel.sealing.packing import Integers
from gemel.sealing.serialised import Form
from gemel.sealing.serialised import words_of as words_in
from gemel.wire.reasons import Reason

_WORDS = 2 * RING_DEGREE


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


def parse_context(data: bytes) -> ts.Context:
    """A context of any scheme, or Refused(malformed).

    `data` goes to TenSEAL's own parser: check first that the custodian signed its digest.
    """
    try:
        return ts.context_from(data)
    except (ValueError, RuntimeError, TypeError) as error:
        raise Refused(Reason.MALFORMED, f"not a sealing context: {error}") from error


def load_context(data: bytes) -> ts.Context:
    """`parse_context`, with this module's ring and moduli or Refused(malformed)."""
    context = parse_context(data)
    parameters = parameters_of(context)
    moduli = [modulus.value() for modulus in parameters.coeff_modulus()]
    if parameters.poly_modulus_degree() != RING_DEGREE or moduli != [MODULUS, KEY_MODULUS]:
        raise Refused(Reason.MALFORMED, f"a context of degree {parameters.poly_modulus_degree()}, moduli {moduli}")
    return context


def load_public(data: bytes) -> ts.Context:
    """`load_context` for everybody but the custodian. Raises ConfigError if there is a secret key in it."""
    return require_public(load_context(data))


def require_public(context: ts.Context) -> ts.Context:
    """`context`, if it is one that everybody may hold. Raises ConfigError if there is a secret key in it."""
    if context.is_private() or context.has_secret_key():
        raise ConfigError("sealing context", "secret key", "only the custodian may hold it; give the public context")
    if not context.has_public_key():
        raise Refused(Reason.MALFORMED, "the context has no public key")
    return context


def check_modulus(context: ts.Context, budget: Budget) -> None:
    """Raises Refused(malformed) unless the context was made for this budget's plain modulus."""
    given = parameters_of(context).plain_modulus().value()
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
    return words_in(bytes(vector.serialize()), RING_DEGREE, _WORDS).reshape(2, RING_DEGREE)


class Loader:
    """Turns words that `check_body` has passed back into ciphertexts of one context."""

    def __init__(self, context: ts.Context) -> None:
        self._context = context
        example = encrypt(context, np.zeros(RING_DEGREE, np.int64))
        self._form = Form(bytes(example.serialize()), RING_DEGREE, _WORDS)

    def vector(self, words: Words) -> ts.BFVVector:
        """The ciphertext with these coefficients."""
        return ts.bfv_vector_from(self._context, self._form.around(words))


def parameters_of(context: ts.Context) -> tenseal.sealapi.EncryptionParameters:
    """The parameters of its keys: degree, moduli, scheme."""
    return context.seal_context().data.key_context_data().parms()
