"""Adds updates that are sealed under one-time keys: plain integer addition, and no way to open anything."""

from __future__ import annotations

import numpy as np

from gemel.errors import Refused
from gemel.sealing.frames import BodyKind
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.frames import check_body, head_of, join_planes, pack_body, planes
from gemel.sealing.onetime.plan import MODULUS, plan_of
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason


class OneTimeSummer:
    """Implements SummerPort. Sums of at most 1000 words below 2^56 fit 64 bits, so it reduces once, at the end."""

    def __init__(self, context: bytes, policy: SealingPolicy, parameters: int) -> None:
        """Raises ConfigError for a policy over budget, Malformed for no context, Refused for one of another size."""
        self._plan = plan_of(policy, parameters)
        self._plan.check()
        parsed = RoundContext.parse(context)
        if parsed.parameters != parameters:
            raise Refused(Reason.FORGED_SIZE, f"a context for {parsed.parameters} parameters, not {parameters}")
        self._context = parsed.digest
        self._sums: list[np.ndarray] = []
        self.contributors = 0

    def add(self, body: bytes, level: int = 1) -> None:
        """See SummerPort. Raises ValueError past the policy's number of contributors, and for any level but 1.

        The keys of a sum with 2 · c_1 + c_2 in it, less those of another, would open single updates.
        """
        if level != 1:
            raise ValueError(f"level {level}: under one-time keys an update is in a sum once, or not at all")
        limit = self._plan.policy.contributors
        if self.contributors >= limit:
            raise ValueError(f"the policy allows {limit} contributors")
        head = check_body(body, self._plan, self._context, BodyKind.UPDATE)
        if not self._sums:
            self._sums = [np.zeros(self._plan.words, np.uint64) for _ in planes(body, head)]
        for total, part in zip(self._sums, planes(body, head), strict=True):
            np.add(total, part, out=total)
        self.contributors += 1

    def sum(self) -> bytes:
        """See SummerPort."""
        if not self._sums:
            raise ValueError("nothing has been added")
        words = join_planes(iter(self._sums), self._plan.word_bytes) << np.uint64(self._plan.dropped_bits)
        head = head_of(self._plan, self._context, BodyKind.SUM, self.contributors)
        return pack_body(head, words % np.uint64(MODULUS))
