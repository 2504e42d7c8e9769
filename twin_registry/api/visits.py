"""Who asks, at the desk that the answers come from.

A route with a parameter of type `Asking` is for those whose token is known; their question stands in the log of reads
before it runs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from gemel.ports import AccessStore, AssetStore, Clock
from twin_registry.library import Library
from twin_registry.live import Live
from twin_registry.tokens import ANYBODY, Reader, Tokens

MAX_LOGGED: Final = 1024  # characters of a question
READER_IN_SCOPE: Final = "gemel.reader"  # set by whoever asks from within this process, for somebody it knows


@dataclass(frozen=True, slots=True)
class Desk:
    """What the answers come from."""

    library: Library
    assets: AssetStore
    accesses: AccessStore
    clock: Clock
    tokens: Tokens | None
    live: Live
    broker: str
    exporting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody who may ask, at the desk."""

    reader: Reader
    desk: Desk

    def may_read(self, site: str, asset: str) -> bool:
        """Whether the token grants that machine."""
        return self.reader.may("read", site, asset)

    def require_read(self, site: str, asset: str) -> None:
        """403 where the token does not grant that machine."""
        if not self.may_read(site, asset):
            raise HTTPException(403, f"the token does not grant read:{site}/{asset}")

    def require_audit(self) -> None:
        """403 where the token does not grant the log of reads."""
        if not self.reader.may_audit:
            raise HTTPException(403, "the token does not grant audit")


def desk_of(request: Request) -> Desk:
    """The application's desk, for questions that need no token."""
    desk: Desk = request.app.state.desk
    return desk


async def _admitted(request: Request) -> Visit:
    """Who asks, once his question stands in the log."""
    desk = desk_of(request)
    reader: Reader | None = request.scope.get(READER_IN_SCOPE)
    if reader is None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if desk.tokens is None:
            reader = ANYBODY
        elif scheme.lower() == "bearer":
            reader = desk.tokens.reader(token)
    if reader is None:
        raise HTTPException(401, "a token that is known: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})
    query = f"?{request.url.query}" if request.url.query else ""
    what = f"{request.method} {request.url.path}{query}"[:MAX_LOGGED]
    await desk.accesses.log_access(desk.clock.now_ms(), reader.name, what)
    return Visit(reader, desk)


Asking = Annotated[Visit, Depends(_admitted)]
