"""Levels from trust, explanation and samples: the rule, and the share that nobody exceeds."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.exchange import admission
from gemel.learning.weighting import Contributor, weigh
from gemel.wire.chunks import Transfer
from gemel.wire.messages import WHOLE, Entry
from tests.support.plans import policy_of

PPM = st.integers(0, WHOLE)
CONTRIBUTORS = st.lists(
    st.tuples(st.integers(1, 2**20), st.one_of(PPM, st.just(WHOLE)), st.one_of(PPM, st.just(WHOLE))),
    min_size=1,
    max_size=30,
).map(lambda rows: [Contributor(device(number), *row) for number, row in enumerate(rows)])


def device(number: int) -> str:
    return f"0x{number:040x}"


def equal(samples: list[int], trust: list[int] | None = None) -> list[Contributor]:
    trusted = trust or [WHOLE] * len(samples)
    return [Contributor(device(k), n, r, WHOLE) for k, (n, r) in enumerate(zip(samples, trusted, strict=True))]


def shares(contributors: list[Contributor], levels: dict[str, int]) -> dict[str, float]:
    weights = {c.device: levels[c.device] * c.samples for c in contributors if c.device in levels}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("trust", "explanation", "levels", "level"),
    [
        (WHOLE, WHOLE, 4, 4),
        (WHOLE // 2, WHOLE, 4, 2),
        (WHOLE // 2, WHOLE // 2, 4, 1),
        (WHOLE, 625_000, 4, 3),  # 2.5 is rounded up
        (WHOLE, 624_999, 4, 2),
        (124_999, WHOLE, 4, 0),
        (WHOLE, 500_000, 1, 1),  # one level: in, or out
        (WHOLE, 499_999, 1, 0),
        (0, WHOLE, 4, 0),
    ],
)
def test_level_is_the_rounded_product_of_levels_trust_and_explanation(trust, explanation, levels, level) -> None:
    given_ = weigh([Contributor(device(1), 10, trust, explanation)], levels=levels, max_share=WHOLE)
    assert given_.get(device(1), 0) == level


def test_heavy_contributor_steps_down_until_its_share_holds() -> None:
    contributors = equal([600, 100, 100, 100])
    levels = weigh(contributors, levels=4, max_share=400_000)
    assert levels == {device(0): 1} | dict.fromkeys(map(device, (1, 2, 3)), 4)
    assert shares(contributors, levels)[device(0)] == pytest.approx(600 / 1800)


def test_contributor_that_exceeds_the_share_at_level_one_is_left_out() -> None:
    levels = weigh(equal([6000, 100, 100, 100]), levels=4, max_share=400_000)
    assert levels == dict.fromkeys(map(device, (1, 2, 3)), 4)


def test_nobody_counts_where_the_share_cannot_be_kept() -> None:
    assert weigh(equal([100, 100, 100]), levels=4, max_share=333_000) == {}
    assert weigh([], levels=4, max_share=WHOLE) == {}


@given(CONTRIBUTORS, st.integers(1, 4), st.integers(1, WHOLE))
def test_no_contributor_is_above_the_share_or_above_its_score(contributors, levels, max_share) -> None:
    got = weigh(contributors, levels=levels, max_share=max_share)
    total = sum(got[c.device] * c.samples for c in contributors if c.device in got)
    for c in contributors:
        level = got.get(c.device, 0)
        assert level * c.samples * WHOLE <= max_share * total
        assert abs(level - levels * c.trust * c.explanation / WHOLE**2) <= 0.5 or level < levels
        assert 2 * level * WHOLE**2 <= 2 * levels * c.trust * c.explanation + WHOLE**2


@given(CONTRIBUTORS, st.integers(1, 4), st.integers(1, WHOLE), st.randoms(use_true_random=False))
def test_those_who_count_get_the_same_levels_alone_and_in_any_order(
    contributors: list[Contributor], levels: int, max_share: int, random: Random
) -> None:
    got = weigh(contributors, levels=levels, max_share=max_share)
    again = [c for c in contributors if c.device in got]
    random.shuffle(again)
    assert weigh(again, levels=levels, max_share=max_share) == got


@given(CONTRIBUTORS, st.integers(1, 4), st.integers(1, WHOLE))
def test_ceiling_is_the_highest_that_holds(contributors, levels, max_share) -> None:
    """Against the rule as it reads, ceiling by ceiling."""
    wanted = weigh(contributors, levels=levels, max_share=WHOLE)
    holding: dict[str, int] = {}
    steps = {n * c.samples for c in contributors for n in range(1, wanted.get(c.device, 0) + 1)}
    for ceiling in sorted(steps, reverse=True):
        under = {c.device: min(wanted.get(c.device, 0), ceiling // c.samples) for c in contributors}
        total = sum(under[c.device] * c.samples for c in contributors)
        if ceiling * WHOLE <= max_share * total:
            holding = {name: level for name, level in under.items() if level}
            break
    assert weigh(contributors, levels=levels, max_share=max_share) == holding


@given(CONTRIBUTORS, st.integers(1, 4))
def test_less_trust_never_gives_more_weight(contributors, levels) -> None:
    doubted = [c._replace(trust=c.trust // 2) for c in contributors]
    full = weigh(contributors, levels=levels, max_share=WHOLE)
    assert all(level <= full[name] for name, level in weigh(doubted, levels=levels, max_share=WHOLE).items())


# --- the entries of a round ---------------------------------------------------------------------------


def entries() -> tuple[Entry, ...]:
    return tuple(Entry(device(k), f"{k:064x}", 100, Transfer(f"{k:064x}", 500)) for k in (3, 1, 2))


def test_entries_are_weighed_by_the_policys_trust_and_come_by_device() -> None:
    policy = policy_of(levels=4, trust={device(1): 0, device(2): 250_000})
    weighed = admission.weighed(entries(), policy, {})
    assert [(entry.device, entry.level) for entry in weighed] == [(device(2), 1), (device(3), 4)]
    assert admission.weighed(weighed, policy, {}) == weighed
    assert admission.weight_of(weighed) == 500
    assert set(map(admission.listed, weighed)) <= set(entries())


def test_without_levels_or_trust_everybody_counts_once() -> None:
    weighed = admission.weighed(entries(), policy_of(), {})
    assert weighed == tuple(sorted(entries(), key=lambda entry: entry.device))


def test_another_level_makes_another_root() -> None:
    one = admission.root_of(admission.weighed(entries(), policy_of(levels=4), {}))
    other = admission.root_of(admission.weighed(entries(), policy_of(levels=4, trust={device(1): 500_000}), {}))
    assert len({one, other, admission.root_of(entries())}) == 3
