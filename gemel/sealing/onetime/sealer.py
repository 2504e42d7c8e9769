"""Seals an agent's update under a key of its own that lives for this one body (scheme one-time-keys)."""

from __future__ import annotations

import secrets

import numpy as np

from gemel.errors import Refused
from gemel.sealing.frames import BodyKind
from gemel.sealing.onetime import ring
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.frames import head_of, pack_body
from gemel.sealing.onetime.letters import write_letters
from gemel.sealing.onetime.plan import MODULUS, RING_DEGREE, plan_of
from gemel.sealing.packing import quantise
from gemel.sealing.ports import Member, Randomness, Sealed
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Vector
from gemel.wire.types import Address, sha256


class OneTimeSealer:
    """Implements SealerPort. Its letters are signed by whoever holds the agent's identity (letters.sign_letter)."""

    def __init__(
        self,
        context: bytes,
        policy: SealingPolicy,
        parameters: int,
        agent: Address,
        randomness: Randomness = secrets.token_bytes,
    ) -> None:
        """Raises ConfigError for a policy over budget, Malformed for no context, Refused for one of another size.

        `randomness` is the operating system's; anything else is for test vectors.
        """
        self._plan = plan_of(policy, parameters)
        self._plan.check()
        self._context = RoundContext.parse(context)
        if self._context.parameters != parameters:
            raise Refused(
                Reason.FORGED_SIZE, f"a context for {self._context.parameters} parameters, not {parameters}"
            )
        self._agent, self._randomness = agent, randomness

    def seal(self, update: Vector, weight: int, residual: Vector) -> Sealed:
        """See SealerPort. Each call draws a new key: two bodies of one agent have nothing in common."""
        plan, policy = self._plan, self._plan.policy
        if not 1 <= weight <= policy.weight_cap:
            raise Refused(Reason.OVERWEIGHT, f"weight {weight}, allowed 1..{policy.weight_cap}")
        if update.shape != (plan.parameters,):
            raise ValueError(f"update {update.shape}, {plan.parameters} parameters expected")
        share = weight / policy.weight_cap
        quantised = quantise(update, residual, clip=policy.clip, bits=policy.bits, share=share)
        key = ring.gaussian(RING_DEGREE, self._randomness)
        words = self._cover(plan.packing.pack(quantised.values)[0], key)
        head = head_of(plan, self._context.digest, BodyKind.UPDATE, 1)
        half = np.uint64((1 << plan.dropped_bits) >> 1)
        body = pack_body(head, (words + half) >> np.uint64(plan.dropped_bits))
        letters = write_letters(self._context, Member(self._agent, sha256(body)), key, self._randomness)
        return Sealed(body, quantised.residual, letters)

    def _cover(self, packed: np.ndarray, key: np.ndarray) -> ring.Words:
        """delta · m + e - a · s, coefficient by coefficient."""
        words = ring.residues(packed * self._plan.delta + ring.gaussian(packed.size, self._randomness))
        negative_key = ring.transform(ring.residues(-key))
        context = self._context.digest
        for index in range(self._plan.polynomials):
            chunk = words[index * RING_DEGREE : (index + 1) * RING_DEGREE]
            product = ring.transform_back(ring.multiply(ring.public_element(context, index), negative_key))
            chunk += product[: chunk.size]
            chunk %= np.uint64(MODULUS)
        return words
