"""Seals an agent's update with the round's public key (scheme ckks)."""

from __future__ import annotations

import numpy as np

from gemel.errors import Refused
from gemel.sealing.ckks.context import encrypt, load_public, words_of
from gemel.sealing.ckks.frames import head_of, pack_body
from gemel.sealing.ckks.plan import SLOTS, plan_of
from gemel.sealing.frames import BodyKind
from gemel.sealing.packing import left_over
from gemel.sealing.ports import Sealed
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Vector
from gemel.wire.types import sha256


class CkksSealer:
    """Implements SealerPort. It rounds nothing, so residuals are what the clip cut off: zeros, mostly."""

    def __init__(self, context: bytes, policy: SealingPolicy, parameters: int) -> None:
        """Raises ConfigError for a policy over budget or a context with a secret key, Refused for a wrong context."""
        self._plan = plan_of(policy, parameters)
        self._plan.check()
        self._context = load_public(context)
        self._head = head_of(self._plan, sha256(context), BodyKind.UPDATE)

    def seal(self, update: Vector, weight: int, residual: Vector) -> Sealed:
        """See SealerPort."""
        plan, policy = self._plan, self._plan.policy
        if not 1 <= weight <= policy.weight_cap:
            raise Refused(Reason.OVERWEIGHT, f"weight {weight}, allowed 1..{policy.weight_cap}")
        if update.shape != (plan.parameters,) or residual.shape != update.shape:
            raise ValueError(
                f"update {update.shape}, residual {residual.shape}, {plan.parameters} parameters expected"
            )
        if not (np.isfinite(update).all() and np.isfinite(residual).all()):
            raise ValueError("update or residual has values that are not finite")
        share = weight / policy.weight_cap
        target = update.astype(np.float64) * share + residual
        values = np.clip(target, -policy.clip, policy.clip)
        slots = np.zeros((plan.chunks, SLOTS))
        slots.reshape(-1)[: plan.parameters] = values / policy.clip
        chunks = (words_of(encrypt(self._context, chunk, plan.scale_bits)) for chunk in slots)
        return Sealed(pack_body(self._head, chunks), left_over(target, values, policy.clip))
