"""Errors cross from worker processes to their callers as what they are."""

from __future__ import annotations

import pickle

import pytest

from gemel.errors import (
    BusRefused,
    ChainReverted,
    ConfigError,
    GemelError,
    IllegalEvent,
    Malformed,
    Refused,
    StoreUnavailable,
)
from gemel.host.workers import WorkerDied

ERRORS = [
    GemelError("something"),
    ConfigError("file.toml", "key", "a number"),
    Malformed("model", "three tensors"),
    Refused("stale", "round 3"),
    StoreUnavailable("no disk"),
    BusRefused("publish", "a/b", 0x87, "not authorized"),
    ChainReverted("finalise", "NotOpen", {"round": 3}),
    IllegalEvent("open", "Tick"),
    WorkerDied("judge"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_is_the_same_after_it_was_pickled(error: GemelError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
