"""Opens sums with the round's secret key (scheme bfv-packed). Only custodian/ imports this module.

The worker functions for the custodian's process pool stand here and not in work.py, so that no other service can
reach them. A key as bytes: stored_key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tenseal as ts

from gemel.errors import Malformed, Refused
from gemel.sealing.bfv import Loader, check_modulus, create_context, decrypt, load_context, public_bytes, secret_bytes
from gemel.sealing.budget import budget_of
from gemel.sealing.ckks.opener import CkksOpener
from gemel.sealing.frames import BodyKind, BodyShape, OpenedSum, body_words, check_body
from gemel.sealing.ports import OpenerPort
from gemel.sealing.stored_key import StoredKey
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256


class Opener:
    """Implements OpenerPort. Made by `create` for a round, or by `from_bytes` after a restart."""

    def __init__(self, policy: SealingPolicy, parameters: int, public: bytes, secret: bytes) -> None:
        """Raises ConfigError for a policy over budget, Malformed if `secret` holds no secret key."""
        self._budget = budget_of(policy, parameters)
        self._budget.check()
        self._public, self._secret = public, secret
        self._context: ts.Context | None = load_context(secret)
        check_modulus(self._context, self._budget)
        if not self._context.has_secret_key():
            raise Malformed("sealing key", "there is no secret key in it")

    @classmethod
    def create(cls, policy: SealingPolicy, parameters: int) -> Opener:
        """A fresh key for one round. Raises ConfigError for a policy over budget."""
        budget = budget_of(policy, parameters)
        budget.check()
        context = create_context(budget)
        return cls(policy, parameters, public_bytes(context), secret_bytes(context))

    def public_context(self) -> bytes:
        """See OpenerPort."""
        return self._public

    def open(self, sum_body: bytes, contributors: int) -> bytes:
        """See OpenerPort. Raises Refused as `check_body`, Malformed for a sum that contributors cannot make."""
        if self._context is None:
            raise Refused(Reason.STALE_ROUND, "this round's sealing key is destroyed")
        shape = BodyShape(self._budget, sha256(self._public), BodyKind.SUM, contributors)
        check_body(sum_body, shape)
        loader = Loader(load_context(self._public))
        slots = np.stack([decrypt(self._context, loader.vector(words)) for words in body_words(sum_body)])
        opened = OpenedSum(contributors, self._budget.packing.unpack(slots, self._budget.parameters))
        opened.check_range(self._budget.policy)
        return opened.pack(self._budget.policy)

    def to_bytes(self) -> bytes:
        """See OpenerPort. Raises Refused(stale_round) once destroyed."""
        if self._context is None:
            raise Refused(Reason.STALE_ROUND, "this round's sealing key is destroyed")
        return StoredKey(self._budget.policy, self._budget.parameters, self._public, self._secret).pack()

    @classmethod
    def from_bytes(cls, data: bytes) -> Opener:
        """The opener that `to_bytes` wrote down. Raises Malformed."""
        stored = StoredKey.parse(data)
        return cls(stored.policy, stored.parameters, stored.public, stored.secret)

    def destroy(self) -> None:
        """See OpenerPort. SEAL wipes what it frees; Python's copies of the bytes are only dropped."""
        self._context = None
        self._secret = b""


@dataclass(frozen=True, slots=True)
class RoundKey:
    """A round's key as bytes: `secret` for the custodian's own store, `public_context` for everybody."""

    secret: bytes
    public_context: bytes


def create_key(policy: SealingPolicy, parameters: int) -> RoundKey:
    """Worker function: a fresh key for one round."""
    opener: OpenerPort
    opener = CkksOpener.create(policy, parameters) if policy.scheme == "ckks" else Opener.create(policy, parameters)
    return RoundKey(opener.to_bytes(), opener.public_context())


def open_sum(secret: bytes, sum_body: bytes, contributors: int) -> bytes:
    """Worker function: `OpenerPort.open` with a stored key."""
    return _stored(secret).open(sum_body, contributors)


def public_context_of(secret: bytes) -> bytes:
    """Worker function: the public half of a stored key."""
    return _stored(secret).public_context()


def _stored(secret: bytes) -> OpenerPort:
    """By the scheme of the policy that stands in the key."""
    if StoredKey.parse(secret).policy.scheme == "ckks":
        return CkksOpener.from_bytes(secret)
    return Opener.from_bytes(secret)
