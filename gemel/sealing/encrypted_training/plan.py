"""How a logistic head is trained under CKKS, and what that costs. Pure.

One-vs-rest logistic regression by full-batch gradient descent, with the cubic p(z) = 1/2 + 0.197 z - 0.004 z^3 for
the sigmoid (least squares on -8..8; Kim et al., 2018). A ciphertext has 4096 real slots: slot C · i + c belongs to
row i and output c, C being the number of outputs rounded up to a power of two. One ciphertext holds one feature of
4096 / C rows, C times over; one holds that feature's weights, in every row. A step for feature j is

    u_j = w_j - (rate / rows) · X_j · (p(z) - y),  z = sum over j of X_j · w_j

and w_j is then, in every slot of output c, the mean of u_j over that output's slots. Weights are kept times
sqrt(0.004) (`WEIGHT_SCALE`): then p needs no multiplication by a constant, and a step three levels.

Nobody rotates for that mean. The mean over slots C apart is the trace to a subring, which keeps every N / (2C)-th
coefficient of the polynomial as it is and drops the others. So a trainer sends just these 2C coefficients, masked;
the custodian puts them into fresh ciphertexts. This one exchange sums over rows, refreshes and copies, exactly.

`bound` is what a weight can have moved by: features lie in -1..1, and |p(z) - y| stays below 1.04 while |z| <= 8.
Beyond, the cubic runs away from the sigmoid, and nobody sees it under encryption: owners follow z on their own rows
before they seal them (gemel/learning/linear_head.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from gemel.errors import ConfigError
from gemel.wire.messages import Policy, TrainingPlan
from gemel.wire.tensors import Manifest

RING_DEGREE = 8192
SLOTS = RING_DEGREE // 2
MODULUS_BITS = (44, 44, 28, 28, 28)  # of ciphertexts: 216 bits with the key's prime, SEAL's 128-bit level
KEY_MODULUS_BITS = 44
SCALE_BITS = 28
LOW = 2  # primes that are left when a step has used its levels
HIDING_BITS = 40  # a mask is so much wider than what it hides: they differ from uniform by 2^-40 at most
LARGEST_WEIGHT_BITS = 4  # |w| < 16
LARGEST_VALUE_BITS = 16  # of a released integer
WORD_BYTES = 6
P1, P3 = 0.197, -0.004
WEIGHT_SCALE = (-P3) ** 0.5
LARGEST_ERROR = 1.04  # of p(z) - y, for |z| <= 8
CKKS_ERROR = 0.01  # of a weight's change, and far above what is measured (tests/contract/test_encrypted_training.py)


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """The figures of one head. `features` counts the constant one; `outputs` are one-vs-rest classifiers."""

    features: int
    outputs: int
    rows: int
    steps: int
    rate: float

    @property
    def lanes(self) -> int:
        """C: outputs rounded up to a power of two."""
        return 1 << (self.outputs - 1).bit_length()

    @property
    def coefficients(self) -> int:
        """Coefficients of a weight's polynomial that are not 0."""
        return 2 * self.lanes

    @property
    def rows_at_once(self) -> int:
        """Rows of a ciphertext."""
        return SLOTS // self.lanes

    @property
    def blocks(self) -> int:
        """Ciphertexts that one feature's rows take."""
        return -(-self.rows // self.rows_at_once)

    @property
    def bound(self) -> float:
        """No weight moves further while |z| <= 8, CKKS's own error included."""
        return self.rate * self.steps * LARGEST_ERROR * (1 + CKKS_ERROR)

    @property
    def request_bytes(self) -> int:
        """Of one step, up: without headers."""
        return self.features * LOW * (RING_DEGREE + self.coefficients) * WORD_BYTES

    @property
    def answer_bytes(self) -> int:
        """Of one step, down: without headers."""
        return self.features * 2 * len(MODULUS_BITS) * RING_DEGREE * WORD_BYTES

    @property
    def release_bytes(self) -> int:
        """Of the last message, up: without headers."""
        return self.features * self.outputs * LOW * (RING_DEGREE + 1) * WORD_BYTES

    @property
    def multiplications(self) -> int:
        """Of two ciphertexts, in a whole round of one agent."""
        a_step = self.blocks * (3 * self.features + 1)
        return self.blocks * self.features + self.steps * a_step

    def check(self) -> None:
        """Raises ConfigError naming the first thing that does not fit."""
        for name, value, most in (("features", self.features, 256), ("outputs", self.outputs, 256)):
            if not 1 <= value <= most:
                raise ConfigError("encrypted training", name, f"1..{most}, got {value}")
        if not 1 <= self.steps <= 1000 or not 0 < self.rate <= 10:
            raise ConfigError(
                "encrypted training", "steps, rate", f"1..1000 and 0..10, got {self.steps}, {self.rate}"
            )
        if self.bound >= 2**LARGEST_WEIGHT_BITS:
            raise ConfigError(
                "encrypted training",
                "steps, rate",
                f"weights could move by {self.bound:.1f}, at most {2**LARGEST_WEIGHT_BITS}: fewer steps or less rate",
            )

    def table_line(self) -> str:
        """What it costs one agent, in a line."""
        megabyte = 1e6
        return (
            f"encrypted training: {self.features} features, {self.outputs} outputs, {self.rows} rows, {self.steps} "
            f"steps: {self.multiplications} multiplications of ciphertexts, "
            f"{(self.steps * self.request_bytes + self.release_bytes) / megabyte:.0f} MB up, "
            f"{self.steps * self.answer_bytes / megabyte:.0f} MB down for each agent"
        )


def head_plan(training: TrainingPlan, parameters: int, features: int, rows: int) -> HeadPlan:
    """The plan of a head of so many weights: epochs are steps, every one over all rows. Raises ConfigError."""
    if features < 1 or parameters % features:
        raise ConfigError("encrypted training", "features", f"a divisor of {parameters} parameters, got {features}")
    plan = HeadPlan(features, parameters // features, rows, training.epochs, training.learning_rate)
    plan.check()
    return plan


def features_of(manifest: Manifest) -> int:
    """The features of a linear head: its model is one tensor (features, outputs). Raises ConfigError for others."""
    if len(manifest.tensors) != 1 or len(manifest.tensors[0].shape) != 2:
        raise ConfigError(
            "policy", "training.encrypted", "only for a linear head, one tensor (gemel/learning/linear_head.py)"
        )
    return manifest.tensors[0].shape[0]


def check_policy(policy: Policy, plan: HeadPlan) -> None:
    """Raises ConfigError where an honest update of this plan could exceed what the policy's integers hold."""
    if policy.sealing.clip < plan.bound:
        raise ConfigError(
            "policy",
            "sealing.clip",
            f"at least {plan.bound:.3g} with training.encrypted: weights move so far in {plan.steps} steps, and "
            "nobody can clip a ciphertext",
        )


def plan_for(policy: Policy, manifest: Manifest, rows: int) -> HeadPlan:
    """The plan of a policy with `training.encrypted` for a task's model. Raises ConfigError as those above."""
    plan = head_plan(policy.training, manifest.size, features_of(manifest), rows)
    check_policy(policy, plan)
    return plan
