"""A chain node that misbehaves as it is told to: a real HTTP server before a real chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

Forward = Callable[[], Awaitable[Any]]
Fault = Callable[[Forward, Sequence[Any]], Awaitable[web.Response]]  # and the parameters of the request


def answer(result: object) -> web.Response:
    """What a node says when it says `result`."""
    return web.json_response({"jsonrpc": "2.0", "id": 0, "result": result})


def spoiled(change: Callable[[Any], Any]) -> Fault:
    """The chain's own result, changed."""

    async def fault(forward: Forward, _: Sequence[Any]) -> web.Response:
        return answer(change((await forward())["result"]))

    return fault


def instead(make: Callable[[], web.Response]) -> Fault:
    """Something else; the chain is not asked."""

    async def fault(_: Forward, __: Sequence[Any]) -> web.Response:
        return make()

    return fault


class FaultyNode:
    """Forwards to the chain, except for methods in `faults` (`*`: all). Over HTTP only: it has no WebSocket."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.faults: dict[str, Fault] = {}
        self.asked: list[str] = []
        self._session: ClientSession
        self._server: TestServer

    @property
    def url(self) -> str:
        """Where it answers."""
        return str(self._server.make_url("/"))

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body["method"])

        async def forward() -> Any:
            async with self._session.post(self.target, json=body) as found:
                return await found.json()

        fault = self.faults.get(body["method"], self.faults.get("*"))
        if fault is not None:
            return await fault(forward, body["params"])
        return web.json_response(await forward())

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FaultyNode]:
        """While inside."""
        application = web.Application()
        application.router.add_post("/", self._handle)
        self._server = TestServer(application)
        async with ClientSession() as self._session, self._server:
            yield self
