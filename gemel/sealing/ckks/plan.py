"""What a policy costs under CKKS, how exact its sums are, and by how much an opening is flooded. Pure.

CKKS at ring degree N = 4096: SEAL's 128-bit level, ciphertexts under two primes of 40 bits, a third of 29 spent at
encryption. An update's values, in units of the clip and times n_k / weight_cap, stand in 2048 slots a chunk, times
the scale. Figures, with K for the largest weight of a sum (contributors times levels):

    scale           the highest power of two with scale · K <= q / 8, so that sums leave two bits of room
    noise           per coefficient, of K fresh ciphertexts: K · (2 + N) / 12 is its variance (rounding c1 times the
                    key, at the worst ternary key; rounding c0 and the message)
    |e|             L2 norm of the noise of all C chunks: at most noise · (sqrt(C · N) + 10), but once in 2^72
    flooding        Gaussian noise of sigma = 2^(FLOODING_BITS - 1) · |e| on every coefficient before it is decoded
    error           of a value, in units of the clip: sigma · sqrt(N / 2) / scale, since a slot adds up N / 2 of them

Two sums whose noise differs by e open, flooded, to distributions whose statistical distance is at most
|e| / (2 sigma) = 2^-FLOODING_BITS (Pinsker's inequality). So whoever sees the opened sum of a round learns about the
key what the exact sum says, which is nothing, but with that probability. This holds for one opening of ciphertexts
that were sealed as they ought to be. It says nothing about ciphertexts that a corrupt agent has made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from gemel.errors import ConfigError
from gemel.sealing.budget import BODY_HEADER_BYTES
from gemel.sealing.limits import check_frame_bytes, check_parameters, check_scheme
from gemel.sealing.packing import largest_value
from gemel.wire.messages import SealingPolicy

RING_DEGREE = 4096
SLOTS = RING_DEGREE // 2
# The primes that SEAL picks for [40, 40, 29] bits; contexts with others are refused.
MODULI = (1099511390209, 1099511480321)
KEY_MODULUS = 536813569
MODULUS_BITS = math.log2(MODULI[0]) + math.log2(MODULI[1])
WORD_BYTES = 5
WORDS = 2 * len(MODULI) * RING_DEGREE  # of a ciphertext: c0 and c1 under each prime
CHUNK_BYTES = WORDS * WORD_BYTES
FLOODING_BITS = 40  # an opening says nothing about the key, but with probability 2^-40
LARGEST_SIGMA = 2.0**58  # of noise, so that eight of it fit 63 bits
ERROR_SIGMAS = 8  # an opened value is further off once in 10^15
_NORM_SIGMAS = 10
_ROOM_BITS = 3  # of q: its sign, and two that sums leave free


@dataclass(frozen=True, slots=True)
class Plan:
    """The figures of one policy at one model size. `check()` says whether they hold."""

    policy: SealingPolicy
    parameters: int

    @property
    def most(self) -> int:
        """K: the largest weight that a sum has."""
        return self.policy.contributors * self.policy.levels

    @property
    def chunks(self) -> int:
        """Ciphertexts in a body."""
        return -(-self.parameters // SLOTS)

    @property
    def body_bytes(self) -> int:
        """Length of a body, an update's or a sum's: exact."""
        return BODY_HEADER_BYTES + self.chunks * CHUNK_BYTES

    @property
    def bytes_per_parameter(self) -> float:
        """Sealed bytes for each parameter (plain float32 is 4)."""
        return self.body_bytes / self.parameters

    @property
    def scale_bits(self) -> int:
        """log2 of the scale."""
        return math.floor(MODULUS_BITS - math.log2(self.most)) - _ROOM_BITS

    @property
    def headroom_bits(self) -> float:
        """log2 of what fits below half the modulus over what sums can reach."""
        return MODULUS_BITS - 1 - self.scale_bits - math.log2(self.most)

    @property
    def noise_sigma(self) -> float:
        """Of a sum's coefficients, before flooding."""
        return coefficient_noise(self.policy.contributors * self.policy.levels**2)

    @property
    def flooding_sigma(self) -> float:
        """Of the noise that opening adds to every coefficient."""
        return flooding_sigma(self.noise_sigma, self.chunks)

    @property
    def flooding_cost_bits(self) -> float:
        """Bits of precision that flooding takes."""
        return math.log2(self.flooding_sigma / self.noise_sigma)

    @property
    def value_sigma(self) -> float:
        """Deviation of an opened sum's values from the sum that was sealed, in units of the clip, before rounding."""
        return math.ldexp(self.flooding_sigma * math.sqrt(RING_DEGREE / 2), -self.scale_bits)

    @property
    def step(self) -> float:
        """What opened sums are rounded to, in units of the weighted update."""
        return self.policy.clip / largest_value(self.policy.bits)

    @property
    def worst_error(self) -> float:
        """Of a value of an opened sum, in the update's unit: `ERROR_SIGMAS` deviations and half a step."""
        return ERROR_SIGMAS * self.value_sigma * self.policy.clip + 0.5 * self.step

    def check(self, max_frame_bytes: int | None = None) -> None:
        """Raises ConfigError naming the first thing that exceeds what sealing, or the policy's frame size, allows."""
        check_scheme(self.policy, "ckks")
        check_parameters(self.parameters)
        if self.flooding_sigma > LARGEST_SIGMA:
            raise ConfigError("model", "parameters", f"fewer: {self.parameters} would need more noise than is made")
        if self.worst_error > self.policy.contributors * self.step:
            raise ConfigError(
                "sealing policy",
                "bits",
                f"fewer than {self.policy.bits}: flooding leaves a mean of {self.policy.contributors} less exact",
            )
        check_frame_bytes(self.body_bytes, max_frame_bytes)

    TABLE_HEAD = (
        "| scheme | bits | contributors | parameters | scale, bits | headroom, bits | flooding, bits "
        "| it costs, bits of precision | sealed, bytes | bytes a parameter | step | worst error |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )

    def table_line(self) -> str:
        """This plan as a line under `TABLE_HEAD`; the error is that of a sum's value."""
        policy = self.policy
        return (
            f"| {policy.scheme} | {policy.bits} | {policy.contributors} | {self.parameters} | {self.scale_bits} "
            f"| {self.headroom_bits:.2f} | {FLOODING_BITS} | {self.flooding_cost_bits:.2f} | {self.body_bytes} "
            f"| {self.bytes_per_parameter:.2f} | {self.step:.3g} | {self.worst_error:.3g} |"
        )


@lru_cache(maxsize=64)
def plan_of(policy: SealingPolicy, parameters: int) -> Plan:
    """The plan of a policy. Never raises: call `check()` before using it."""
    return Plan(policy, parameters)


def coefficient_noise(ciphertexts: float) -> float:
    """Deviation of a coefficient's noise in a sum of so many fresh public-key ciphertexts."""
    return math.sqrt(ciphertexts * (2 + RING_DEGREE) / 12)


def flooding_sigma(noise_sigma: float, chunks: int) -> float:
    """By how much coefficients are flooded whose noise has this deviation, over all of one opening's chunks."""
    norm = noise_sigma * (math.sqrt(chunks * RING_DEGREE) + _NORM_SIGMAS)
    return math.ldexp(norm, FLOODING_BITS - 1)
