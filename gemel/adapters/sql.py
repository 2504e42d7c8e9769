"""What a registry asks of a relational database, and the commit that its callers share.

The SQL is written once, for SQLite and PostgreSQL alike: parameters are ?1, ?2, …, upserts are ON CONFLICT, and in
the schema {serial} and {clustered} stand for what the two write differently.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

MAX_BATCH = 250

T = TypeVar("T")
Value = str | int | float | None
Row = tuple[Value, ...]


class Write(NamedTuple):
    """A statement, run once for each row of parameters."""

    statement: str
    rows: Sequence[Row]


class Database(Protocol):
    """An open database. Both methods raise StoreUnavailable."""

    async def fetch(self, statement: str, *values: Value) -> Sequence[Sequence[Any]]:
        """The rows of a query, from what is committed."""
        ...

    async def write(self, writes: Sequence[Write]) -> None:
        """All of it in one transaction, durable when this returns; nothing of it where it raises."""
        ...


class Batch:
    """What one transaction will write, and who wants to know how it ended."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Row]] = {}
        self._ended: list[Callable[[bool], None]] = []

    def add(self, statement: str, *values: Value) -> None:
        """Statements run in the order in which each was first added; so rows of two tables must not need another."""
        self._rows.setdefault(statement, []).append(values)

    def rows(self, statement: str) -> list[Row]:
        """The statement's rows so far, to be added to: for many of them at once."""
        return self._rows.setdefault(statement, [])

    def when_ended(self, tell: Callable[[bool], None]) -> None:
        """`tell(committed)` is called after the transaction."""
        self._ended.append(tell)

    @property
    def writes(self) -> Sequence[Write]:
        """Everything that was added."""
        return [Write(statement, rows) for statement, rows in self._rows.items() if rows]

    def end(self, *, committed: bool) -> None:
        """Tell those who want to know."""
        for tell in self._ended:
            tell(committed)


Plan = Callable[[Batch], T]


class Commit(NamedTuple):
    """What a commit cost."""

    changes: int  # callers that shared it
    rows: int  # written, the same row again included
    waited_s: float  # from the first caller's call to the end
    took_s: float  # the transaction alone


class _Waiting(NamedTuple):
    plan: Plan[Any]
    answer: asyncio.Future[Any]
    alone: bool
    since_s: float


class Commits:
    """Changes that come together share one commit, because a commit costs milliseconds and a row microseconds.

    A change is a plan: a function that adds rows to the batch and returns the caller's answer, or raises (and then
    has added nothing). Plans run in the order of the calls, when everything before them has been committed or stands
    in the same batch.
    """

    def __init__(self, database: Database, tell: Callable[[Commit], None] | None = None) -> None:
        """`tell` hears of every commit."""
        self._database, self._tell = database, tell
        self._waiting: list[_Waiting] = []
        self._at_work_since_s: float | None = None
        self._worker: asyncio.Task[None] | None = None

    async def change(self, plan: Plan[T], *, alone: bool = False) -> T:
        """What `plan` returned, once it is committed. `alone`: in a transaction of its own.

        Raises what the plan raised, or StoreUnavailable. A caller that is cancelled may or may not be stored.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(plan, answer, alone, time.monotonic()))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="commits")
        return await answer

    @property
    def waiting_s(self) -> float:
        """For how long the change that has waited longest has done so; 0 where none waits."""
        since_s = self._at_work_since_s or (self._waiting[0].since_s if self._waiting else None)
        return 0.0 if since_s is None else time.monotonic() - since_s

    async def drain(self) -> None:
        """Wait until nothing is under way."""
        if self._worker is not None:
            await self._worker

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._commit(self._next())
        finally:
            self._worker = None

    def _next(self) -> list[_Waiting]:
        """The longest run from the front that may share a commit."""
        size = 1
        if not self._waiting[0].alone:
            while size < min(len(self._waiting), MAX_BATCH) and not self._waiting[size].alone:
                size += 1
        taken, self._waiting = self._waiting[:size], self._waiting[size:]
        return taken

    async def _commit(self, changes: Sequence[_Waiting]) -> None:
        batch, results = Batch(), list[tuple[asyncio.Future[Any], Any]]()
        for change in changes:
            try:
                results.append((change.answer, change.plan(batch)))
            except Exception as error:  # noqa: BLE001  whatever it is, it is that caller's
                if not change.answer.done():
                    change.answer.set_exception(error)
        try:
            if batch.writes:
                await self._write(batch.writes, len(results), changes[0].since_s)
        except Exception as error:  # noqa: BLE001  nobody who waits may be left behind
            batch.end(committed=False)
            for answer, _ in results:
                if not answer.done():
                    answer.set_exception(error)
            return
        batch.end(committed=True)
        for answer, result in results:
            if not answer.done():
                answer.set_result(result)

    async def _write(self, writes: Sequence[Write], changes: int, since_s: float) -> None:
        begun_s, self._at_work_since_s = time.monotonic(), since_s
        try:
            await self._database.write(writes)
        finally:
            self._at_work_since_s = None
        if self._tell is not None:
            now_s = time.monotonic()
            rows = sum(len(write.rows) for write in writes)
            self._tell(Commit(changes, rows, now_s - since_s, now_s - begun_s))
