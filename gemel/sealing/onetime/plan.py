"""What a policy costs under one-time keys, and whether it holds: computed before anybody trains. Pure.

One agent's coefficient is c = -a · s + e + delta · m (mod q), where m holds `lanes` values as digits (packing.py), s
and e are discrete Gaussians of deviation SIGMA. Of c the top `word_bytes` bytes travel, rounded. A sum of K opens
exactly if

    variance of its error = K · (SIGMA^2 + 4^dropped / 12)      the errors e, and the bits that were rounded off
    12 standard deviations < delta / 2                          a chance of about 1e-32 for each coefficient

Nothing is tuned at run time: everybody computes the same plan from policy and model size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from gemel.errors import ConfigError
from gemel.sealing.budget import BODY_HEADER_BYTES
from gemel.sealing.limits import check_frame_bytes, check_parameters, check_scheme
from gemel.sealing.packing import Packing, largest_value
from gemel.wire.messages import SealingPolicy

RING_DEGREE = 2048
MODULUS = 18014398509404161  # the prime that SEAL picks for degree 2048 and 54 bits: its 128-bit level
MODULUS_BITS = 54
SIGMA = 6.4  # of keys and errors: twice SEAL's, so that the sum of the keys may be known (decision 0009)
SUM_WORD_BYTES = 7  # whole coefficients
_WORD_BYTES = (7, 6, 5)  # 4 would round off more bits than stay exact with more than one lane
_MAX_LANES = 12
_NOISE_SIGMAS = 12


@dataclass(frozen=True, slots=True)
class Plan:
    """The figures of one policy at one model size. `check()` says whether they hold."""

    policy: SealingPolicy
    parameters: int
    lanes: int  # values in a coefficient; 0 where not even one fits
    word_bytes: int  # of a coefficient, as it travels in an update

    @property
    def base(self) -> int:
        """One more than the spread of a lane's sum."""
        return _base(self.policy)

    @property
    def words(self) -> int:
        """Coefficients in a body; none is sent for padding."""
        return -(-self.parameters // max(self.lanes, 1))

    @property
    def polynomials(self) -> int:
        """Ring elements that these coefficients are taken from."""
        return -(-self.words // RING_DEGREE)

    @property
    def packing(self) -> Packing:
        """How values lie in coefficients."""
        return Packing(self.base, self.lanes, self.words)

    @property
    def delta(self) -> int:
        """What a packed value is multiplied by, to stand clear of the errors."""
        return _delta(self.policy, self.lanes)

    @property
    def dropped_bits(self) -> int:
        """Low bits of a coefficient that an update does not carry."""
        return _dropped(self.word_bytes)

    @property
    def noise_bound(self) -> int:
        """An honest sum's error stays below; whatever opens with more is refused."""
        return _noise_bound(self.policy, self.word_bytes)

    @property
    def key_bound(self) -> int:
        """Coefficients of the sum of honest keys stay below."""
        return math.ceil(_NOISE_SIGMAS * SIGMA * math.sqrt(self.policy.contributors))

    @property
    def body_bytes(self) -> int:
        """Length of an update's body: exact."""
        return BODY_HEADER_BYTES + self.words * self.word_bytes

    @property
    def bytes_per_parameter(self) -> float:
        """Sealed bytes for each parameter, without letters (plain float32 is 4)."""
        return self.body_bytes / self.parameters

    @property
    def sum_bytes(self) -> int:
        """Length of a sum's body: exact."""
        return BODY_HEADER_BYTES + self.words * SUM_WORD_BYTES

    @property
    def step(self) -> float:
        """One integer step, in units of the weighted update."""
        return self.policy.clip / largest_value(self.policy.bits)

    @property
    def noise_margin_bits(self) -> float:
        """log2 of what fits over the bound; below 0 sums are not exact."""
        return math.log2(self.delta / 2) - math.log2(self.noise_bound)

    def check(self, max_frame_bytes: int | None = None) -> None:
        """Raises ConfigError naming the first thing that does not hold: nothing inexact gets past this."""
        check_scheme(self.policy, "one-time-keys")
        if self.policy.levels != 1:
            raise ConfigError("sealing policy", "levels", "1: weights on these ciphertexts would open single keys")
        check_parameters(self.parameters)
        if self.lanes < 1:
            raise ConfigError(
                "sealing policy",
                "bits, contributors",
                f"a sum of {self.policy.contributors} values of {self.policy.bits} bits would not be exact",
            )
        check_frame_bytes(self.body_bytes, max_frame_bytes)

    TABLE_HEAD = (
        "| scheme | bits | contributors | parameters | values a coefficient | noise margin, bits | sealed, bytes "
        "| bytes a parameter | step | worst error |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )

    def table_line(self) -> str:
        """This plan as a line under `TABLE_HEAD`; the error is for contributors that all have the cap's weight."""
        policy = self.policy
        return (
            f"| {policy.scheme} | {policy.bits} | {policy.contributors} | {self.parameters} | {self.lanes} "
            f"| {self.noise_margin_bits:.2f} | {self.body_bytes} | {self.bytes_per_parameter:.2f} "
            f"| {self.step:.3g} | {self.step / 2:.3g} |"
        )


@lru_cache(maxsize=64)
def plan_of(policy: SealingPolicy, parameters: int) -> Plan:
    """The plan with the fewest bytes a value that stays exact. Never raises: call `check()` before using it."""
    exact = [
        (word_bytes / lanes, word_bytes, lanes)
        for word_bytes in _WORD_BYTES
        for lanes in range(1, _MAX_LANES + 1)
        if 2 * _noise_bound(policy, word_bytes) < _delta(policy, lanes)
    ]
    _, word_bytes, lanes = min(exact, default=(0, SUM_WORD_BYTES, 0))
    return Plan(policy, parameters, lanes, word_bytes)


def _base(policy: SealingPolicy) -> int:
    return 2 * largest_value(policy.bits) * policy.contributors + 1


def _delta(policy: SealingPolicy, lanes: int) -> int:
    return int(MODULUS // _base(policy) ** lanes)


def _dropped(word_bytes: int) -> int:
    return max(0, MODULUS_BITS - 8 * word_bytes)


def _noise_bound(policy: SealingPolicy, word_bytes: int) -> int:
    dropped = _dropped(word_bytes)
    variance = policy.contributors * (SIGMA**2 + (4**dropped / 12 if dropped else 0))
    return math.ceil(_NOISE_SIGMAS * math.sqrt(variance)) + 1
