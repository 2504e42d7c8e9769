"""Worker processes: results, errors, death."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from gemel.errors import Malformed
from gemel.host.workers import WorkerDied, Workers


def divide(a: int, *, by: int) -> float:
    return a / by


def refuse() -> None:
    raise Malformed("model", "a tensor is missing")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def test_results_and_exceptions_come_back_from_another_process() -> None:
    async with Workers() as workers:
        assert await workers.run(divide, 6, by=4) == 1.5
        assert await workers.run(os.getpid) != os.getpid()
        assert await workers.run(os.getenv, "OMP_NUM_THREADS") == "1"
        with pytest.raises(ZeroDivisionError):
            await workers.run(divide, 1, by=0)


async def test_typed_error_comes_back_as_itself_and_the_worker_lives_on() -> None:
    async with Workers() as workers:
        worker = await workers.run(os.getpid)
        with pytest.raises(Malformed, match="malformed model: a tensor is missing") as caught:
            await workers.run(refuse)
        assert (caught.value.what, caught.value.detail) == ("model", "a tensor is missing")
        assert await workers.run(os.getpid) == worker


async def test_death_loses_the_calls_that_ran_and_the_next_one_works() -> None:
    async with Workers() as workers:
        first, second = await asyncio.gather(workers.run(die), workers.run(divide, 1, by=1), return_exceptions=True)
        assert isinstance(first, WorkerDied)
        assert str(first) == "the worker process died during die"
        assert second == 1.0 or isinstance(second, WorkerDied)
        assert await workers.run(divide, 1, by=2) == 0.5


async def test_no_process_is_started_before_it_is_needed() -> None:
    async with Workers() as workers:
        assert workers._pool is None


async def test_worker_stands_back_as_far_as_it_is_told() -> None:
    async with Workers(niceness=7) as workers:
        assert await workers.run(os.nice, 0) == os.nice(0) + 7
