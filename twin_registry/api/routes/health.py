"""Whether the registry can answer at all."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from twin_registry.api.answers import Health, to_json
from twin_registry.api.openapi import get
from twin_registry.api.visits import desk_of

router = APIRouter()


@get(router, "/healthz", Health)
async def health(request: Request) -> Response:
    """Whether the store answers."""
    await desk_of(request).accesses.access_roots(after=0, limit=1)
    return to_json(Health("ok"))
