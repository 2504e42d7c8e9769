"""Adds sealed updates without being able to open any (scheme bfv-packed)."""

from __future__ import annotations

from dataclasses import replace

import tenseal as ts

from gemel.errors import Refused
from gemel.sealing.bfv import Loader, check_modulus, load_public, words_of
from gemel.sealing.budget import budget_of
from gemel.sealing.frames import BodyKind, BodyShape, body_words, check_body, pack_body, times
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256


class Summer:
    """Implements SummerPort. Holds one ciphertext a chunk, however many updates are added."""

    def __init__(self, context: bytes, policy: SealingPolicy, parameters: int) -> None:
        """Raises ConfigError for a policy over budget or a context with a secret key, Refused for a wrong context."""
        budget = budget_of(policy, parameters)
        budget.check()
        loaded = load_public(context)
        check_modulus(loaded, budget)
        self._loader = Loader(loaded)
        self._shape = BodyShape(budget, sha256(context))
        self._sums: list[ts.BFVVector] = []
        self._added = 0
        self.contributors = 0  # one of level 3 counts as three

    def add(self, body: bytes, level: int = 1) -> None:
        """See SummerPort. Raises ValueError past the policy's number of contributors."""
        policy = self._shape.budget.policy
        if self._added >= policy.contributors:
            raise ValueError(f"the policy allows {policy.contributors} contributors")
        if not 1 <= level <= policy.levels:
            raise ValueError(f"level {level}, 1 to {policy.levels} allowed")
        check_body(body, self._shape)
        vectors = [self._loader.vector(times(level, words)) for words in body_words(body)]
        if self._sums:
            try:
                vectors = [total + vector for total, vector in zip(self._sums, vectors, strict=True)]
            except RuntimeError as error:  # SEAL: the sum would hide nothing, so somebody sent another's negative
                raise Refused(Reason.PLAINTEXT, f"the sum would lie open: {error}") from error
        self._sums = vectors
        self._added += 1
        self.contributors += level

    def sum(self) -> bytes:
        """See SummerPort."""
        if not self._sums:
            raise ValueError("nothing has been added")
        shape = replace(self._shape, kind=BodyKind.SUM, contributors=self.contributors)
        return pack_body(shape, (words_of(vector) for vector in self._sums))
