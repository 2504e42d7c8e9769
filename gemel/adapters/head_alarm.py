"""Wakes whoever waits for a new block: newHeads over WebSocket, where the endpoint has it.

Only a wake-up. Nothing is believed of what comes, a message that is lost costs one turn of polling, and an endpoint
without WebSocket costs nothing else: this says so once, and polling goes on as it would have.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import TracebackType
from typing import Self

from aiohttp import ClientError, ClientSession

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # a node that restarts, and an endpoint that has no WebSocket
HEARTBEAT_S = 30.0  # a link that is dead without saying so
MESSAGE_LIMIT_BYTES = 2**20
_SUBSCRIBE = {"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]}
_log = logging.getLogger(__name__)


def websocket_url(rpc_url: str) -> str:
    """The same endpoint over WebSocket: the embedded chain and anvil serve both on one port. Empty if no URL."""
    scheme, found, rest = rpc_url.partition("://")
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest}" if found and scheme in ("http", "https") else ""


class HeadAlarm:
    """`async with HeadAlarm(url) as alarm: await alarm.wait(poll_s)`; with an empty url it is a plain pause."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._rung = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._url:
            self._listening = asyncio.create_task(self._listen(), name="new heads")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def wait(self, timeout_s: float) -> None:
        """Until a head was announced since the last wait, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        self._rung.clear()

    async def _listen(self) -> None:
        pause, said = FIRST_PAUSE_S, False
        while True:
            try:
                async with (
                    ClientSession() as session,
                    session.ws_connect(self._url, heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_LIMIT_BYTES) as socket,
                ):
                    await socket.send_json(_SUBSCRIBE)
                    answer = await socket.receive_json(timeout=HEARTBEAT_S)
                    if not isinstance(answer, dict) or "result" not in answer:
                        raise ValueError(f"newHeads is refused: {str(answer)[:200]}")  # noqa: TRY301  one way out
                    pause, said = FIRST_PAUSE_S, False
                    self._rung.set()  # what came while there was no link
                    async for _ in socket:
                        self._rung.set()
                why = "the link ended"
            except (ClientError, OSError, TimeoutError, ValueError, TypeError) as error:
                why = f"{error or type(error).__name__}"  # TypeError: a message that is no text
            if not said:
                _log.info("no new heads from %s, which is polled: %s", self._url, why)
                said = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
