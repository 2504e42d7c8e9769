"""HTTP and WebSocket on loopback. The EVM works in one thread of its own, so that the event loop stays free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from gemel.embedded.chain.node import Node
from gemel.embedded.chain.rpc import Rpc, RpcError, parse, refusal, reply
from gemel.embedded.chain.store import Document, Store

REQUEST_LIMIT_BYTES = 4 * 2**20
SUBSCRIPTION_BACKLOG = 256  # heads that a slow subscriber may lie behind before it is let go
SEND_TIMEOUT_S = 10.0
SHUTDOWN_S = 5.0  # what requests in work have before their connections are closed


class Subscribers:
    """Who is told of new heads, each through a queue of its own."""

    def __init__(self) -> None:
        self._queues: dict[str, asyncio.Queue[Document]] = {}
        self._ids = count(1)

    def add(self, queue: asyncio.Queue[Document]) -> str:
        """A new subscription's id."""
        subscription = hex(next(self._ids))
        self._queues[subscription] = queue
        return subscription

    def drop(self, subscription: str) -> bool:
        """End one; False if there is none."""
        return self._queues.pop(subscription, None) is not None

    def drop_all(self, queue: asyncio.Queue[Document]) -> None:
        """End all of one connection."""
        self._queues = {key: each for key, each in self._queues.items() if each is not queue}

    def tell(self, block: Document) -> None:
        """Queue a head for everyone. A full queue stays as it is: its connection is about to be closed."""
        for subscription, queue in self._queues.items():
            if not queue.full():
                parameters = {"subscription": subscription, "result": block}
                queue.put_nowait({"jsonrpc": "2.0", "method": "eth_subscription", "params": parameters})


class Server:
    """JSON-RPC for one chain; see `serving`."""

    def __init__(self, store: Store, chain_id: int, funded: list[bytes]) -> None:
        self._subscribers = Subscribers()
        self._loop = asyncio.get_running_loop()
        self._evm = ThreadPoolExecutor(1, "evm")
        self._rpc = Rpc(Node(store, chain_id, funded), store, self._on_block)
        self._sockets: set[web.WebSocketResponse] = set()

    def _on_block(self, block: Document) -> None:
        """Called in the EVM's thread."""
        self._loop.call_soon_threadsafe(self._subscribers.tell, block)

    async def _answer(self, text: bytes | str, queue: asyncio.Queue[Document] | None = None) -> bytes:
        """The answer to one request or a batch of them; `queue` is the connection that may subscribe."""
        try:
            request = parse(text)
        except RpcError as error:
            return orjson.dumps(refusal(None, error))
        if isinstance(request, list):
            return orjson.dumps([await self._answer_one(each, queue) for each in request])
        return orjson.dumps(await self._answer_one(request, queue))

    async def _answer_one(self, request: Any, queue: asyncio.Queue[Document] | None) -> Document:
        if queue is not None and isinstance(request, dict):
            if request.get("method") == "eth_subscribe":
                return self._subscribe(request, queue)
            if request.get("method") == "eth_unsubscribe":
                return self._unsubscribe(request)
        return await self._loop.run_in_executor(self._evm, self._rpc.answer, request)

    def _subscribe(self, request: Document, queue: asyncio.Queue[Document]) -> Document:
        if request.get("params") != ["newHeads"]:
            error = RpcError(-32602, "only newHeads can be subscribed to; eth_getLogs has the logs")
            return refusal(request.get("id"), error)
        return reply(request.get("id"), self._subscribers.add(queue))

    def _unsubscribe(self, request: Document) -> Document:
        match request.get("params"):
            case [str() as subscription]:
                return reply(request.get("id"), self._subscribers.drop(subscription))
            case _:
                return refusal(request.get("id"), RpcError(-32602, "params is a list of one subscription"))

    # --- transports -----------------------------------------------------------------------------

    async def http(self, request: web.Request) -> web.Response:
        """POST: one request, or a batch."""
        return web.Response(body=await self._answer(await request.read()), content_type="application/json")

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        """GET with an upgrade: requests, and the heads subscribed to."""
        socket = web.WebSocketResponse(max_msg_size=REQUEST_LIMIT_BYTES, heartbeat=30)
        await socket.prepare(request)
        queue: asyncio.Queue[Document] = asyncio.Queue(SUBSCRIPTION_BACKLOG)
        self._sockets.add(socket)
        try:
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(self._send_heads(socket, queue))
                async for message in socket:
                    if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                        await socket.send_str((await self._answer(message.data, queue)).decode())
                sender.cancel()
        except* ConnectionError:
            pass  # it went away while we answered, and nobody else is concerned
        finally:
            self._subscribers.drop_all(queue)
            self._sockets.discard(socket)
        return socket

    async def _send_heads(self, socket: web.WebSocketResponse, queue: asyncio.Queue[Document]) -> None:
        while not socket.closed:
            head = await queue.get()
            if queue.full():
                await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too slow")
                return
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await socket.send_str(orjson.dumps(head).decode())
            except (TimeoutError, ConnectionError):
                await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too slow")
                return

    async def close_sockets(self, _: web.Application) -> None:
        """Let subscribers go."""
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the chain ends")

    async def close(self, _: web.Application) -> None:
        """Wait for the block in work; nobody asks any more."""
        self._evm.shutdown(wait=True)


@asynccontextmanager
async def serving(path: Path, *, port: int, chain_id: int, funded: list[bytes]) -> AsyncIterator[int]:
    """Serve the chain in `path` on 127.0.0.1 while inside; yields the port (a free one for 0)."""
    store = Store(path)
    try:
        server = Server(store, chain_id, funded)
        application = web.Application(client_max_size=REQUEST_LIMIT_BYTES)
        application.router.add_post("/", server.http)
        application.router.add_get("/", server.websocket)
        application.on_shutdown.append(server.close_sockets)
        application.on_cleanup.append(server.close)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            yield int(runner.addresses[0][1])
        finally:
            await runner.cleanup()
    finally:
        store.close()
