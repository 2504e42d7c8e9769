import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.errors import ConfigError
from gemel.sealing.budget import MODULUS, RING_DEGREE, Budget, batching_prime, budget_of
from gemel.wire.messages import SealingPolicy


def policy_of(bits=8, contributors=10, clip=0.1, weight_cap=1000, levels=1) -> SealingPolicy:
    return SealingPolicy("bfv-packed", bits, clip, contributors, weight_cap, levels)


@given(st.integers(2, 16), st.integers(1, 1000), st.integers(1, 4), st.integers(1, 1_000_000))
@settings(max_examples=100, deadline=None)
def test_every_policy_that_the_message_allows_fits_with_exact_sums(bits, contributors, levels, parameters):
    budget = budget_of(policy_of(bits, contributors, levels=levels), parameters)
    budget.check()
    assert budget.lanes >= 1
    assert budget.plain_modulus >= budget.base**budget.lanes  # every sum of packed values is below t
    assert budget.plain_modulus % (2 * RING_DEGREE) == 1
    assert pow(3, budget.plain_modulus - 1, budget.plain_modulus) == 1
    assert budget.noise_margin_bits >= 0
    assert budget.headroom_bits >= 0
    assert budget.chunks * budget.lanes * RING_DEGREE >= parameters
    assert budget.largest_value * contributors * levels < 2**31  # sums travel as int32


def test_one_more_lane_would_exceed_the_noise_budget():
    for bits in (4, 8):
        for contributors in (2, 4, 10, 100, 1000):
            budget = budget_of(policy_of(bits, contributors), 1)
            t = batching_prime(budget.base ** (budget.lanes + 1))
            assert Budget(budget.policy, 1, budget.lanes + 1, t).noise_margin_bits < 0


@pytest.mark.parametrize(
    ("bits", "contributors", "levels", "lanes", "bytes_a_parameter"),
    [(8, 10, 1, 3, 4.71), (4, 10, 1, 6, 2.41), (8, 4, 1, 4, 3.56), (4, 10, 2, 5, 2.87), (4, 10, 4, 4, 3.56)],
)
def test_half_a_million_parameters_cost_what_the_readme_says(bits, contributors, levels, lanes, bytes_a_parameter):
    budget = budget_of(policy_of(bits, contributors, levels=levels), 500_000)
    assert budget.lanes == lanes
    assert budget.bytes_per_parameter == pytest.approx(bytes_a_parameter, abs=0.01)


def test_four_levels_at_the_default_bits_stay_below_five_bytes_a_parameter():
    """All that travels for one agent: 1.5 bytes a parameter are left for header, wrapping and the public context."""
    assert budget_of(policy_of(4, 10, levels=4), 500_000).bytes_per_parameter < 5.1 - 1.5


def test_levels_cost_noise_as_their_square():
    one, four = (budget_of(policy_of(4, 10, levels=levels), 1) for levels in (1, 4))
    same_modulus = Budget(four.policy, 1, one.lanes, one.plain_modulus)
    assert one.noise_margin_bits - same_modulus.noise_margin_bits == pytest.approx(2)  # bits: a factor of four


def test_batching_prime_is_the_smallest_at_or_above_the_bound():
    first = batching_prime(2)
    assert first == 40961
    assert batching_prime(first) == first
    assert batching_prime(first + 1) == 65537


@pytest.mark.parametrize("parameters", [0, -5, 100_000_001])
def test_model_size_outside_the_limits_is_refused_by_name(parameters):
    with pytest.raises(ConfigError, match="parameters"):
        budget_of(policy_of(), parameters).check()


def test_frame_larger_than_the_policy_allows_is_refused_with_the_size_it_needs():
    budget = budget_of(policy_of(), 37_000)
    budget.check(budget.body_bytes)
    with pytest.raises(ConfigError, match=f"max_frame_bytes: at least {budget.body_bytes}"):
        budget.check(budget.body_bytes - 1)


def test_values_too_large_for_the_noise_budget_are_refused_by_name():
    impossible = policy_of(bits=16, contributors=10**9)  # beyond what a message can carry
    with pytest.raises(ConfigError, match="noise budget"):
        budget_of(impossible, 100).check()


def test_weights_below_the_cap_cost_resolution():
    budget = budget_of(policy_of(weight_cap=1024), 100)
    assert budget.resolution_lost_bits(1024) == 0
    assert budget.resolution_lost_bits(256) == 2
    at_cap = budget.worst_rounding_error(10, 10 * 1024)
    assert at_cap == pytest.approx(budget.step / 2)
    assert budget.worst_rounding_error(10, 10 * 256) == pytest.approx(4 * at_cap)


def test_table_line_has_a_cell_for_every_column_and_shows_the_figures():
    budget = budget_of(policy_of(), 37_000)
    head = Budget.TABLE_HEAD.splitlines()[0]
    assert budget.table_line().count("|") == head.count("|")
    assert f"{math.log2(budget.plain_modulus):.2f}" in budget.table_line()
    assert str(budget.body_bytes) in budget.table_line()


def test_moduli_are_the_primes_of_the_stated_size():
    assert MODULUS.bit_length() == 54
    assert MODULUS % (2 * RING_DEGREE) == 1
