"""Adds sealed updates without being able to open any (scheme ckks)."""

from __future__ import annotations

import numpy as np

from gemel.errors import Refused
from gemel.sealing.ckks.context import load_public
from gemel.sealing.ckks.frames import PRIMES, Words, checked_words, head_of, pack_body
from gemel.sealing.ckks.plan import plan_of
from gemel.sealing.frames import BodyKind
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256


class CkksSummer:
    """Implements SummerPort: words added modulo their primes, which is what SEAL would do. No parser sees a body."""

    def __init__(self, context: bytes, policy: SealingPolicy, parameters: int) -> None:
        """Raises ConfigError for a policy over budget or a context with a secret key, Refused for a wrong context."""
        self._plan = plan_of(policy, parameters)
        self._plan.check()
        load_public(context)
        self._context = sha256(context)
        self._sums: list[Words] = []
        self._added = 0
        self.contributors = 0  # one of level 3 counts as three

    def add(self, body: bytes, level: int = 1) -> None:
        """See SummerPort. Raises ValueError past the policy's number of contributors."""
        policy = self._plan.policy
        if self._added >= policy.contributors:
            raise ValueError(f"the policy allows {policy.contributors} contributors")
        if not 1 <= level <= policy.levels:
            raise ValueError(f"level {level}, 1 to {policy.levels} allowed")
        head = head_of(self._plan, self._context, BodyKind.UPDATE)
        chunks = list(checked_words(body, self._plan, head))  # all, before any counts
        if level > 1:
            chunks = [words * np.uint64(level) % PRIMES for words in chunks]
        if self._sums:
            chunks = [_added(total, words) for total, words in zip(self._sums, chunks, strict=True)]
        if not all(words[1].any() for words in chunks):
            raise Refused(Reason.PLAINTEXT, "the sum would lie open: somebody sent another's negative")
        self._sums = chunks
        self._added += 1
        self.contributors += level

    def sum(self) -> bytes:
        """See SummerPort."""
        if not self._sums:
            raise ValueError("nothing has been added")
        return pack_body(head_of(self._plan, self._context, BodyKind.SUM, self.contributors), self._sums)


def _added(left: Words, right: Words) -> Words:
    """The sum modulo the primes: below a prime, what a prime is taken from wraps around to the larger of the two."""
    total = left + right
    reduced: Words = np.minimum(total, total - PRIMES)
    return reduced
