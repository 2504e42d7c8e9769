"""The registry's HTTP API: JSON, read only, on the loopback.

    GET /twins                                          every twin: site, asset, version, received_ms
    GET /twins/{site}/{asset}                           the twin as it stands: received_ms, twin
    GET /twins/{site}/{asset}/history?from=&to=&limit=  its revisions received in [from, to) ms, oldest first
    GET /agents                                         every agent: availability, status
    GET /healthz                                        200 while the store answers, 503 otherwise

A wrong parameter is answered with 400, an unknown twin or path with 404: {"error": "…"}.
"""

from __future__ import annotations

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from gemel.errors import StoreUnavailable
from gemel.ports import TwinStore

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
_LATEST_MS = 2**53

STORE: web.AppKey[TwinStore] = web.AppKey("store", TwinStore)


def make_app(store: TwinStore) -> web.Application:
    """The application; run it with aiohttp's runner."""
    app = web.Application(middlewares=[_errors_as_json])
    app[STORE] = store
    app.add_routes(
        [
            web.get("/twins", _twins),
            web.get("/twins/{site}/{asset}", _twin),
            web.get("/twins/{site}/{asset}/history", _history),
            web.get("/agents", _agents),
            web.get("/healthz", _health),
        ]
    )
    return app


async def _twins(request: web.Request) -> web.Response:
    return _json({"twins": await request.app[STORE].twins()})


async def _twin(request: web.Request) -> web.Response:
    revision = await request.app[STORE].twin(request.match_info["site"], request.match_info["asset"])
    return _error(404, "there is no such twin") if revision is None else _json(revision)


async def _history(request: web.Request) -> web.Response:
    site, asset = request.match_info["site"], request.match_info["asset"]
    try:
        from_ms = _number(request, "from", 0, 0, _LATEST_MS)
        to_ms = _number(request, "to", _LATEST_MS, 0, _LATEST_MS)
        limit = _number(request, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
    except ValueError as error:
        return _error(400, str(error))
    revisions = await request.app[STORE].history(site, asset, from_ms=from_ms, to_ms=to_ms, limit=limit)
    if not revisions and await request.app[STORE].twin(site, asset) is None:
        return _error(404, "there is no such twin")
    return _json({"revisions": revisions})


async def _agents(request: web.Request) -> web.Response:
    return _json({"agents": await request.app[STORE].agents()})


async def _health(request: web.Request) -> web.Response:
    await request.app[STORE].twins()
    return _json({"status": "ok"})


def _number(request: web.Request, key: str, default: int, low: int, high: int) -> int:
    text = request.query.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and low <= int(text) <= high):
        raise ValueError(f"{key}: a whole number from {low} to {high}")
    return int(text)


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _error(status: int, text: str) -> web.Response:
    return _json({"error": text}, status)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except StoreUnavailable as error:
        return _error(503, str(error))
    except web.HTTPError as error:  # no such path or method
        return _error(error.status, error.reason)
