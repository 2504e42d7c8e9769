"""What the report reads of a kept state whose chain, signatures and frames are real."""

from __future__ import annotations

import asyncio

import pytest

from gemel.demo.report.evidence import Gate, Kept, load
from tests.support.kept_state import build


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    directory = tmp_path_factory.mktemp("kept")
    asyncio.run(build(directory))
    return load(directory, directory / "chain-export.json", task="condition")


def test_every_round_is_told_as_the_contract_decided_it(kept: Kept) -> None:
    chain = [each.chain for each in kept.rounds]
    assert [each and each.state for each in chain] == ["deployed", "deployed", "rejected", "rolled_back", "aborted"]
    assert [each and each.deployment for each in chain] == [1, 2, None, 3, None]
    m0, first, refused, last, aborted = chain
    assert all(each is not None for each in chain)
    assert (m0.parent, first.parent) == (None, m0.model)
    assert refused.parent == last.parent == first.model
    assert (refused.reason, refused.accuracy, refused.baseline) == ("no quorum", 0.41, 0.55)
    assert aborted.reason == "no sealing context"
    assert [vote.approved for vote in refused.votes] == [False] * 3
    assert kept.gate == Gate(threshold=0.3, max_regression=0.02, minimum_owners=3, quorum=0.666666)


def test_every_transaction_has_its_function_block_and_gas(kept: Kept) -> None:
    first = kept.rounds[1].chain
    assert first
    functions = ["openRound", "closeList", "proposeSum", "attestSums", "recordOpening"]
    functions += ["proposeCandidate", "commit", "reveal", "finalise", "recordDeployed"]
    assert [each.function for each in first.transactions] == functions
    blocks = [each.block for each in first.transactions]
    assert blocks == sorted(blocks)
    assert all(each.gas > 21_000 for each in first.transactions)
    assert first.deciding == first.transactions[-2].hash
