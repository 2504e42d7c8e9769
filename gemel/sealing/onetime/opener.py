"""Opens a sum with the sum of its members' keys, which is no secret: it opens nothing else (scheme one-time-keys).

A stored opener, little-endian: magic b"GKSU", version 1, reserved 3, contributors u32, lengths u32 of policy and
context | policy (JSON) | context | 2048 coefficients, each i16.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from gemel.errors import Malformed, Refused
from gemel.sealing.frames import BodyKind, OpenedSum
from gemel.sealing.onetime import ring
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.frames import check_body, join_planes, planes
from gemel.sealing.onetime.letters import KeyTotal, join_totals
from gemel.sealing.onetime.plan import MODULUS, RING_DEGREE, SUM_WORD_BYTES, plan_of
from gemel.sealing.packing import Integers
from gemel.wire.messages import SealingPolicy, decode, encode
from gemel.wire.reasons import Reason

_HEAD = struct.Struct("<4sB3sIII")
_MAGIC, _VERSION = b"GKSU", 1


class OneTimeOpener:
    """Implements OpenerPort. Made by `from_totals`, or by `from_bytes` after a restart."""

    def __init__(self, context: bytes, policy: SealingPolicy, contributors: int, key_sum: Integers) -> None:
        """Raises ConfigError for a policy over budget, Malformed for a sum that so many honest keys cannot have."""
        self._round = RoundContext.parse(context)
        self._plan = plan_of(policy, self._round.parameters)
        self._plan.check()
        if not 1 <= contributors <= policy.contributors:
            raise Malformed("key sum", f"{contributors} contributors")
        if key_sum.shape != (RING_DEGREE,) or np.abs(key_sum).max() > self._plan.key_bound:
            raise Malformed("key sum", f"not a sum of {contributors} one-time keys")
        self._context, self._contributors = context, contributors
        self._key_sum: Integers | None = key_sum

    @classmethod
    def from_totals(cls, context: bytes, policy: SealingPolicy, totals: Sequence[bytes]) -> OneTimeOpener:
        """From what enough custodians gave out. Raises Malformed as `join_totals`, and for another round's."""
        parsed = [KeyTotal.parse(total) for total in totals]
        key_sum = join_totals(parsed)
        if parsed[0].context != RoundContext.parse(context).digest:
            raise Malformed("key totals", "of another round")
        return cls(context, policy, parsed[0].count, key_sum)

    def public_context(self) -> bytes:
        """See OpenerPort."""
        return self._context

    def open(self, sum_body: bytes, contributors: int) -> bytes:
        """See OpenerPort. Raises Refused as `check_body`, Malformed where the error is above an honest sum's.

        That is what a wrong key, a missing or an additional update and most changed bodies come to. It is a check of
        form, not of integrity: validators recompute the sum from signed bodies.
        """
        if self._key_sum is None:
            raise Refused(Reason.STALE_ROUND, "this round's key sum is destroyed")
        if contributors != self._contributors:
            raise Refused(Reason.FORGED_SIZE, f"a key sum of {self._contributors} members, not {contributors}")
        plan, context = self._plan, self._round.digest
        head = check_body(sum_body, plan, context, BodyKind.SUM, contributors)
        words = join_planes(planes(sum_body, head), SUM_WORD_BYTES)
        key = ring.transform(ring.residues(self._key_sum))
        for index in range(plan.polynomials):
            chunk = words[index * RING_DEGREE : (index + 1) * RING_DEGREE]
            product = ring.transform_back(ring.multiply(ring.public_element(context, index), key))
            chunk += product[: chunk.size]
            chunk %= np.uint64(MODULUS)
        values = ring.centred(words)
        packed = (values + plan.delta // 2) // plan.delta
        if np.abs(values - packed * plan.delta).max() > plan.noise_bound:
            raise Malformed("opened sum", "more noise than its contributors can make: not the sum of these keys")
        opened = OpenedSum(contributors, plan.packing.unpack(packed[None, :], plan.parameters))
        opened.check_range(plan.policy)
        return opened.pack(plan.policy)

    def to_bytes(self) -> bytes:
        """See OpenerPort. Raises Refused(stale_round) once destroyed."""
        if self._key_sum is None:
            raise Refused(Reason.STALE_ROUND, "this round's key sum is destroyed")
        policy = encode(self._plan.policy)
        head = _HEAD.pack(_MAGIC, _VERSION, b"\0\0\0", self._contributors, len(policy), len(self._context))
        return head + policy + self._context + self._key_sum.astype("<i2").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> OneTimeOpener:
        """The opener that `to_bytes` wrote down. Raises Malformed."""
        if len(data) < _HEAD.size:
            raise Malformed("key sum", "too short")
        magic, version, reserved, contributors, policy_bytes, context_bytes = _HEAD.unpack_from(data)
        context_start = _HEAD.size + policy_bytes
        key_start = context_start + context_bytes
        if (magic, version, reserved) != (_MAGIC, _VERSION, b"\0\0\0") or len(data) != key_start + 2 * RING_DEGREE:
            raise Malformed("key sum", "magic, version or length is not ours")
        policy = decode(SealingPolicy, data[_HEAD.size : context_start])
        key_sum = np.frombuffer(data, "<i2", RING_DEGREE, key_start).astype(np.int64)
        return cls(data[context_start:key_start], policy, contributors, key_sum)

    def destroy(self) -> None:
        """See OpenerPort."""
        self._key_sum = None
