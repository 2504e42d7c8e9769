"""What a sealing policy costs and whether it holds: computed before anybody trains. Pure.

BFV at ring degree N = 4096 with coefficient moduli of 54 and 55 bits: SEAL's 128-bit level, the second modulus spent
at encryption, so ciphertexts live under the first (`MODULUS`). Past the noise budget decryption is wrong in every
slot and says nothing, so lanes are chosen by this bound on the noise of a sum of K fresh public-key ciphertexts, each
multiplied by at most L (the policy's levels):

    variance of a coefficient = L^2 · K · (1 + 2N/3 + 1) / 12   rounding c0, c1 times a ternary key, scaled message
    12 standard deviations < MODULUS / (2t)                     a chance of about 1e-28 that a ciphertext opens wrong

Held against SEAL's own invariant noise budget in tests/contract/test_sealing.py: the model is the tighter one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from gemel.errors import ConfigError
from gemel.sealing.limits import check_frame_bytes, check_parameters, check_scheme
from gemel.sealing.packing import Packing, largest_value
from gemel.wire.messages import SealingPolicy

RING_DEGREE = 4096  # slots of a chunk, too
# The primes that SEAL picks for [54, 55] bits; contexts with others are refused.
MODULUS = 18014398509309953
KEY_MODULUS = 36028797018652673
WORD_BYTES = 7  # a coefficient below 2^54 as it travels
CHUNK_BYTES = 2 * RING_DEGREE * WORD_BYTES
BODY_HEADER_BYTES = 68
_NOISE_SIGMAS = 12


@dataclass(frozen=True, slots=True)
class Budget:
    """The figures of one policy at one model size. `check()` says whether they hold."""

    policy: SealingPolicy
    parameters: int
    lanes: int  # values in a slot; 0 where not even one fits
    plain_modulus: int  # t, a prime with t = 1 mod 2N, above every sum of packed values

    @property
    def largest_value(self) -> int:
        """qmax of one agent's integers."""
        return largest_value(self.policy.bits)

    @property
    def base(self) -> int:
        """B: one more than the spread of a lane's sum."""
        return _base(self.policy)

    @property
    def packing(self) -> Packing:
        """How values lie in slots."""
        return Packing(self.base, self.lanes, RING_DEGREE)

    @property
    def headroom_bits(self) -> float:
        """log2 of the plain modulus over what sums can reach; never below 0."""
        return math.log2(self.plain_modulus) - self.lanes * math.log2(self.base)

    @property
    def noise_margin_bits(self) -> float:
        """Bits of noise budget left after the last contributor, by the model above; below 0 sums do not open."""
        return _noise_margin_bits(self.plain_modulus, self.policy)

    @property
    def chunks(self) -> int:
        """Ciphertexts in a sealed body."""
        return self.packing.chunks(self.parameters)

    @property
    def body_bytes(self) -> int:
        """Length of a sealed body, an update's or a sum's: exact, not a bound."""
        return BODY_HEADER_BYTES + self.chunks * CHUNK_BYTES

    @property
    def bytes_per_parameter(self) -> float:
        """Sealed bytes for each parameter (plain float32 is 4)."""
        return self.body_bytes / self.parameters

    @property
    def step(self) -> float:
        """One integer step, in units of the weighted update."""
        return self.policy.clip / self.largest_value

    def resolution_lost_bits(self, weight: int) -> float:
        """Bits of resolution that scaling by weight / weight_cap costs an agent of this weight (0 at the cap)."""
        return math.log2(self.policy.weight_cap / weight)

    def worst_rounding_error(self, contributors: int, total_weight: int) -> float:
        """Largest error of a mean's value by rounding alone, in the update's unit, before error feedback.

        With levels, an update of level 3 counts as three contributors, and with 3 · n_k in the total.
        """
        return 0.5 * self.step * contributors * self.policy.weight_cap / total_weight

    def check(self, max_frame_bytes: int | None = None) -> None:
        """Raises ConfigError naming the first thing that exceeds what sealing, or the policy's frame size, allows."""
        check_scheme(self.policy, "bfv-packed")
        check_parameters(self.parameters)
        if self.lanes < 1 or self.noise_margin_bits < 0:
            raise ConfigError(
                "sealing policy",
                "bits, contributors",
                f"a sum of {self.policy.contributors} values of {self.policy.bits} bits exceeds the noise budget",
            )
        check_frame_bytes(self.body_bytes, max_frame_bytes)

    TABLE_HEAD = (
        "| scheme | bits | contributors | levels | parameters | lanes | log2 t | headroom, bits | noise margin, bits "
        "| sealed, bytes | bytes a parameter | step | worst error |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )

    def table_line(self) -> str:
        """This budget as a line under `TABLE_HEAD`; the error is for contributors that all have the cap's weight."""
        policy = self.policy
        worst = self.worst_rounding_error(policy.contributors, policy.contributors * policy.weight_cap)
        return (
            f"| {policy.scheme} | {policy.bits} | {policy.contributors} | {policy.levels} | {self.parameters} "
            f"| {self.lanes} | {math.log2(self.plain_modulus):.2f} | {self.headroom_bits:.4f} "
            f"| {self.noise_margin_bits:.2f} | {self.body_bytes} | {self.bytes_per_parameter:.2f} "
            f"| {self.step:.3g} | {worst:.3g} |"
        )


@lru_cache(maxsize=64)
def budget_of(policy: SealingPolicy, parameters: int) -> Budget:
    """The budget with as many lanes as the noise allows. Never raises: call `check()` before using it."""
    base, lanes = _base(policy), 0
    plain_modulus = batching_prime(base)
    while _noise_margin_bits(candidate := batching_prime(base ** (lanes + 1)), policy) >= 0:
        lanes, plain_modulus = lanes + 1, candidate
    return Budget(policy, parameters, lanes, plain_modulus)


def batching_prime(at_least: int) -> int:
    """The smallest prime t >= at_least with t = 1 mod 2N, which BFV needs to put values in slots."""
    period = 2 * RING_DEGREE
    candidate = -(-(at_least - 1) // period) * period + 1
    while not _is_prime(candidate):
        candidate += period
    return candidate


def _base(policy: SealingPolicy) -> int:
    return 2 * largest_value(policy.bits) * policy.contributors * policy.levels + 1


def _noise_margin_bits(plain_modulus: int, policy: SealingPolicy) -> float:
    variance = policy.levels**2 * policy.contributors * (1 + 2 * RING_DEGREE / 3 + 1) / 12
    return math.log2(MODULUS / (2 * plain_modulus)) - math.log2(_NOISE_SIGMAS * math.sqrt(variance))


def _is_prime(number: int) -> bool:
    """Miller-Rabin with the witnesses that decide every number below 2^64."""
    if number < 2:
        return False
    witnesses = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if any(number % witness == 0 for witness in witnesses):
        return number in witnesses
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for witness in witnesses:
        power = pow(witness, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True
