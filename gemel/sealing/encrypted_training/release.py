"""From masked integers to an ordinary sealed update of the round (bfv-packed), which nobody sees on its way.

The custodian packs the masked integers as they come, modulo the round's plain modulus t, and seals them with the
round's public context; the agent subtracts its masks, packed the same way, from that ciphertext:

    sum over lanes of (q + r) · B^lane  -  sum over lanes of r · B^lane  =  sum over lanes of q · B^lane   (mod t)

The body that is left is of the very form that Sealer makes, and everything behind it stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gemel.sealing.bfv import Loader, check_modulus, encrypt, load_public, words_of
from gemel.sealing.budget import Budget, budget_of
from gemel.sealing.frames import BodyShape, body_words, check_body, pack_body
from gemel.sealing.packing import Integers
from gemel.wire.messages import SealingPolicy
from gemel.wire.types import sha256


def seal_masked(context: bytes, policy: SealingPolicy, integers: Sequence[int]) -> bytes:
    """Masked integers, one a parameter, as a body under the round's public context. Raises as Sealer."""
    budget = budget_of(policy, len(integers))
    budget.check()
    loaded = load_public(context)
    check_modulus(loaded, budget)
    chunks = (words_of(encrypt(loaded, slots)) for slots in _packed(budget, integers))
    return pack_body(BodyShape(budget, sha256(context)), chunks)


def unmask(context: bytes, policy: SealingPolicy, body: bytes, masks: Sequence[int]) -> bytes:
    """The update in a body that `seal_masked` made. Raises Refused as `check_body`."""
    budget = budget_of(policy, len(masks))
    shape = BodyShape(budget, sha256(context))
    check_body(body, shape)
    loader = Loader(load_public(context))
    packed = _packed(budget, masks)
    chunks = zip(body_words(body), packed, strict=True)
    return pack_body(shape, (words_of(loader.vector(words) - slots.tolist()) for words, slots in chunks))


def _packed(budget: Budget, integers: Sequence[int]) -> Integers:
    """Slots (chunks, 4096) as Packing lays them out, modulo t and around zero."""
    modulus, packing = budget.plain_modulus, budget.packing
    chunks = packing.chunks(budget.parameters)
    digits = np.zeros(chunks * packing.lanes * packing.slots, np.int64)
    digits[: len(integers)] = [integer % modulus for integer in integers]
    lanes = digits.reshape(chunks, packing.lanes, packing.slots)
    packed = lanes[:, -1].copy()
    for lane in range(packing.lanes - 2, -1, -1):
        packed = (packed * packing.base + lanes[:, lane]) % modulus  # base · t < 2^63: with two lanes, base^2 <= t
    return np.where(packed > modulus // 2, packed - modulus, packed)
