"""A round's parties behind the sealing ports, whatever the scheme, for tests that hold for more than one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from gemel.sealing import bfv, frames
from gemel.sealing.budget import MODULUS, budget_of
from gemel.sealing.ckks import context as ckks_context
from gemel.sealing.ckks import frames as ckks_frames
from gemel.sealing.ckks.opener import CkksOpener
from gemel.sealing.ckks.plan import plan_of
from gemel.sealing.frames import BodyKind, BodyShape, OpenedSum
from gemel.sealing.opener import Opener
from gemel.sealing.packing import largest_value
from gemel.sealing.ports import OpenerPort, SealerPort, SummerPort
from gemel.sealing.schemes import sealer_of, summer_of
from gemel.wire.messages import SealingPolicy
from gemel.wire.types import NO_ADDRESS, sha256

PARAMETERS = 300
CAP = 1000
CLIP = 0.1


def policy_of(scheme: str, bits: int = 8, contributors: int = 10, levels: int = 1) -> SealingPolicy:
    return SealingPolicy(scheme, bits, CLIP, contributors, CAP, levels)  # type: ignore[arg-type]  # of our own making


def updates_of(contributors: int, parameters: int = PARAMETERS) -> tuple[list[np.ndarray], list[int]]:
    rng = np.random.default_rng(contributors)
    updates = [(rng.standard_normal(parameters) * 0.03).astype(np.float32) for _ in range(contributors)]
    return updates, [int(weight) for weight in rng.integers(1, CAP + 1, contributors)]


def weighted(update: np.ndarray, weight: int) -> np.ndarray:
    """What an update adds to a sum, but for rounding: scaled by its weight, and clipped."""
    return np.clip(update.astype(np.float64) * weight / CAP, -CLIP, CLIP)


def zeros(parameters: int = PARAMETERS) -> np.ndarray:
    return np.zeros(parameters, np.float32)


class Plant:
    """One key, and everybody who uses it."""

    def __init__(self, policy: SealingPolicy, parameters: int = PARAMETERS) -> None:
        self.policy, self.parameters = policy, parameters
        opener = CkksOpener if policy.scheme == "ckks" else Opener
        self.opener: OpenerPort = opener.create(policy, parameters)
        self.context = self.opener.public_context()
        self.sealer: SealerPort = sealer_of(self.context, policy, parameters, NO_ADDRESS)

    def seal(self, update: np.ndarray, weight: int = CAP) -> bytes:
        return self.sealer.seal(update, weight, zeros(self.parameters)).body

    def summer(self) -> SummerPort:
        return summer_of(self.context, self.policy, self.parameters)

    def sum_of(self, bodies: Iterable[bytes]) -> bytes:
        summer = self.summer()
        for body in bodies:
            summer.add(body)
        return summer.sum()

    def opened(self, total: bytes, contributors: int) -> np.ndarray:
        return OpenedSum.parse(self.opener.open(total, contributors), self.policy, self.parameters).sums

    @property
    def step(self) -> float:
        """Of an opened sum's integers, in units of the weighted update."""
        return self.policy.clip / largest_value(self.policy.bits)

    @property
    def error_steps(self) -> int:
        """How far an opened sum's integers may be off beside what agents have rounded: 0 where sums are exact."""
        if self.policy.scheme != "ckks":
            return 0
        return math.ceil(plan_of(self.policy, self.parameters).worst_error / self.step)

    def worst_error(self, contributors: int) -> float:
        """Of an opened sum's value against the weighted updates, in their unit."""
        if self.policy.scheme == "ckks":
            return plan_of(self.policy, self.parameters).worst_error
        return 0.5 * self.step * contributors

    # --- forms ------------------------------------------------------------------------------------

    @property
    def modulus(self) -> np.ndarray:
        """What words are taken modulo; broadcasts over a ciphertext's words."""
        return ckks_frames.PRIMES if self.policy.scheme == "ckks" else np.array(MODULUS, np.uint64)

    def words(self, body: bytes) -> list[np.ndarray]:
        form = ckks_frames if self.policy.scheme == "ckks" else frames
        return [words.copy() for words in form.body_words(body)]

    def body(self, chunks: Sequence[np.ndarray]) -> bytes:
        """An update of these ciphertexts."""
        digest = sha256(self.context)
        if self.policy.scheme == "ckks":
            head = ckks_frames.head_of(plan_of(self.policy, self.parameters), digest, BodyKind.UPDATE)
            return ckks_frames.pack_body(head, chunks)
        return frames.pack_body(BodyShape(budget_of(self.policy, self.parameters), digest), chunks)

    def leaked_context(self) -> bytes:
        """A context that holds the secret key, and the public one."""
        if self.policy.scheme == "ckks":
            context = ckks_context.create_context()
        else:
            context = bfv.create_context(budget_of(self.policy, self.parameters))
        return bytes(context.serialize(save_public_key=True, save_secret_key=True))
