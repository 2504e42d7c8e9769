"""The chain benchmark books every transaction where it belongs, and says so when a figure does not hold."""

from __future__ import annotations

import pytest

from benchmarks.chain import claims
from benchmarks.gas import Spent, beside_snapshot, by_call, function_of, never_called
from gemel.adapters.contract_abi import CONTRACTS, load

CALLS = (Spent(1, "RoundRegistry", "openRound", 100), Spent(2, "QualityVotes", "commit", 30))
SNAPSHOT_OF_TWO = {"07 commit, five in a batch": "31", "01 openRound": "99", "whole round": "130"}
ROW = {
    "events": 1000,
    "kills": 20,
    "node_restarts": 5,
    "reorganisations": 12,
    "reorganised_blocks_each": 3,
    "missing": 0,
    "repeated": 0,
    "stale": 0,
}


def found(gas: int = 1_400_000, p99_ms: float = 200.0, **follower: int) -> dict[str, object]:
    return {
        "gas": {"validators": 5, "whole_rounds": [1_000, gas]},
        "deployments": {"event_to_message": [{"confirmations": 0, "p99_ms": p99_ms}]},
        "follower": {"anvil": ROW | follower, "embedded": ROW},
    }


def test_every_part_has_its_claims() -> None:
    lines = claims(found())
    assert len(lines) == 8
    assert all(line["holds"] for line in lines)


@pytest.mark.parametrize(
    "worse",
    [{"gas": 1_500_001}, {"p99_ms": 1_000.5}, {"missing": 1}, {"repeated": 1}, {"stale": 1}],
    ids=str,
)
def test_figure_beyond_its_limit_does_not_hold(worse: dict[str, int]) -> None:
    assert [line["holds"] for line in claims(found(**worse))].count(False) == 1


def test_part_that_was_not_run_claims_nothing() -> None:
    assert claims({}) == []


def test_calls_are_counted_by_contract_and_function() -> None:
    counted = by_call([*CALLS, Spent(3, "QualityVotes", "commit", 50), Spent(4, "QualityVotes", "commit", 31)])
    assert counted["QualityVotes"]["commit"] == {"times": 3, "median": 31, "least": 30, "most": 50}
    assert counted["RoundRegistry"]["openRound"]["times"] == 1


def test_round_stands_beside_the_snapshot_in_its_order() -> None:
    beside = beside_snapshot(CALLS, SNAPSHOT_OF_TWO)
    assert [(line["call"], line["gas"], line["forge"]) for line in beside] == [
        ("openRound", 100, 99),
        ("commit", 30, 31),
    ]


@pytest.mark.parametrize("calls", [CALLS[::-1], CALLS[:1], (*CALLS, CALLS[0])], ids=["order", "fewer", "more"])
def test_round_of_other_calls_than_the_snapshot_is_refused(calls: tuple[Spent, ...]) -> None:
    with pytest.raises(ValueError, match=r"snapshot|zip"):
        beside_snapshot(calls, SNAPSHOT_OF_TWO)


def test_function_is_known_by_its_selector() -> None:
    data = load("Election").functions["closeEpoch"].encode()
    assert function_of("Election", {"to": "0x", "input": "0x" + data.hex()}) == "closeEpoch"
    assert function_of("Election", {"to": None, "input": "0x"}) == "created"


def test_functions_that_write_and_were_not_called_are_named() -> None:
    named = never_called(CALLS)
    assert "RoundRegistry.openRound" not in named
    assert {"RoundRegistry.closeList", "QualityVotes.reveal"} < set(named)
    assert "RoundRegistry.round" not in named  # a view costs nobody anything
    assert {name.partition(".")[0] for name in named} <= set(CONTRACTS)
