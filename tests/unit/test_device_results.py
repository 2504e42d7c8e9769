"""What a decided round says of its devices, and how trust weighs the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eth_abi.abi import encode
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from gemel.exchange import admission
from gemel.exchange.device_results import REPORT_DEVICES, reports_of, results_of, scores_at
from gemel.wire.chunks import Transfer
from gemel.wire.messages import WHOLE, DeviceResult, Entry
from gemel.wire.trust_report import results_digest
from gemel.wire.types import Address
from tests.support.plans import policy_of


def device(number: int) -> Address:
    return f"0x{number:040x}"


def entry(number: int, weight: int = 100, level: int = 1) -> Entry:
    return Entry(device(number), f"{number:064x}", weight, Transfer(f"{number:064x}", 500), level)


ENTRIES = st.lists(
    st.tuples(st.integers(1, 400), st.integers(1, 10**6), st.integers(1, 4), st.booleans()),
    min_size=1,
    max_size=300,
    unique_by=lambda each: each[0],
)


@given(ENTRIES, st.booleans())
def test_everybody_listed_has_one_result_and_shares_are_at_most_the_whole(rows, approved) -> None:
    listed = [entry(number, weight) for number, weight, _, _ in rows]
    included = [entry(number, weight, level) for number, weight, level, counted in rows if counted]
    results = results_of(listed, included, approved=approved)
    assert [each.device for each in results] == sorted(each.device for each in listed)
    counted = {each.device for each in included}
    for each in results:
        good = WHOLE if approved else WHOLE // 2
        assert each.outcome == (good if each.device in counted else 0)
    total = sum(each.share for each in results)
    if approved and included:
        assert WHOLE - len(included) < total <= WHOLE
        weight = {each.device: each.level * each.weight for each in included}
        whole = sum(weight.values())
        assert all(abs(each.share - WHOLE * weight.get(each.device, 0) / whole) < 1 for each in results)
    else:
        assert total == 0


@given(ENTRIES, st.randoms(use_true_random=False))
def test_order_of_the_lists_changes_nothing(rows, random) -> None:
    listed = [entry(number, weight) for number, weight, _, _ in rows]
    included = [entry(number, weight, level) for number, weight, level, counted in rows if counted]
    wanted = results_of(listed, included, approved=True)
    random.shuffle(listed)
    random.shuffle(included)
    assert results_of(listed, included, approved=True) == wanted


@given(st.integers(0, 5 * REPORT_DEVICES))
def test_parts_are_the_whole_and_fit_a_report(count) -> None:
    results = tuple(DeviceResult(device(number), WHOLE, 0) for number in range(count))
    parts = reports_of(results)
    assert sum(parts, ()) == results
    assert all(0 < len(part) <= REPORT_DEVICES for part in parts)


@given(st.lists(st.tuples(st.integers(0, 2**160 - 1), st.integers(0, WHOLE), st.integers(0, WHOLE)), max_size=5))
def test_digest_is_that_of_soliditys_encoding(rows) -> None:
    results = [DeviceResult(device(number), outcome, share) for number, outcome, share in rows]
    structs = [(each.device, each.outcome, each.share) for each in results]
    assert results_digest(results) == keccak(encode(["(address,uint32,uint32)[]"], [structs]))


# --- r_k --------------------------------------------------------------------------------------------


def test_trust_is_the_least_of_policy_and_score() -> None:
    policy = policy_of(levels=4, trust={device(1): 500_000, device(2): 1_000_000})
    scores = {device(1): 1_000_000, device(2): 250_000, device(3): 750_000}
    weighed = admission.weighed([entry(1), entry(2), entry(3)], policy, scores)
    assert [each.level for each in weighed] == [2, 1, 3]
    assert admission.weighed(weighed, policy, scores) == weighed


def test_device_without_a_score_counts_as_the_policy_says() -> None:
    policy = policy_of(levels=4, trust={device(1): 500_000})
    assert [each.level for each in admission.weighed([entry(1), entry(2)], policy, {})] == [2, 4]


class Scores:
    """Knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[Address, ...], int | None]] = []

    async def scores(self, devices: Sequence[Address], block: int | None = None) -> Mapping[Address, int]:
        self.asked.append((tuple(devices), block))
        return dict.fromkeys(devices, 700_000)


async def test_chain_is_asked_only_where_levels_could_show_it_and_as_of_the_rounds_block() -> None:
    scores = Scores()
    one, four = policy_of(), policy_of(levels=4)
    assert await scores_at(scores, one, [device(1)], 17) == {}  # type: ignore[arg-type]  # as much as is asked of it
    assert scores.asked == []
    assert await scores_at(scores, four, [device(1)], 17) == {device(1): 700_000}  # type: ignore[arg-type]
    assert scores.asked == [((device(1),), 17)]


def test_level_on_the_list_does_not_matter() -> None:
    included = [entry(1, level=3), entry(2)]
    claimed = results_of([entry(1, level=4), entry(2, level=4)], included, approved=True)
    assert claimed == results_of([entry(1), entry(2)], included, approved=True)
