"""What several integration tests look at."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.witnessed_round import WitnessedRound, hold_round


@pytest.fixture(scope="session")
def witnessed_round(tmp_path_factory: pytest.TempPathFactory) -> WitnessedRound:
    """A whole round of real services, recorded; held when the first test asks for it."""
    return asyncio.run(hold_round(tmp_path_factory.mktemp("witnessed-round")))
