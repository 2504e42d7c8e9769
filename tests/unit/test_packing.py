import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.errors import Malformed
from gemel.sealing.budget import budget_of
from gemel.sealing.packing import MOST_CARRIED, Packing, largest_value, quantise
from gemel.wire.messages import SealingPolicy

SLOTS = 16  # small chunks: the layout does not depend on their size


def packing_of(bits: int, contributors: int) -> Packing:
    budget = budget_of(SealingPolicy("bfv-packed", bits, 1.0, contributors, 1000), 1)
    return Packing(budget.base, budget.lanes, SLOTS)


@st.composite
def updates(draw):
    """(packing, an integer vector for each of up to twelve contributors), extremes included."""
    bits, contributors = draw(st.integers(2, 16)), draw(st.sampled_from([1, 2, 3, 10, 100, 1000]))
    qmax = largest_value(bits)
    size, rows = draw(st.integers(1, 200)), min(contributors, 12)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        values = rng.integers(-qmax, qmax + 1, (rows, size))
    else:
        values = rng.choice([-qmax, qmax], (rows, size))
    return packing_of(bits, contributors), values


@given(updates())
@settings(max_examples=150, deadline=None)
def test_unpacking_gives_back_what_was_packed(case):
    packing, values = case
    for row in values:
        assert np.array_equal(packing.unpack(packing.pack(row), row.size), row)


@given(updates())
@settings(max_examples=150, deadline=None)
def test_sum_of_packed_is_packed_sum(case):
    packing, values = case
    total = sum(packing.pack(row) for row in values)
    assert np.array_equal(total, packing.pack(values.sum(axis=0)))
    assert np.array_equal(packing.unpack(total, values.shape[1]), values.sum(axis=0))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("bits", "contributors"), [(2, 1), (4, 10), (8, 10), (8, 100), (16, 1000)])
def test_extreme_sum_of_all_contributors_fills_the_range_and_stays_exact(bits, contributors, sign):
    packing = packing_of(bits, contributors)
    extreme = np.full(2 * packing.lanes * SLOTS, sign * largest_value(bits))
    assert np.array_equal(packing.unpack(packing.pack(extreme) * contributors, extreme.size), extreme * contributors)


def test_slot_beyond_what_contributors_can_add_up_to_is_malformed():
    packing = packing_of(8, 10)
    packed = packing.pack(np.zeros(5, np.int64))
    packed[0, 0] = (packing.base**packing.lanes - 1) // 2 + 1
    with pytest.raises(Malformed, match="outside"):
        packing.unpack(packed, 5)


def test_packed_sum_of_another_length_is_malformed():
    packing = packing_of(8, 10)
    with pytest.raises(Malformed, match="shape"):
        packing.unpack(packing.pack(np.zeros(5, np.int64)), 5_000)


@given(st.integers(2, 16), st.integers(0, 2**32), st.floats(0.01, 1.0), st.floats(1e-3, 1e3))
@settings(max_examples=80, deadline=None)
def test_what_is_not_sent_stands_in_the_residual_half_a_step_within_the_clip(bits, seed, share, clip):
    rng = np.random.default_rng(seed)
    update = (rng.standard_normal(300) * clip).astype(np.float32)
    quantised = quantise(update, np.zeros(300, np.float32), clip=clip, bits=bits, share=share)
    step, wanted = clip / largest_value(bits), update.astype(np.float64) * share
    assert np.abs(quantised.values).max() <= largest_value(bits)
    assert np.abs(quantised.residual[np.abs(wanted) <= clip]).max() <= step / 2 * (1 + 1e-5)
    back = quantised.values * step + quantised.residual
    assert np.allclose(back, np.clip(wanted, -(1 + MOST_CARRIED) * clip, (1 + MOST_CARRIED) * clip), atol=step * 1e-5)


def test_what_was_clipped_is_sent_later():
    update, nothing = np.array([0.25, -0.25], np.float32), np.zeros(2, np.float32)
    first = quantise(update, nothing, clip=0.1, bits=8, share=1.0)
    second = quantise(nothing, first.residual, clip=0.1, bits=8, share=1.0)
    third = quantise(nothing, second.residual, clip=0.1, bits=8, share=1.0)
    assert [list(sent.values) for sent in (first, second)] == [[127, -127], [127, -127]]
    assert list(third.values) == [64, -64] or list(third.values) == [63, -63]


def test_update_far_outside_the_clip_does_not_drive_the_model_for_ever():
    huge = quantise(np.array([1e6], np.float32), np.zeros(1, np.float32), clip=0.1, bits=4, share=1.0)
    assert huge.residual[0] == np.float32(MOST_CARRIED * 0.1)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_error_feedback_loses_nothing_over_many_rounds(bits):
    clip, rounds = 0.1, 200
    rng = np.random.default_rng(7)
    residual = np.zeros(500, np.float32)
    wanted, sealed = np.zeros(500), np.zeros(500)
    for _ in range(rounds):
        update = (rng.standard_normal(500) * 0.01).astype(np.float32)
        share = float(rng.uniform(0.2, 1.0))
        quantised = quantise(update, residual, clip=clip, bits=bits, share=share)
        residual = quantised.residual
        wanted += update.astype(np.float64) * share
        sealed += quantised.values * (clip / largest_value(bits))
    assert np.allclose(sealed + residual, wanted, rtol=0, atol=1e-5)
    assert np.abs(residual).max() <= clip / largest_value(bits) / 2 * (1 + 1e-5)


def test_equal_inputs_quantise_to_equal_integers():
    update = np.random.default_rng(1).standard_normal(100).astype(np.float32)
    residual = np.random.default_rng(2).standard_normal(100).astype(np.float32) * 0.001
    first = quantise(update, residual, clip=1.0, bits=8, share=0.5)
    second = quantise(update.copy(), residual.copy(), clip=1.0, bits=8, share=0.5)
    assert np.array_equal(first.values, second.values)
    assert np.array_equal(first.residual, second.residual)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_update_or_residual_that_is_not_finite_is_refused(bad):
    good, poisoned = np.zeros(3, np.float32), np.array([0, bad, 0], np.float32)
    for update, residual in ((poisoned, good), (good, poisoned)):
        with pytest.raises(ValueError, match="not finite"):
            quantise(update, residual, clip=1.0, bits=8, share=1.0)


def test_residual_of_another_length_or_share_out_of_range_is_refused():
    zeros = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="one length"):
        quantise(zeros, np.zeros(4, np.float32), clip=1.0, bits=8, share=1.0)
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share"):
            quantise(zeros, zeros, clip=1.0, bits=8, share=share)
