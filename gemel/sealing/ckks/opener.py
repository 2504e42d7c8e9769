"""Opens sums with the round's secret key, flooded (scheme ckks). Only custodian/ imports this module.

A key as bytes: stored_key, its secret the flooding's seed (32 bytes) and then the secret context.
"""

from __future__ import annotations

import secrets

import numpy as np
import tenseal as ts

from gemel.errors import Malformed, Refused
from gemel.sealing.bfv import public_bytes, secret_bytes
from gemel.sealing.ckks.context import Loader, create_context, decrypt, load_context
from gemel.sealing.ckks.flooding import SEED_BYTES, flooded
from gemel.sealing.ckks.frames import Words, body_words, check_body, head_of
from gemel.sealing.ckks.plan import ERROR_SIGMAS, plan_of
from gemel.sealing.frames import BodyKind, OpenedSum
from gemel.sealing.packing import largest_value
from gemel.sealing.stored_key import StoredKey
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest, sha256


class CkksOpener:
    """Implements OpenerPort. Made by `create` for a round, or by `from_bytes` after a restart."""

    def __init__(self, policy: SealingPolicy, parameters: int, public: bytes, secret: bytes, seed: bytes) -> None:
        """Raises ConfigError for a policy over budget, Malformed if `secret` holds no secret key."""
        self._plan = plan_of(policy, parameters)
        self._plan.check()
        self._public, self._secret, self._seed = public, secret, seed
        self._context: ts.Context | None = load_context(secret)
        if not self._context.has_secret_key():
            raise Malformed("sealing key", "there is no secret key in it")

    @classmethod
    def create(cls, policy: SealingPolicy, parameters: int) -> CkksOpener:
        """A fresh key for one round. Raises ConfigError for a policy over budget."""
        plan_of(policy, parameters).check()
        context = create_context()
        return cls(policy, parameters, public_bytes(context), secret_bytes(context), secrets.token_bytes(SEED_BYTES))

    def public_context(self) -> bytes:
        """See OpenerPort."""
        return self._public

    def open(self, sum_body: bytes, contributors: int) -> bytes:
        """See OpenerPort. Values are rounded to the policy's step: what is opened is not exact (Plan.worst_error).

        Raises Refused as `check_body`, Malformed for a sum that so many contributors cannot make.
        """
        if self._context is None:
            raise Refused(Reason.STALE_ROUND, "this round's sealing key is destroyed")
        plan, policy = self._plan, self._plan.policy
        check_body(sum_body, plan, head_of(plan, sha256(self._public), BodyKind.SUM, contributors))
        loader, digest = Loader(load_context(self._public), plan.scale_bits), sha256(sum_body)
        slots = np.concatenate(
            [
                decrypt(self._context, loader.vector(self._flooded(words, digest, index)))
                for index, words in enumerate(body_words(sum_body))
            ]
        )[: plan.parameters]
        if np.abs(slots).max() > contributors + ERROR_SIGMAS * plan.value_sigma:
            raise Malformed("opened sum", f"a value is larger than {contributors} contributors can make it")
        limit = largest_value(policy.bits) * contributors
        sums = np.clip(np.rint(slots * largest_value(policy.bits)), -limit, limit).astype(np.int64)
        return OpenedSum(contributors, sums).pack(policy)

    def _flooded(self, words: Words, digest: Digest, index: int) -> Words:
        return flooded(words, self._plan.flooding_sigma, self._seed, digest, index)

    def to_bytes(self) -> bytes:
        """See OpenerPort. Raises Refused(stale_round) once destroyed."""
        if self._context is None:
            raise Refused(Reason.STALE_ROUND, "this round's sealing key is destroyed")
        return StoredKey(self._plan.policy, self._plan.parameters, self._public, self._seed + self._secret).pack()

    @classmethod
    def from_bytes(cls, data: bytes) -> CkksOpener:
        """The opener that `to_bytes` wrote down. Raises Malformed."""
        stored = StoredKey.parse(data)
        seed, secret = stored.secret[:SEED_BYTES], stored.secret[SEED_BYTES:]
        return cls(stored.policy, stored.parameters, stored.public, secret, seed)

    def destroy(self) -> None:
        """See OpenerPort. SEAL wipes what it frees; Python's copies of the bytes are only dropped."""
        self._context = None
        self._secret = self._seed = b""
