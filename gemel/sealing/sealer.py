"""Seals an agent's update with the round's public key (scheme bfv-packed)."""

from __future__ import annotations

from gemel.errors import Refused
from gemel.sealing.bfv import check_modulus, encrypt, load_public, words_of
from gemel.sealing.budget import budget_of
from gemel.sealing.frames import BodyShape, pack_body
from gemel.sealing.packing import quantise
from gemel.sealing.ports import Sealed
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Vector
from gemel.wire.types import sha256


class Sealer:
    """Implements SealerPort."""

    def __init__(self, context: bytes, policy: SealingPolicy, parameters: int) -> None:
        """Raises ConfigError for a policy over budget or a context with a secret key, Refused for a wrong context."""
        budget = budget_of(policy, parameters)
        budget.check()
        self._policy = policy
        self._context = load_public(context)
        check_modulus(self._context, budget)
        self._shape = BodyShape(budget, sha256(context))

    def seal(self, update: Vector, weight: int, residual: Vector) -> Sealed:
        """See SealerPort."""
        policy, budget = self._policy, self._shape.budget
        if not 1 <= weight <= policy.weight_cap:
            raise Refused(Reason.OVERWEIGHT, f"weight {weight}, allowed 1..{policy.weight_cap}")
        if update.shape != (budget.parameters,):
            raise ValueError(f"update {update.shape}, {budget.parameters} parameters expected")
        share = weight / policy.weight_cap
        quantised = quantise(update, residual, clip=policy.clip, bits=policy.bits, share=share)
        slots = budget.packing.pack(quantised.values)
        body = pack_body(self._shape, (words_of(encrypt(self._context, chunk)) for chunk in slots))
        return Sealed(body, quantised.residual)
