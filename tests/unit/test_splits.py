import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.demo.rig import read_cycles
from gemel.errors import ConfigError
from gemel.learning.splits import Shares, split_cycles


@pytest.fixture(scope="module")
def labels():
    return read_cycles().labels


def everybody(split):
    return [*split.gateways, split.coordinator, *split.validators, split.report, split.validation]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    block_cycles=st.integers(1, 20),
    gateways=st.integers(1, 6),
    validators=st.integers(0, 5),
    reference_blocks=st.integers(0, 3),
    report_blocks=st.integers(0, 4),
    validation_blocks=st.integers(0, 3),
    alpha=st.floats(0.5, 100),
    spare=st.integers(12, 60),
    ragged=st.integers(0, 19),
)
def test_everybody_gets_their_own_and_nothing_is_lost(
    seed, block_cycles, gateways, validators, reference_blocks, report_blocks, validation_blocks, alpha, spare, ragged
):
    shares = Shares(block_cycles, gateways, validators, reference_blocks, report_blocks, validation_blocks, 1, alpha)
    blocks = (1 + validators) * reference_blocks + report_blocks + validation_blocks + gateways * 2 + spare
    cycles = blocks * block_cycles + ragged % block_cycles
    labels = np.stack([np.arange(cycles) * 3 // cycles, np.arange(cycles) // 7 % 4], axis=1).astype(np.int64)
    split = split_cycles(labels, seed, shares)
    assert len(split.gateways) == gateways
    assert len(split.validators) == validators
    dealt = np.concatenate(everybody(split))
    assert np.array_equal(np.sort(dealt), np.arange(cycles))  # disjoint, and all of them
    assert all((np.diff(rows) > 0).all() for rows in everybody(split))
    assert min(len(rows) for rows in split.gateways) >= block_cycles


def test_the_same_seed_deals_the_same(labels):
    for one, two in zip(everybody(split_cycles(labels, 5)), everybody(split_cycles(labels, 5)), strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(split_cycles(labels, 5).report, split_cycles(labels, 6).report)


def test_neighbours_stay_together(labels):
    for rows in everybody(split_cycles(labels, 0)):
        numbers, counts = np.unique(rows // 15, return_counts=True)
        assert (counts == 15).all(), numbers


@pytest.mark.parametrize("seed", range(5))
def test_every_set_for_measuring_holds_all_classes_of_all_heads(labels, seed):
    split = split_cycles(labels, seed)
    for rows in [split.coordinator, *split.validators, split.report, split.validation]:
        assert [len(np.unique(column)) for column in labels[rows].T] == [3, 4, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_gateways_differ_in_the_cooler_conditions_they_see(labels, seed):
    whole = np.bincount(labels[:, 0], minlength=3) / len(labels)
    gateways = [np.bincount(labels[rows, 0], minlength=3) / len(rows) for rows in split_cycles(labels, seed).gateways]
    assert max(np.abs(share - whole).max() for share in gateways) > 0.1


def test_a_large_alpha_makes_gateways_alike(labels):
    gateways = split_cycles(labels, 0, Shares(alpha=1e6)).gateways
    lengths = [len(rows) for rows in gateways]
    assert max(lengths) - min(lengths) <= 3 * 15


def test_too_few_cycles_are_a_configuration_error(labels):
    with pytest.raises(ConfigError, match="blocks of 15 needed"):
        split_cycles(labels[:700], 0)


def test_a_minimum_no_draw_can_meet_is_a_configuration_error(labels):
    with pytest.raises(ConfigError):
        split_cycles(labels, 0, Shares(minimum_blocks=21, alpha=0.05))
