"""When to try the broker again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.adapters.reconnect import BACKOFF, STABLE_S, Failure, LinkState, Reconnect, classify
from gemel.errors import BusRefused, BusUnavailable


def delays(reconnect: Reconnect, failure: Failure, number: int, *, uniform: float = 1.0) -> list[float]:
    waits = []
    for _ in range(number):
        waits.append(reconnect.failed(failure, lasted_s=0, uniform=uniform))
        reconnect.retry()
    return waits


def test_network_is_tried_soon_and_then_ever_less_often_up_to_the_ceiling() -> None:
    waits = delays(Reconnect(), Failure.NETWORK, 12)
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits[-1] == BACKOFF[Failure.NETWORK].ceiling_s


def test_refusal_waits_long_from_the_first_time() -> None:
    assert delays(Reconnect(), Failure.REFUSED, 1, uniform=0) == [15.0]


def test_jitter_takes_at_most_half() -> None:
    assert delays(Reconnect(), Failure.NETWORK, 1, uniform=0) == [0.1]


@given(st.sampled_from(Failure), st.integers(0, 10_000), st.floats(0, 1))
def test_every_delay_is_positive_and_bounded(failure: Failure, attempt: int, uniform: float) -> None:
    assert 0 < BACKOFF[failure].delay_s(attempt, uniform) <= BACKOFF[failure].ceiling_s


@pytest.mark.parametrize(("lasted_s", "expected"), [(STABLE_S, 0.2), (STABLE_S - 1, 1.6)])
def test_only_a_link_that_stood_starts_the_count_anew(lasted_s: float, expected: float) -> None:
    reconnect = Reconnect()
    delays(reconnect, Failure.NETWORK, 3)
    reconnect.up()
    assert reconnect.failed(Failure.NETWORK, lasted_s=lasted_s, uniform=1.0) == expected


def test_another_class_of_failure_starts_the_count_anew() -> None:
    reconnect = Reconnect()
    delays(reconnect, Failure.NETWORK, 5)
    assert delays(reconnect, Failure.REFUSED, 2) == [30.0, 60.0]
    assert delays(reconnect, Failure.NETWORK, 1) == [0.2]


def test_illegal_steps_raise_and_change_nothing() -> None:
    reconnect = Reconnect()
    with pytest.raises(ValueError, match="connecting cannot become connecting"):
        reconnect.retry()
    reconnect.up()
    with pytest.raises(ValueError, match="up cannot become up"):
        reconnect.up()
    assert reconnect.state is LinkState.UP
    reconnect.failed(Failure.NETWORK, lasted_s=0, uniform=0)
    with pytest.raises(ValueError, match="waiting cannot become waiting"):
        reconnect.failed(Failure.NETWORK, lasted_s=0, uniform=0)
    assert reconnect.state is LinkState.WAITING


@pytest.mark.parametrize(
    ("code", "failure"),
    [(0x87, Failure.REFUSED), (0x8E, Failure.REFUSED), (0x89, Failure.NETWORK), (0x82, Failure.PROTOCOL)],
)
def test_reason_codes_have_their_class(code: int, failure: Failure) -> None:
    assert classify(BusRefused("connect as", "x", code, "")) is failure


def test_lost_link_is_the_networks_failure() -> None:
    assert classify(BusUnavailable("gone")) is Failure.NETWORK
