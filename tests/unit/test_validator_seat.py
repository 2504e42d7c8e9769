"""A validator without a seat in the round's epoch measures nothing, and says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import capture_logs

from gemel.errors import ChainUnavailable, Refused
from gemel.exchange.chain_watch import RETRY_S
from gemel.ports import RoundState
from tests.support.parties import VALIDATORS
from tests.support.seats import electorate
from validator.service import Validator

EPOCH = 4


class Station:
    """As much of a validator as it takes to find out whether it has a seat."""

    def __init__(self, seated: bool, error: Exception | None = None) -> None:
        seats = electorate(EPOCH, VALIDATORS if seated else VALIDATORS[1:])
        self.served: list[int] = []
        self.slept_s: list[float] = []
        self._error = error
        self.electorates = SimpleNamespace(of_epoch=lambda epoch: {EPOCH: seats}[epoch])
        self.post = SimpleNamespace(identity=VALIDATORS[0], clock=self)
        self.watch, self.chain = self, None

    async def reached(self, _number: int, _state: RoundState, *, even_if_ended: bool) -> SimpleNamespace:
        assert even_if_ended
        return SimpleNamespace(epoch=EPOCH)

    async def before_verdict(self, _number: int, work) -> None:
        await work

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)

    async def _serve(self, number: int) -> None:
        self.served.append(number)
        if self._error is not None:
            raise self._error

    async def vote_in(self, number: int) -> bool:
        return await Validator._vote_in(cast("Validator", self), number)


async def test_validator_without_a_seat_does_nothing_and_says_so() -> None:
    station = Station(seated=False)
    with capture_logs() as said:
        assert await station.vote_in(7)
    assert station.served == []
    assert [line["why"] for line in said] == [f"we are not elected for epoch {EPOCH}"]


async def test_validator_with_a_seat_serves_the_round() -> None:
    station = Station(seated=True)
    assert await station.vote_in(7)
    assert station.served == [7]


@pytest.mark.parametrize(
    ("error", "done"), [(ChainUnavailable("away"), False), (Refused("digest_mismatch", "another sum"), True)]
)
async def test_what_is_away_is_tried_again_and_what_does_not_hold_is_not(error: Exception, done: bool) -> None:
    station = Station(seated=True, error=error)
    assert await station.vote_in(7) is done
    assert station.slept_s == ([] if done else [RETRY_S])
