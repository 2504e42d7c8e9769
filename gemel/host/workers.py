"""CPU work in processes of its own: training, sealing and explaining hold the GIL and would stop the event loop."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from gemel.errors import GemelError

P = ParamSpec("P")
T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerDied(GemelError):
    """A worker process ended in the middle of a call (killed, out of memory). The next call gets a new one."""

    def __init__(self, work: str) -> None:
        super().__init__(f"the worker process died during {work}")
        self.work = work


class Workers:
    """A few processes that run functions. `async with Workers() as workers: await workers.run(fn, *args)`.

    Functions, arguments and results travel pickled between these processes and nowhere else; a function must be at
    module level. Leaving the block kills what still runs; so does the death of this process.
    """

    def __init__(self, count: int = 1, *, threads: int = 1, niceness: int = 0) -> None:
        """`threads`: for OpenMP, BLAS and torch in each process. `niceness`: how far they stand back for others."""
        self._count, self._threads, self._niceness = count, threads, niceness
        self._pool: ProcessPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            await asyncio.to_thread(_kill, self._pool)
            self._pool = None

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `fn(*args, **kwargs)` returns or raises, from a worker. Raises WorkerDied if that is lost.

        A call that is cancelled while it runs is not interrupted; its result is thrown away.
        """
        pool = self._pool = self._pool or self._start()
        try:
            return await asyncio.wrap_future(pool.submit(fn, *args, **kwargs))
        except BrokenProcessPool as error:
            if self._pool is pool:  # the first of several lost calls makes room for a new pool
                self._pool = None
                pool.shutdown(wait=False)
            raise WorkerDied(getattr(fn, "__qualname__", repr(fn))) from error

    def _start(self) -> ProcessPoolExecutor:
        # spawn: a fork of a process with threads and an event loop inherits locks that nobody will release
        return ProcessPoolExecutor(
            self._count, multiprocessing.get_context("spawn"), _prepare, (os.getpid(), self._threads, self._niceness)
        )


def _prepare(parent: int, threads: int, niceness: int) -> None:
    """In a new worker: die with the parent, leave Ctrl-C to it, and keep to our share of the cores."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(niceness)
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    if "torch" in sys.modules:  # then it has read the variables already
        sys.modules["torch"].set_num_threads(threads)


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):  # noqa: SLF001  public as kill_workers() from 3.14 on
        process.kill()
    pool.shutdown(wait=True, cancel_futures=True)
